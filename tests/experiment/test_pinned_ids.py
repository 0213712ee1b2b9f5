"""Ids of cells, as 1a0174b gave them: a record that somebody holds must stay the record of its cell."""

from __future__ import annotations

from pathlib import Path

import pytest

from lora2_bench.config.compose import plan_of
from tests.composed import weights_folder

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
}


@pytest.mark.parametrize("words", PINNED)
def test_a_cell_keeps_its_id(words: str, tmp_path: Path) -> None:
    folder = weights_folder(tmp_path / "backbone")
    assert plan_of(words.replace("FOLDER", str(folder)).split()).cell.id == PINNED[words]
