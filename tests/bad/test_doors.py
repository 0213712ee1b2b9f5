"""Wrong arguments of every command: exit code 2 and one line that names the nearest option, or what is allowed."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Told

LONG = "a" * 300
DEEP = "/".join(["abc"] * 2000)
WRONG: list[tuple[str, str, str]] = [
    # report
    ("report", "tabels", r"^tabels is not known: did you mean tables\?$"),
    ("report", "foo", r"^foo is not known: choose one of tables, audit, figures, report$"),
    ("report", "--resluts x", r"^--resluts is not an option: did you mean --results\?$"),
    ("report", "tables --resluts=x", r"^--resluts is not an option: did you mean --results\?$"),
    ("report", "--res x", r"^--res is not an option"),  # no beginnings of names
    ("report", "--foo", r"^--foo is not an option: choose one of -h, --help, --results$"),
    ("report", "--results", r"^--results has no value: give --results VALUE$"),
    ("report", "tables results=x", r"^results=x is not how it is given here: give --results x$"),
    ("report", "tables figures", r"^figures is one argument too many: leave it out$"),
    ("report", "-x", r"^-x is not an option: leave it out$"),
    ("report", "--results /nowhere", r"^--results /nowhere is no folder: run a cell, or name its results$"),
    ("report", "--results ~nosuchuser", r"^--results ~nosuchuser: there is no such user: give another path$"),
    ("report", "--results=", r"^--results is empty: give a folder$"),
    ("report", "--results=-x", r"^--results -x begins as an option does: give \./-x"),
    ("report", "--results file", r"^--results file is no folder but a file: give a folder$"),
    ("report", f"--results {LONG}", r"^--results a{77}\.\.\. cannot be a folder \(File name too long\)"),
    ("report", f"--results {DEEP}", r"cannot be a folder \(File name too long\)"),
    ("report", "--results loop", r"cannot be a folder \(Too many levels of symbolic links\)"),
    ("report", "--results a\udcff", r"is not UTF-8: give another folder$"),
    ("report", "--results a\nb", r"^--results 'a\\nb' has a sign that cannot be printed"),
    ("report", "--results a\0b", r"has a sign that cannot be printed"),
    ("report", "figures --results file/below", r"is no folder"),
    # publish
    ("publish", "--projct x", r"^--projct is not an option: did you mean --project\?$"),
    ("publish", "--foo", r"^--foo is not an option: choose one of -h, --help, --results, --project, --group$"),
    ("publish", "--project", r"^--project has no value: give --project VALUE$"),
    ("publish", "--group", r"^--group has no value"),
    ("publish", "x", r"^x is one argument too many: leave it out$"),
    ("publish", "--results /nowhere", r"is no folder: run a cell, or name its results$"),
    ("publish", "--results file", r"^--results file is no folder but a file"),
    ("publish", "--results=", r"^--results is empty: give a folder$"),
    ("publish", f"--results empty --project {'0' * 40}", r"^--project holds what looks like a token or a password"),
    ("publish", "--results empty --group hf_abcdefghijklmnop", r"^--group holds what looks like a token or a password"),
    # bench
    ("bench", "--round 3", r"^--round is not an option: did you mean --rounds\?$"),
    ("bench", "--foo", r"^--foo is not an option: choose one of -h, --help, --sizes"),
    ("bench", "--rounds", r"^--rounds has no value"),
    ("bench", "--rounds x", r"^--rounds x is not possible: give a whole number from 1 to 1000000$"),
    ("bench", "--rounds 0", r"^--rounds 0 is not possible: give at least 1$"),
    ("bench", "--rounds 1.5", r"^--rounds 1\.5 is not possible: give a whole number"),
    ("bench", f"--rounds {10**24}", r"is not possible: give a whole number from 1 to 1000000$"),
    ("bench", f"--layers {10**24}", r"is not possible: give a whole number from 1 to 100$"),
    ("bench", "--layers 0", r"^--layers 0 is not possible: give at least 1$"),
    ("bench", "--threads 1000000", r"^--threads 1000000 is not possible: give a whole number from 1 to 1024$"),
    ("bench", "--threads 0", r"^--threads 0 is not possible: give at least 1$"),
    ("bench", "--warm-up -1", r"^--warm-up -1 is not possible: give at least 0$"),
    ("bench", "--warmup 1", r"^--warmup is not an option: did you mean --warm-up\?$"),
    ("bench", "--device tpu", r"^--device tpu is not known: choose one of auto, cpu, cuda$"),
    ("bench", "--device gpu", r"^--device gpu is not known"),
    ("bench", "--precision fp16", r"^--precision fp16 is not known: did you mean (fp32|bf16)\?$"),
    ("bench", "--sizes gpt5", r"^--sizes gpt5 is unknown: give some of minilm, roberta_base"),
    ("bench", "--sizes=", r"^--sizes  is unknown"),
    ("bench", "--sizes minilm,", r"^--sizes  is unknown"),
    ("bench", "--only nothing", r"^--only nothing is in no name: give parts of frozen backbone"),
    ("bench", "--results file", r"^--results file is no folder but a file"),
    ("bench", "--results /proc/nope", r"^--results /proc/nope cannot be written \(.+\): give another folder$"),
    ("bench", "extra", r"^extra is one argument too many"),
    # sweep
    ("sweep", "suite=foo", r"^suite=foo is not known: choose one of "),
    ("sweep", "suite=../x", r"^('\.\./x' is no name of a file below|suite=\.\./x is not known)"),
    ("sweep", "suite=", r"^suite= is not known|is not possible"),
    ("sweep", "suite=smoke --dryrun", r"^--dryrun is not an option: did you mean --dry-run\?$"),
    ("sweep", "suite=smoke --foo", r"^--foo is not an option: choose one of --wait, --dry-run, --json, --config-dir$"),
    ("sweep", "suite=smoke -m", r"^-m is not an option"),
    ("sweep", "foo", r"^foo cannot be read: give NAME=VALUE, as in suite=table1$"),
    ("sweep", "=", r"^=:  is not a setting"),
    ("sweep", "suite=smoke cluster=foo", r"^cluster=foo is not possible: cluster must be one of local, slurm$"),
    ("sweep", "suite=smoke parallel=x", r"^parallel=x is not possible: parallel must be an integer of at least 1"),
    ("sweep", "suite=smoke parallel=0", r"^parallel=0 is not possible"),
    ("sweep", "suite=smoke parallel=-1", r"^parallel=-1 is not possible"),
    ("sweep", "suite=smoke parallel=", r"^parallel= is not possible"),
    ("sweep", f"suite=smoke parallel={10**24}", r"is not possible: parallel must be an integer of at least 1, under"),
    ("sweep", "suite=smoke parallel=３", r"^parallel=３ is not possible"),
    ("sweep", "suite=smoke time=10", r"^time=10 is for Slurm: leave it out, or give cluster=slurm$"),
    ("sweep", "suite=smoke slurm.qos=low", r"^slurm\.qos is for Slurm"),
    ("sweep", "suite=smoke cluster=slurm time=1:2", r"^time=1:2 is not possible: time must be minutes"),
    ("sweep", "suite=smoke cluster=slurm time=0", r"^time=0 is not possible: time must be at least a minute$"),
    ("sweep", f"suite=smoke cluster=slurm time={10**23}", r"is not possible: time must be less than Slurm can count$"),
    ("sweep", "suite=smoke cluster=slurm memory=lots", r"^memory=lots is not possible: memory must be as in 16G$"),
    ("sweep", "suite=smoke cluster=slurm gpus=-1", r"^gpus=-1 is not possible"),
    ("sweep", "suite=smoke cluster=slurm partition=", r"^partition= is not possible"),
    ("sweep", "suite=smoke name=../x", r"^name=\.\./x is not possible: name must be letters, digits, \. _ -$"),
    ("sweep", "suite=smoke name=", r"^name= is not possible"),
    ("sweep", "suite=smoke results=", r"^results= is empty: give a folder$"),
    ("sweep", "suite=smoke results=-x", r"^results=-x begins as an option does"),
    ("sweep", "suite=smoke results=~nosuchuser", r"^results=~nosuchuser: there is no such user: give another path$"),
    ("sweep", "suite=smoke results=file", r"^results=file is no folder but a file: give a folder$"),
    ("sweep", "suite=smoke results=/proc/nope", r"^results=/proc/nope cannot be written"),
    ("sweep", f"suite=smoke results={LONG}", r"cannot be a folder \(File name too long\)"),
    ("sweep", "suite=smoke results=a,b", r"^results=a,b has several values: give one a sweep$"),
    ("sweep", "suite=smoke rerun=true", r"^rerun=true is not for a sweep"),
    ("sweep", "suite=smoke seed=x", r"^seed=x is not possible: seed must be an integer of at least 0$"),
    ("sweep", "suite=smoke seed=choice(1", r"seed=choice\(1 cannot be read"),
    ("sweep", "suite=smoke seed=interval(0,1)", r"has no list of values: give seed=A,B$"),
    ("sweep", "suite=smoke task=foo", r"task=foo is not known: choose one of "),
    ("sweep", "suite=smoke hydra.verbose=true", r"is Hydra's own: a sweep has cluster=local or cluster=slurm$"),
    ("sweep", "suite=smoke threads=x", r"threads=x is not possible"),
    ("sweep", "suite=smoke kr=8", r"kr=8 contradicts row="),
    ("sweep", "suite=smoke model.path=~nosuchuser", r"model\.path=~nosuchuser: there is no such user"),
    ("sweep", "suite=smoke paralel=3", r"^paralel is not a setting: did you mean parallel\?$"),
    ("sweep", "suite=smoke ++paralel=3", r"^paralel is not a setting: did you mean parallel\?$"),
    ("sweep", "suite=smoke cells_per_jobs=3 cluster=slurm", r"^cells_per_jobs is .+: did you mean cells_per_job\?$"),
    ("sweep", "suit=smoke", r"^suit is not a setting: did you mean suite\?$"),
    ("sweep", "suite=smoke trian.lr=1", r"^trian\.lr is not a setting: did you mean train\?|train\.lr\?$"),
    ("sweep", "suite=smoke train.lrr=1", r"train\.lrr is not a setting: did you mean train\.lr\?$"),
    ("sweep", "suite=smoke zzz=1", r"zzz is not a setting: `--cfg job` lists all settings"),
    ("sweep", "suite=smoke ~zzz", r"zzz is not a setting: `--cfg job` lists all settings"),
    # status
    ("status", "suite=smoke paralel=3", r"^paralel is not a setting: did you mean parallel\?$"),
    ("status", "suite=foo", r"^suite=foo is not known: choose one of "),
    ("status", "suite=smoke --jsn", r"^--jsn is not an option: did you mean --json\?$"),
    ("status", "suite=smoke name=/", r"^name=/ is not possible"),
    ("status", "suite=smoke results=", r"^results= is empty"),
    ("status", "suite=smoke results=file", r"^results=file is no folder but a file"),
    ("status", "suite=smoke results=~nosuchuser", r"there is no such user"),
    ("status", "suite=smoke cluster=x", r"^cluster=x is not possible"),
    ("status", "foo", r"^foo cannot be read"),
    # one cell: Hydra's options
    ("run", "--cfg", r"^--cfg has no value: give --cfg job$"),
    ("run", "--cfg foo", r"^--cfg foo is not known: choose one of job, hydra, all$"),
    ("run", "--cfg=foo", r"^--cfg foo is not known"),
    ("run", "-c foo", r"^-c foo is not known"),
    ("run", "--info foo", r"^--info foo is not known: choose one of all, config"),
    ("run", "--config-dir", r"^--config-dir has no value: give --config-dir VALUE$"),
    ("run", "--config-dir=/nowhere", r"^config_dir=/nowhere is no folder: give one with task/, method/ or"),
    ("run", "config_dir=/nowhere", r"^config_dir=/nowhere is no folder: give one with task/, method/ or recipe/"),
    ("sweep", "--config-dir", r"^--config-dir has no value: give --config-dir DIR$"),
    ("sweep", "--config-dir=/nowhere method=lora", r"config_dir=/nowhere is no folder: give one with task/"),
    ("run", "--config-name=nope", r"nope"),
    ("run", "--config-path=/nowhere", r"nowhere"),
    ("run", "--package foo", r"^--package belongs to --cfg: give --cfg job --package$"),
    ("run", "--resolve", r"^--resolve belongs to --cfg"),
    ("run", "-mm seed=1", r"^-mm is not an option"),
    ("run", "results=", r"^results= is empty: give a folder$"),
    ("run", "results=''", r"^results= is empty: give a folder$"),
    ("run", "results=-x", r"^results=-x begins as an option does: give \./-x for that folder$"),
    ("run", "results=~nosuchuser/x", r"^results=~nosuchuser/x: there is no such user"),
    ("run", "results=file", r"^results=file is no folder but a file: give a folder$"),
    ("run", "results=/dev/null", r"^results=/dev/null is no folder but a file"),
    ("run", "results=file/below", r"^results=file/below cannot be written \(.+\): give another results=DIR$"),
    ("run", "results=/proc/nope", r"^results=/proc/nope cannot be written"),
    ("run", "results=loop", r"cannot be a folder \(Too many levels of symbolic links\)"),
    ("run", f"results={LONG}", r"cannot be a folder \(File name too long\)"),
    ("run", "results=a\udcff", r"is not UTF-8: give another folder$"),
    ("run", "results=[1]", r"^results=\[1\] is not possible: results must be a folder$"),
    ("run", "-m results= seed=1,2", r"^results= is empty"),  # Hydra would make /multirun
    ("run", "-m seed=1,2 hydra.sweep.dir=/proc/nope", r"^/proc/nope cannot be written \(No such file or directory\)"),
    ("run", "hydra.run.dir=/proc/nope", r"is not possible: FileNotFoundError"),
    ("run", "hydra.mode=foo", r"is not possible|foo"),
    ("run", "data=local", r"^data=local without a folder: set GLUE_DIR or data\.dir=\.\.\. to the GLUE files"),
    ("run", "data=local data.dir=/nowhere", r"^there is no folder /nowhere: set GLUE_DIR"),
    ("run", "data=local data.dir=.", r"holds neither RTE/train\.tsv nor rte/train-\*\.parquet"),
    ("run", "data=local data.dir=half", r"^half lacks RTE/dev\.tsv: add it, or set GLUE_DIR"),
    ("run", "model=local model.path=.", r"has no model\.safetensors"),
    ("run", "model=local model.path=empty", r"has no config\.json|has no model\.safetensors"),
    (
        "run",
        "model={name:x,source:package,package:../x,folder:f}",
        r"^model\.package=\.\./x is not possible: model\.package must be the name of a package$",
    ),
    ("run", "model=roberta_base", r"is not in the hub cache and could not be fetched \(HF_HUB_OFFLINE is set\)"),
    ("run", "data=hub", r"is not in the hub cache and could not be fetched \(HF_HUB_OFFLINE is set\)"),
    ("run", f"task={LONG}", r"is not (known|possible)"),
    ("run", "task=1_0", r"is not possible"),
    ("run", "seed=a\nb", r"cannot be read"),
    ("run", "init_from=0123456789abcdef", r"^init_from=0123456789abcdef is no finished cell in"),
]


@pytest.mark.parametrize(("command", "words", "pattern"), WRONG, ids=[f"{one} {words[:50]}" for one, words, _ in WRONG])
def test_wrong_arguments_end_in_one_line(
    command: str,
    words: str,
    pattern: str,
    one_line: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("GLUE_DIR", raising=False)
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "empty").mkdir()
    (tmp_path / "half" / "RTE").mkdir(parents=True)
    (tmp_path / "half" / "RTE" / "train.tsv").write_text("")
    line = one_line(command, *words.split(" "))
    assert re.search(pattern, line), line
    assert len(line) < 1000


@pytest.mark.parametrize("command", ["report", "publish", "bench", "sweep", "status", "tune"])
def test_help_is_no_error(command: str, door: Callable[..., Told]) -> None:
    told = door(command, "--help")
    assert (told.code, told.err) == (0, "") and f"python -m lora2_bench.{command}" in told.out


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("sweep", "suite=smoke cluster=slurm"),
        ("tune", "study=smoke cluster=slurm"),
        ("run", "-m hydra/launcher=submitit_slurm seed=1,2"),
    ],
)
def test_slurm_without_its_commands_is_one_line(
    command: str, words: str, one_line: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert "needs Slurm's sbatch, which is not here" in one_line(command, *words.split())
    assert list(tmp_path.iterdir()) == []


def test_slurm_whose_controller_does_not_answer_is_one_line(
    one_line: Callable[..., str], tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("slurm")
    for name, line in (("sbatch", "exit 1"), ("scontrol", "echo Slurmctld is DOWN; exit 1")):
        (folder / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    line = one_line("run", "-m", "hydra/launcher=submitit_slurm", "seed=1,2")
    wanted = "Slurm's controller does not answer (Slurmctld is DOWN): wait for it, or leave this out"
    assert line == f"hydra/launcher=submitit_slurm: {wanted}"
