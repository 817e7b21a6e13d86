"""What a training on a cluster gives its ranks: one rank in this process, in another working folder, without Ray."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import ray
import torch
import torch.distributed as dist

from recbole_kd.pipeline import plan
from recbole_kd.training import on_cluster
from tests.support.helpers import write_tiny
from tests.support.runs import run


@pytest.fixture
def one_rank(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Stand for a cluster by one rank; the pickled job is all that it is given."""

    def run_ranks(work: Callable[[dict[str, Any]], None], given: dict[str, Any], *_: Any) -> None:
        before, elsewhere = Path.cwd(), tmp_path / "elsewhere"
        elsewhere.mkdir(exist_ok=True)
        dist.init_process_group("gloo", init_method=f"file://{elsewhere / 'meeting'}", rank=0, world_size=1)
        os.chdir(elsewhere)
        try:
            work(given)
        finally:
            os.chdir(before)
            dist.destroy_process_group()

    train: Any = ModuleType("ray.train")  # Ray's own takes seconds to import
    train.torch = SimpleNamespace(get_device=lambda: torch.device("cpu"))
    train.get_context = lambda: SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 1)
    monkeypatch.setitem(sys.modules, "ray.train", train)
    monkeypatch.setitem(sys.modules, "ray.train.torch", train.torch)
    monkeypatch.setattr(ray, "train", train, raising=False)
    monkeypatch.setattr(on_cluster, "run_ranks", run_ranks)
    for module, name in ((on_cluster, "connect_for_ranks"), (on_cluster, "check_shared"), (plan, "connect_clusters")):
        monkeypatch.setattr(module, name, lambda *_: None)


def test_relative_folders_are_those_of_the_command(
    one_rank: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HetComp reads earlier checkpoints of its teacher from the cache in the middle of the training."""
    monkeypatch.chdir(tmp_path)
    write_tiny(tmp_path / "data", "tiny")
    short: dict[str, str | None] = {
        "data_path": "data", "cache_dir": "cache", "output_dir": "saved", "epochs": "2", "teacher.epochs": "2",
        "kd": "HetComp", "kd_k": "5", "kd_n_samples": None, "kd_candidates": None, "kd_compare": "False",
    }  # fmt: skip
    found = run(tmp_path, "--nproc=2", "--ray_address=auto", **short)
    assert len(found["distilled"]["history"]["kd_loss"]) == 2
    assert not list(tmp_path.rglob(".ray-*")) and not list((tmp_path / "elsewhere").rglob("*.pth"))
