"""Importing recbole_kd changes nothing that a plain RecBole user could see, in either order of the imports."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import recbole_kd
from recbole_kd.integration import compat
from tests.support import paths
from tests.support.fresh import python
from tests.support.helpers import write_tiny
from tests.support.runs import SHORT

ROOT = paths.ROOT
PARTS = ("metrics", "configs", "order", "files", "folders", "warnings", "at_start", "at_end", "class")
ORDERS = ("without", "before", "after")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What the same script of a RecBole user comes to without the import, before and after RecBole's."""
    folder = tmp_path_factory.mktemp("plain")
    data = write_tiny(folder, "tiny").data_path
    results = {}
    for when in ORDERS:
        own = folder / when
        own.mkdir()
        done = python(str(ROOT / "tests" / "support" / "plain_recbole.py"), when, data, cwd=own)
        assert done.returncode == 0, done.stderr[-2000:]
        (line,) = (line for line in done.stdout.splitlines() if line.startswith("RESULT "))
        results[when] = json.loads(line.removeprefix("RESULT "))
    return results


@pytest.mark.parametrize("order", ORDERS[1:])
@pytest.mark.parametrize("part", PARTS)
def test_the_quick_start_is_the_same_with_and_without_the_import(
    found: dict[str, dict[str, Any]], order: str, part: str
) -> None:
    assert found[order][part] == found["without"][part]
    assert all(any(figures.values()) for figures in found["without"]["metrics"].values())
    assert ".pth" in found["without"]["files"]


def test_our_own_runs_are_quiet_and_leave_the_filters() -> None:
    before = list(warnings.filters)
    with compat.quiet_warnings():
        inside = list(warnings.filters)
    assert list(warnings.filters) == before and inside != before


def test_four_runs_in_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys come by keyword or dict, argv is never read, and each log holds its own run, once."""
    data = write_tiny(tmp_path / "data", "tiny")
    monkeypatch.setattr(sys, "argv", ["notebook", "--epochs=77", "--learning_rate=what", "-f", "kernel.json"])
    handlers, level, threads = logging.getLogger().handlers[:], logging.getLogger().level, torch.get_num_threads()
    assert SHORT
    keys = {
        "data_path": data.data_path, "cache_dir": str(tmp_path / "cache"), "output_dir": str(tmp_path / "saved"),
        "epochs": 1,
        "embedding_size": 4, "kd_k": 5, "show_progress": False, "teacher_config": {"epochs": 1, "embedding_size": 4},
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    }  # fmt: skip
    for number in range(4):
        result = recbole_kd.run_recbole_kd("MF", "MF", "CE", "tiny", config_dict=keys, kd_weight=number + 1)
        assert result["kd_weight"] == number + 1 and result["distilled"]["epochs"] == 1
        lines = (Path(result["folder"]) / "run.log").read_text(encoding="utf-8").splitlines()
        assert sum("Result in" in line for line in lines) == 1
        assert sum("epoch 0 distillation" in line for line in lines) == 1
        assert logging.getLogger().handlers == handlers and logging.getLogger().level == level
    assert torch.get_num_threads() == threads and sys.argv[1] == "--epochs=77"
