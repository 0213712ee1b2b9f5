"""Ids of cells, as 1a0174b gave them and as they are now: a record must stay the record of its cell."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lora2_bench.config.compose import plan_of
from lora2_bench.experiment.cell import Cell
from lora2_bench.records.identity import id_of
from tests.composed import weights_folder

RECORDS = Path(__file__).parents[1] / "report" / "records_1a0174b"

PINNED = {
    "method=full task=rte": "7158c8379669e3a1",
    "method=bitfit task=rte": "e7443d5e4a7f2dd0",
    "method=lora task=rte": "41872ab097c7c4bc",
    "method=adalora task=rte": "fedc3ddde722837c",
    "method=sora task=rte": "b7b3b79f2b8dd510",
    "method=lora2 task=rte": "759596a515734bfb",
    "method=lora2 kr=8 task=cola seed=3": "6c413ac000974757",
    "method=lora2 task=mnli model=roberta_base data=hub": "8e7b98c22cbf8c9c",
    "method=adalora task=stsb model=roberta_large data=local": "11d188782b069bbb",
    "method=sora task=qqp model=deberta_v3_base data=hub seed=41": "6905ccc2f82c6b3d",
    "method=lora task=wnli model=local model.path=FOLDER": "be13ab152aae36f4",
    "method=bitfit task=mrpc protocol=clean": "d1975f65bdba8f36",
    "row=lora_r8_qv task=sst2 data=local": "dd998615f3912d78",
    "row=reg_cd task=qnli model=deberta_v3_base data=hub": "c41b9bf4813e07d7",
    "method=lora2 task=rte init_from=0123456789abcdef": "0cf7114b5bd2ba4d",
    "method=lora2 task=rte train.max_steps=40 data.max_train=64 method.budget.scale=true": "7665f89af46632fb",
    "method=full task=cola model=deberta_v3_base data=hub train.precision=bf16": "6c1f821991ed95da",
    "method=lora task=cola protocol=tune": "4abee9feaf6101ea",
    "method=head task=rte": "8d540c882a17c195",
}


# The same command lines under rng_version=2, the default, with the penalties' forms that came with it.
PINNED_2 = {
    "method=full task=rte": "2453d53509c2ec24",
    "method=bitfit task=rte": "8b3aed626b121dc9",
    "method=lora task=rte": "d353f2cbe72b310f",
    "method=adalora task=rte": "f3a877b96112be15",
    "method=sora task=rte": "9abcbe516d61362e",
    "method=lora2 task=rte": "8324a7c1f0185f3c",
    "method=lora2 kr=8 task=cola seed=3": "59fb9d41e58275cb",
    "method=lora2 task=mnli model=roberta_base data=hub": "8f7f5c915ff27958",
    "method=adalora task=stsb model=roberta_large data=local": "48f71d9d0b4dce98",
    "method=sora task=qqp model=deberta_v3_base data=hub seed=41": "c59e2ff308be4853",
    "method=lora task=wnli model=local model.path=FOLDER": "43b31227d307fee1",
    "method=bitfit task=mrpc protocol=clean": "3928efc951c6a71b",
    "row=lora_r8_qv task=sst2 data=local": "fb7c41a1c72f4655",
    "row=reg_cd task=qnli model=deberta_v3_base data=hub": "b3bcc6de6af8397f",
    "method=lora2 task=rte init_from=0123456789abcdef": "a07396f263972631",
    "method=lora2 task=rte train.max_steps=40 data.max_train=64 method.budget.scale=true": "4ac8b66cbea90d4f",
    "method=full task=cola model=deberta_v3_base data=hub train.precision=bf16": "29ff4bc32d45f2b0",
    "method=lora task=cola protocol=tune": "2f247eb22cbe8628",
    "method=head task=rte": "4eae03820b8dfa38",
}


@pytest.mark.parametrize("words", PINNED)
def test_a_cell_of_earlier_versions_keeps_its_id(words: str, tmp_path: Path) -> None:
    folder = weights_folder(tmp_path / "backbone")
    assert plan_of([*words.replace("FOLDER", str(folder)).split(), "rng_version=1"]).cell.id == PINNED[words]


@pytest.mark.parametrize("words", PINNED_2)
def test_a_cell_keeps_its_id(words: str, tmp_path: Path) -> None:
    folder = weights_folder(tmp_path / "backbone")
    cell = plan_of(words.replace("FOLDER", str(folder)).split()).cell
    assert cell.id == PINNED_2[words] != PINNED[words]
    assert id_of(cell.to_dict()) == cell.id


def test_an_old_record_has_the_id_of_its_cell() -> None:
    paths = sorted(RECORDS.glob("cells/*/record.json"))
    assert paths
    for path in paths:
        record = json.loads(path.read_text())
        assert "rng_version" not in record["cell"]
        assert id_of(record["cell"]) == Cell.from_dict(record["cell"]).id == record["id"] == path.parent.name
