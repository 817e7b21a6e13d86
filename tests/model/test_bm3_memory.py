"""BM3 with wide visual features, by the public command: its memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support import paths

ROOT = paths.ROOT
N_USERS, N_ITEMS, WIDTH = 12_000, 21_479, 4_096
LIMIT_BYTES = 4_000_000_000


def write_wide(folder: Path) -> None:
    """Every item has one interaction or more, and a row of a random table of 352 MB; tokens are row numbers."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    table = np.lib.format.open_memmap(folder / "visual.npy", mode="w+", dtype=np.float32, shape=(N_ITEMS, WIDTH))
    for start in range(0, N_ITEMS, 1024):
        table[start : start + 1024] = rng.standard_normal((min(1024, N_ITEMS - start), WIDTH), dtype=np.float32)
    table.flush()
    items = np.concatenate([np.arange(N_ITEMS), rng.integers(0, N_ITEMS, 60_000)])
    users = np.concatenate([np.arange(N_ITEMS) % N_USERS, rng.integers(0, N_USERS, 60_000)])
    rows = (f"{user}\t{item}\t{n}\n" for n, (user, item) in enumerate(zip(users, items, strict=True)))
    (folder / "wide.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n" + "".join(rows))


@pytest.mark.slow
@pytest.mark.parametrize("freeze", ["False", "True"])
def test_a_wide_visual_table_trains_in_under_four_gigabytes(freeze: str, tmp_path: Path) -> None:
    """An epoch of the teacher with validation, checkpoint, state and test; its store; an epoch of the student."""
    write_wide(tmp_path / "wide")
    words = {
        "model": "MF", "teacher": "BM3", "kd": "CE", "dataset": "wide", "data_path": str(tmp_path),
        "kd_compare": "False",
        "item_features": "{visual: visual.npy}", "teacher.embedding_size": "64", "teacher.epochs": "1", "epochs": "1",
        "teacher.freeze_features": freeze, "cache_dir": str(tmp_path / "cache"), "output_dir": str(tmp_path / "saved"),
    }  # fmt: skip
    command = [sys.executable, str(ROOT / "run_recbole_kd.py"), *(f"--{key}={value}" for key, value in words.items())]
    log = (tmp_path / "log").open("w+")
    process = subprocess.Popen(
        command, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=log, stderr=log
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)  # as wait4 has taken it
    log.seek(0)
    assert process.returncode == 0, log.read()[-2000:]
    result = json.loads(next((tmp_path / "saved").rglob("result.json")).read_text())
    assert result["teacher"]["epochs"] == 1 and (result["teacher"]["parameters"] > N_ITEMS * WIDTH) is (
        freeze == "False"
    )
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(f"freeze_features={freeze}: peak {peak / 1e9:.2f} GB")
    assert peak < LIMIT_BYTES
