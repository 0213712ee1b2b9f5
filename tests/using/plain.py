"""Exported folders, loaded with nothing but peft and transformers, offline. It must not import the package.

Reads {"rows": [[text, ...], ...], "folders": [path, ...]} from standard input, and prints for each folder its logits,
those without its adapter, and what its config says.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def read_plainly(rows: list[list[str]], folders: list[Path], elsewhere: Path) -> dict[str, Any]:
    """What this file, run in another process with another working folder and offline, tells of the folders."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-P", __file__],
        input=json.dumps({"rows": rows, "folders": list(map(str, folders))}),
        env={**environment, "HF_HUB_OFFLINE": "1", "HF_HOME": str(elsewhere / "empty"), "OMP_NUM_THREADS": "1"},
        cwd=elsewhere,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def told(folder: str, rows: list[list[str]]) -> dict[str, Any]:
    import torch
    from peft import AutoPeftModelForSequenceClassification
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    is_adapter = (Path(folder) / "adapter_config.json").is_file()
    auto: Any = AutoPeftModelForSequenceClassification if is_adapter else AutoModelForSequenceClassification
    torch.manual_seed(9)  # what would be drawn anew is another's
    model = auto.from_pretrained(folder).eval()
    batch = AutoTokenizer.from_pretrained(folder)(
        *map(list, zip(*rows, strict=True)), truncation=True, padding=True, return_tensors="pt"
    )
    without = None
    with torch.no_grad():
        logits = model(**batch).logits
        if is_adapter and model.peft_config["default"].is_prompt_learning:  # whose disable_adapter is for generation
            without = model.get_base_model()(**batch).logits.tolist()
        elif is_adapter:
            with model.disable_adapter():
                without = model(**batch).logits.tolist()
    config = model.config
    return {
        "logits": logits.tolist(),
        "without": without,
        "id2label": {str(number): name for number, name in config.id2label.items()},
        "problem_type": config.problem_type,
        "num_labels": config.num_labels,
        "tokens": batch["input_ids"].shape[1],
    }


def main() -> None:
    asked = json.loads(sys.stdin.read())
    found = {folder: told(folder, asked["rows"]) for folder in asked["folders"]}
    assert not any(name.split(".")[0] == "lora2_bench" for name in sys.modules)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
