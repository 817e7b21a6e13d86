"""HSTU's peak memory where histories are long and negatives many, in a process of its own."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import paths

ROOT = paths.ROOT
YELP2018 = {
    "n_layers": 8, "n_heads": 8, "embedding_size": 32, "attention_size": 16, "linear_size": 16, "input_dropout": 0.5,
    "linear_dropout": 0.7, "temperature": 0.1, "loss": "sampled_softmax", "n_negatives": 2048,
    "MAX_ITEM_LIST_LENGTH": 400, "train_batch_size": 128,
}  # fmt: skip
"""The published teacher of Yelp2018, the largest of the paper; its student has one block of two heads."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("distil", "changed"), [(False, {}), (True, {"n_layers": 1, "n_heads": 2})], ids=["teacher", "student"]
)
def test_length_400_with_2048_negatives_trains_in_8_gib(distil: bool, changed: dict[str, int], tmp_path: Path) -> None:
    """Positions x negatives x d would be 13 GB, attention scores 2 GB a block."""
    given = {
        "folder": str(tmp_path),
        "n_users": 160,
        "n_items": 38_047,
        "distil": distil,
        "sizes": {**YELP2018, **changed},
    }
    command = [sys.executable, "-m", "tests.support.hstu_memory", json.dumps(given)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=3000,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    figures = json.loads(done.stdout.splitlines()[-1])
    assert (figures["steps"], figures["longest"], figures["items"]) == (2, 399, 38_047) and math.isfinite(
        figures["loss"]
    )
    assert 500 < figures["peak_mb"] < 8 * 1024, figures
