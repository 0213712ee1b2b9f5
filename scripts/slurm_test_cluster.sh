#!/usr/bin/env bash
# A real Slurm of one node with accounting, for tests: slurm_test_cluster.sh start|stop|status DIR
#
# Everything lies below DIR, on loopback and free ports; nothing in /etc is read or written. After `start`,
# SLURM_CONF=DIR/slurm.conf makes Slurm's commands talk to it, and `stop` ends its processes by their pids. Two
# partitions share the node: `low` (the default) and `high`, whose jobs put those of `low` back into the queue; the
# user may give the account `lab`.
# Debian's packages: slurmctld slurmd slurm-client slurmdbd slurm-wlm-mysql-plugin mariadb-server-core munge.
# Exit codes: 0; 1 where a daemon does not come up, or `status` finds one gone; 2 for wrong input; 3 where it cannot
# run here (a program is missing, not root, or no device can be made).
set -euo pipefail

PATH=$PATH:/usr/sbin:/sbin
PROGRAMS=(munged mariadbd slurmdbd slurmctld slurmd sbatch squeue scontrol sacct)
DAEMONS=(slurmd slurmctld slurmdbd mariadbd munged)  # in the order in which they end
ARRAY=5  # jobs of an array at most: small, so that tests meet it
CPUS=4  # jobs of one CPU at once, whatever the machine has

usage() { echo "error: give start, stop or status, and a folder, as in: $0 start /tmp/slurm" >&2; exit 2; }
die() { echo "error: $1" >&2; exit "${2:-1}"; }

[[ $# == 2 && $1 =~ ^(start|stop|status)$ ]] || usage
if [[ $1 == start ]]; then mkdir -p "$2"; fi
[[ -d $2 ]] || die "$2 is no folder: give the one of start"
DIR=$(cd "$2" && pwd)
NODE=$(hostname -s)

pid_of() { cat "$DIR/$1.pid" 2>/dev/null || true; }

# A pid file may be an old one: its process is ours only if its environment names this folder.
runs() {
  local pid; pid=$(pid_of "$1")
  [[ -n $pid ]] && tr '\0' '\n' 2>/dev/null < "/proc/$pid/environ" | grep -qxF "LORA2_SLURM_TEST=$DIR"
}

wait_for() {  # wait_for WHAT SECONDS COMMAND...
  local what=$1 until=$((SECONDS + $2)); shift 2
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < until)) || die "$what does not answer: see $DIR/log"
    sleep 0.2
  done
}

free_ports() {
  python3 -c '
import socket
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
print(*(one.getsockname()[1] for one in held))'
}

write_configs() {
  local ctld slurmd dbd memory
  read -r ctld slurmd dbd < <(free_ports)
  memory=$(awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo)
  cat > "$DIR/slurmdbd.conf" <<CONF
AuthType=auth/munge
AuthInfo=socket=$DIR/munge.socket
DbdHost=$NODE
DbdAddr=127.0.0.1
DbdPort=$dbd
CommunicationParameters=NoInAddrAny
SlurmUser=root
PidFile=$DIR/slurmdbd.pid
LogFile=$DIR/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm
CONF
  chmod 600 "$DIR/slurmdbd.conf"
  cat > "$DIR/slurm.conf" <<CONF
ClusterName=lora2test
SlurmctldHost=$NODE(127.0.0.1)
SlurmctldPort=$ctld
SlurmdPort=$slurmd
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# A requeued job is held back for as long as its old credential is good.
AuthInfo=socket=$DIR/munge.socket,cred_expire=6
PlugStackConfig=$DIR/plugstack.conf
StateSaveLocation=$DIR/state
SlurmdSpoolDir=$DIR/spool
SlurmctldPidFile=$DIR/slurmctld.pid
SlurmdPidFile=$DIR/slurmd.pid
SlurmctldLogFile=$DIR/log/slurmctld.log
SlurmdLogFile=$DIR/log/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=100
GresTypes=gpu,shard
MaxArraySize=$ARRAY
JobRequeue=1
KillWait=5
MinJobAge=60
SchedulerParameters=bf_interval=1,sched_interval=1,sched_min_interval=100000,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$dbd
AccountingStoragePass=$DIR/munge.socket
NodeName=$NODE NodeAddr=127.0.0.1 CPUs=$CPUS RealMemory=$memory Gres=gpu:2,shard:8
PartitionName=low Nodes=$NODE Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=5 MaxTime=60 DefaultTime=10
PartitionName=high Nodes=$NODE PriorityTier=9 PreemptMode=OFF MaxTime=60 DefaultTime=10
CONF
  : > "$DIR/plugstack.conf"
  printf 'Name=gpu File=%s\n' "$DIR/gpu0" "$DIR/gpu1" > "$DIR/gres.conf"
  echo "Name=shard Count=8" >> "$DIR/gres.conf"
  # null and zero stand in for GPUs
  mknod "$DIR/gpu0" c 1 3 && mknod "$DIR/gpu1" c 1 5 || die "no device can be made here: leave the container, or give it MKNOD" 3
}

make_database() {
  local sql=/usr/share/mysql
  mkdir "$DIR/db"
  { printf '%s;\n' "create database mysql" "create database slurm" "use mysql"
    cat "$sql/mysql_system_tables.sql" "$sql/mysql_performance_tables.sql" "$sql/mysql_system_tables_data.sql"
  } | mariadbd --no-defaults --bootstrap --user=root --datadir="$DIR/db" --skip-log-bin >"$DIR/log/bootstrap.log" 2>&1 ||
    die "the database cannot be made: see $DIR/log/bootstrap.log"
}

start() {
  local program
  for program in "${PROGRAMS[@]}"; do
    command -v "$program" >/dev/null || die "$program is not installed: apt-get install slurmctld slurmd slurm-client \
slurmdbd slurm-wlm-mysql-plugin mariadb-server-core munge" 3
  done
  [[ $(id -u) == 0 ]] || die "only root can start slurmd for tests: run this as root" 3
  [[ -z $(ls -A "$DIR") ]] || die "$DIR is not empty: give a new folder"
  chmod 755 "$DIR"
  mkdir "$DIR"/{log,state,spool}
  trap 'stop >/dev/null 2>&1' ERR EXIT
  export LORA2_SLURM_TEST=$DIR SLURM_CONF=$DIR/slurm.conf MYSQL_UNIX_PORT=$DIR/mariadb.socket
  write_configs

  dd if=/dev/urandom of="$DIR/munge.key" bs=128 count=1 status=none
  chmod 400 "$DIR/munge.key"
  munged --force --key-file="$DIR/munge.key" --socket="$DIR/munge.socket" --pid-file="$DIR/munged.pid" \
    --log-file="$DIR/log/munged.log" --seed-file="$DIR/munge.seed" 2>>"$DIR/log/munged.log"

  make_database
  mariadbd --no-defaults --user=root --datadir="$DIR/db" --socket="$MYSQL_UNIX_PORT" --pid-file="$DIR/mariadbd.pid" \
    --skip-networking --skip-grant-tables --innodb-buffer-pool-size=32M --innodb-lock-wait-timeout=900 \
    </dev/null >"$DIR/log/mariadbd.log" 2>&1 &
  wait_for mariadbd 60 test -S "$MYSQL_UNIX_PORT"
  slurmdbd
  wait_for slurmdbd 60 sacctmgr -n list cluster
  slurmctld -c
  wait_for slurmctld 60 scontrol ping
  wait_for "slurmctld's registration" 60 bash -c "sacctmgr -n list cluster format=cluster%20 | grep -q lora2test"
  sacctmgr -i add account lab >>"$DIR/log/sacctmgr.log"
  sacctmgr -i add user "$(id -un)" account=lab >>"$DIR/log/sacctmgr.log"
  slurmd -N "$NODE"
  wait_for slurmd 60 bash -c "sinfo -h -o %T | grep -q '^idle$'"
  trap - ERR EXIT
  echo "SLURM_CONF=$DIR/slurm.conf"
}

stop() {
  local daemon pid
  if runs slurmctld; then
    SLURM_CONF=$DIR/slurm.conf timeout 20 scancel --signal=KILL --full --user="$(id -u)" || true
    SLURM_CONF=$DIR/slurm.conf timeout 20 scancel --user="$(id -u)" || true
  fi
  for daemon in "${DAEMONS[@]}"; do
    runs "$daemon" || continue
    pid=$(pid_of "$daemon")
    kill "$pid"
    for _ in $(seq 100); do runs "$daemon" || break; sleep 0.1; done
    if runs "$daemon"; then kill -9 "$pid"; fi
  done
  # Jobs outlive slurmd. Their environment, and that of slurmstepd, which watches them, tells whose they are.
  for pid in $(grep -lzE "^(LORA2_SLURM_TEST=$DIR|SLURM_CONF=$DIR/slurm.conf)$" /proc/[0-9]*/environ 2>/dev/null |
    cut -d/ -f3); do
    if grep -qzE "^(SLURM_JOB_ID|LORA2_SLURM_TEST)=" "/proc/$pid/environ" 2>/dev/null; then kill -9 "$pid" || true; fi
  done
  echo "stopped: $DIR can be removed"
}

status() {
  local daemon gone=0
  for daemon in "${DAEMONS[@]}"; do
    if runs "$daemon"; then echo "$daemon runs ($(pid_of "$daemon"))"; else echo "$daemon does not run"; gone=1; fi
  done
  return $gone
}

"$1"
