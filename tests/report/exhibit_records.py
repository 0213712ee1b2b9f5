"""Made records of the paper's tables: one of every state that a cell can be in."""

from __future__ import annotations

from lora2_bench.experiment.suites import suites
from lora2_bench.records.record import Record
from tests.made_records import make_cell, make_failed, make_row_record

# Points of seed 0 by row; later seeds add to them, so that means, spreads and ranks differ.
BASE = {"full": 88.0, "lora_r1": 87.0, "lora2_k1": 89.0, "adalora_r8": 90.0, "lora2_k8": 90.0}
STEP = (0.0, 0.4, -0.4, 0.2, -0.2, 0.0)
SHIFT = {"full": 1, "adalora_r8": 2}  # rows go up and down on different seeds, so that their differences have a spread
LOOKS = {"full": 1, "lora2_k1": 39}  # of the run; two elsewhere


def points(row: str, seed: int, base: float) -> float:
    """The score of one seed."""
    return base + STEP[(seed + SHIFT.get(row, 0)) % 6]


def looked(row: str, task: str, seed: int, best: float) -> Record:
    """A finished cell that was scored on dev as often as its row's runs are."""
    record = make_row_record(row, task, seed, best, best - 0.5)
    evaluations = record.result["evaluations"]
    record.result["evaluations"] = (evaluations * 20)[: LOOKS.get(row, 2)]
    return record


def exhibit_records() -> list[Record]:
    """Table 1 with whole rows and every kind of gap, and parts of Tables 2, 3 and 4, on the paper's backbone."""
    made: list[Record] = []
    # Whole rows; LoRA² k=8 equals AdaLoRA, so both are best.
    for row in ("full", "lora2_k1", "adalora_r8", "lora2_k8"):
        for task in suites()["table1"].tasks:
            base = BASE[row] - (20 if task == "cola" else 0)
            seeds = range(4) if (row, task) == ("lora2_k1", "rte") else range(6)  # fewer seeds in one place
            made += [looked(row, task, seed, points(row, seed, base)) for seed in seeds]
    # A seed more than the suite has.
    made += [make_row_record("full", "rte", 6, 88.0, 87.5)]
    # A best step before the rank budget was met, with the parameters that survived then and at the end.
    early = next(one for one in made if one.label == "lora2 k=8" and one.cell["task"] == "mrpc")
    early.result["best"] |= {"active": 955, "budget_met": False}
    assert early.result["last"] is not None
    early.result["last"] |= {"active": 941, "budget_met": True}
    # LoRA r=8 on two tasks: what LoRA² k=1 is tested to be no worse than.
    made += [
        make_row_record("lora_r8", task, seed, points("full", seed, base), points("full", seed, base))
        for task, base in (("cola", 69.0), ("sst2", 88.2))
        for seed in range(6)
    ]
    # LoRA r=1: a task whole, then one gap of each kind, and tasks that nobody ran.
    made += [make_row_record("lora_r1", "cola", seed, 67.0 - STEP[seed], 66.0) for seed in range(6)]
    made += [make_row_record("lora_r1", "sst2", seed, 87.0 - STEP[seed], 86.0) for seed in range(3)]
    made += [make_failed(make_cell("sst2", row="lora_r1", seed=3, model="deberta_v3_base", source="hub"))]
    made += [make_failed(make_cell("mrpc", row="lora_r1", seed=0, model="deberta_v3_base", source="hub"))]
    older, other = {"finished": "2024-01-01T00:00:00+00:00"}, {"sha256": "ef" * 32}
    stale = make_row_record("lora_r1", "qqp")
    made += [
        make_row_record("lora_r1", "qqp", 0, 87.0, 86.0, run=older, result={"data": {**stale.result["data"], **other}})
    ]
    made += [
        make_row_record("lora_r1", "stsb", 0, run=older, result={"backbone": {"name": "deberta_v3_base", **other}})
    ]
    made += [make_row_record("lora_r1", "mnli", 0, run={**older, "versions": {"lora2_bench": "2.0.0"}})]
    made += [make_row_record("lora_r1", "qnli", 0, cut=("train.max_steps=40",), max_steps=40)]
    off = {"config": {"recipe": {"alpha": 16}}}
    made += [make_row_record("lora_r1", "rte", 0, options={"alpha": 32}, run=off)]
    # Two settings of one place: the one with more seeds counts, not the better one.
    made += [make_row_record("sora_r1", "rte", seed, 80.0 + STEP[seed], 79.0) for seed in range(2)]
    made += [make_row_record("sora_r1", "rte", 2, 99.0, 99.0, max_length=512)]
    # The honest protocol, Table 3's and Table 4's own rows, and times from two machines.
    made += [make_row_record("lora2_k1", "rte", seed, 86.0 + STEP[seed], protocol="clean") for seed in range(2)]
    made += [make_row_record("reg_cd", "mnli", 0, 89.0, 88.5), make_row_record("targets_qk", "rte", 0, 88.0, 87.0)]
    made += [make_row_record("adalora_r8", "rte", 6, 90.0, 89.5, run={"hardware": {"gpu": "GPU Y"}})]
    # Another backbone, and generated data: the layout under another name.
    made += [make_row_record("lora2_k1", "rte", 0, model="roberta_large")]
    made += [
        make_row_record("lora2_k1", task, seed, 60.0 + seed, 59.0, model="minilm", source="mini")
        for task in ("rte", "cola")
        for seed in range(2)
    ]
    return made
