"""Zero-shot STS-B: how well the encoder's own cosines order pairs of sentences by their similarity."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from lora2_bench.retention.encoder import Features
from lora2_bench.tasks.metrics import spearman


def similarity_score(first: Features, second: Features, scores: ArrayLike) -> float:
    """Spearman's correlation of the rows' cosines with their scores (rows,); 0 where it is undefined.

    `first` and `second` are (rows, width) features of each row's two sentences, encoded each alone (Reimers and
    Gurevych, arXiv 1908.10084).
    """
    products = np.einsum("ij,ij->i", first.astype(np.float64), second.astype(np.float64))
    norms = np.linalg.norm(first.astype(np.float64), axis=1) * np.linalg.norm(second.astype(np.float64), axis=1)
    return spearman(products / np.maximum(norms, 1e-12), np.asarray(scores, dtype=np.float64))
