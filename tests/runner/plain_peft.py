"""A cell's exported adapter, loaded with nothing but peft and transformers. It must not import the package."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def check(base: str, cell: str, rows: str) -> None:
    """Raise unless the adapter gives the cell's stored dev logits; `base`, `cell` and `rows` are paths."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    texts_of = json.loads(Path(rows).read_text())
    torch.manual_seed(123)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, Path(cell) / "adapter").eval()
    tokenizer = AutoTokenizer.from_pretrained(base)
    stored = json.loads((Path(cell) / "predictions.json").read_text())["dev"]["best"]
    with torch.no_grad():
        for texts, wanted in zip(texts_of, stored, strict=True):
            logits = model(**tokenizer(*texts, truncation=True, max_length=48, return_tensors="pt")).logits[0]
            torch.testing.assert_close(logits, torch.tensor(wanted), rtol=1e-4, atol=1e-4)
    assert not any(name.split(".")[0] == "lora2_bench" for name in sys.modules)
    print("equal", len(texts_of))
