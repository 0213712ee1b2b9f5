"""The quicker composition gives what Hydra's and OmegaConf's own gives."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hydra._internal.hydra import Hydra
from omegaconf import OmegaConf, _utils

from lora2_bench.config.quicker import no_look_for_mode
from lora2_bench.files.paths import CONF

# Both ways in a process that has imported neither: the package's, and then libraries left as they are.
COMPOSED = """
import json, sys
from lora2_bench.config import quicker
if sys.argv[1] == "plainly":
    quicker.quicken = lambda: None
from omegaconf import OmegaConf
from lora2_bench.config.compose import compose_config, composing
found = []
with composing():
    for overrides in json.loads(sys.argv[2]):
        found.append(OmegaConf.to_container(compose_config(overrides), resolve=True))
print(json.dumps(found))
"""
CELLS = [
    ["method=lora", "task=rte"],
    ["row=adalora_r8", "model=deberta_v3_base", "task=mnli", "data=hub", "seed=3"],
    ["method=lora2", "task=cola", "model=roberta_large", "rng_version=1", "kr=8", "train.lr=1e-3"],
    ["method=bitfit", "task=stsb"],
]


def test_configs_are_the_same_either_way() -> None:
    texts = [
        subprocess.run(
            [sys.executable, "-c", COMPOSED, way, json.dumps(CELLS)],
            capture_output=True,
            text=True,
            check=True,
            timeout=99,
        ).stdout
        for way in ("quickly", "plainly")
    ]
    assert texts[0] == texts[1]
    assert [one["task"]["name"] for one in json.loads(texts[0])] == ["rte", "mnli", "cola", "stsb"]


def test_every_file_of_conf_reads_the_same_with_both_parsers() -> None:
    before, yaml.SafeLoader = yaml.SafeLoader, vars(yaml.loader)["SafeLoader"]  # type: ignore[misc]
    try:
        slow = _utils.get_yaml_loader()
    finally:
        yaml.SafeLoader = before  # type: ignore[misc]
    files = sorted(CONF.rglob("*.yaml"))
    assert len(files) > 100
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert OmegaConf.to_container(OmegaConf.load(path)) == (yaml.load(text, slow) or {}), path


def test_duplicate_keys_and_broken_files_are_refused(tmp_path: Path) -> None:
    for number, text in enumerate(("a: 1\na: 2\n", "a: [1\n")):
        path = tmp_path / f"{number}.yaml"
        path.write_text(text)
        with pytest.raises(yaml.YAMLError):
            OmegaConf.load(path)


@pytest.mark.parametrize(
    ("argument", "looks"),
    [
        ("method=lora", False),
        ("-m", False),
        ("hydra.mode=MULTIRUN", True),
        ("+experiment=lr", True),
        ("--config-dir=own", True),
    ],
)
def test_hydra_looks_for_its_mode_only_where_an_argument_may_set_it(argument: str, *, looks: bool) -> None:
    own = Hydra.get_mode
    with no_look_for_mode(["task=rte", argument]):
        assert (Hydra.get_mode is own) is looks
    assert Hydra.get_mode is own
