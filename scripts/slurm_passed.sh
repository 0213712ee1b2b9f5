#!/usr/bin/env bash
# Which state of the code last passed the tests on a real Slurm. .ci/slurm-passed keeps it as git hashes of the paths that
# these tests are about; commit it with the change that was tested.
#
#   slurm_passed.sh test COMMAND...   run COMMAND --junitxml=FILE, and write .ci/slurm-passed if all tests ran and passed
#   slurm_passed.sh needed            whether the checkout differs from it (exit status 0, else 3), told in one line
set -euo pipefail
cd "${SLURM_PASSED_ROOT:-$(dirname "$0")/..}"
file=.ci/slurm-passed
paths=(lora2_bench/sweep lora2_bench/runner lora2_bench/records scripts/slurm_test_cluster.sh tests/slurm)

# One line a path, of the files as they are now, committed or not.
digest() {
  local index tree path
  index=$(mktemp)
  trap 'rm -f "$index"' RETURN
  GIT_INDEX_FILE=$index git read-tree HEAD
  GIT_INDEX_FILE=$index git add --all -- "${paths[@]}"
  tree=$(GIT_INDEX_FILE=$index git write-tree)
  for path in "${paths[@]}"; do
    echo "$(git rev-parse "$tree:$path") $path"
  done
}

case ${1:-} in
  test)
    shift
    now=$(digest)
    report=$(mktemp)
    trap 'rm -f "$report"' EXIT
    "$@" --junitxml="$report"
    if grep -q ' skipped="0"' "$report" && ! grep -q ' tests="0"' "$report"; then
      mkdir -p .ci
      echo "$now" >$file
      echo "passed: $file says so (commit it)"
    else
      echo "not all tests ran: $file stays as it is"
    fi
    ;;
  needed)
    now=$(digest)
    if [[ ! -f $file ]]; then
      echo "make test-slurm runs: no $file tells what passed it"
    elif changed=$(comm -13 <(sort $file) <(sort <<<"$now") | cut -d' ' -f2 | paste -sd' ') && [[ -n $changed ]]; then
      echo "make test-slurm runs: changed since it last passed: $changed"
    else
      echo "make test-slurm does not run: nothing that it tests has changed since it last passed ($file)"
      exit 3
    fi
    ;;
  *)
    sed -n '2,6s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
