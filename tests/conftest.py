"""Fixtures that all tests share."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

import recbole_kd  # noqa: F401 - before RecBole. Nothing slow here: the workers of pytest-xdist would wait for it

# the same examples in every run, so that only changed code makes a test fail; a deadline would judge the machine
settings.register_profile("recbole_kd", deadline=None, derandomize=True)
settings.load_profile("recbole_kd")

if TYPE_CHECKING:
    from tests.support.helpers import TinyData

# each worker and each further process would compile the package and the tests anew
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@pytest.fixture(scope="session", autouse=True)
def _elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """RecBole writes log/, saved/ and log_tensorboard/ into the current folder.

    These must not lie in the repository. One thread gives equal timings.
    """
    import torch

    before = Path.cwd()
    torch.set_num_threads(1)
    os.chdir(tmp_path_factory.mktemp("work"))
    yield
    os.chdir(before)


@pytest.fixture(scope="session", autouse=True)
def _no_seeds_for_absent_gpus() -> Iterator[None]:
    """Without a GPU, a seed for it does nothing but record the call stack, many thousand times in a suite."""
    import torch

    with pytest.MonkeyPatch.context() as patch:
        for kind in (torch.cuda, torch.xpu):
            if not kind.is_available():
                patch.setattr(kind, "manual_seed", lambda seed: None)
                patch.setattr(kind, "manual_seed_all", lambda seed: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_idle_waits() -> Iterator[None]:
    """Take out three waits of nearly every run that no test looks at.

    RecBole measures the processor for a second, for a line of its log. A file is forced onto the disk, which only a
    power cut could tell from one that is not. Each model ranks 14 times for its inference time: here once.
    """
    import psutil

    from recbole_kd.evaluation import efficiency

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(psutil, "cpu_percent", lambda interval=None: 0.0)
        patch.setattr(os, "fsync", lambda _: None)
        patch.setattr(efficiency, "WARM_UP", 0)
        patch.setattr(efficiency, "TIMED_CALLS", 1)
        yield


@pytest.fixture(scope="module", autouse=True)
def _no_ray_left_connected() -> Iterator[None]:
    """A program that ran in this process may leave its cluster, which the next one would take for its own."""
    yield
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        ray.shutdown()


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> TinyData:
    """30 users, 40 items, a checkerboard with holes, timestamps.

    A data set that every model trains on in milliseconds.
    """
    from tests.support.helpers import write_tiny

    return write_tiny(tmp_path_factory.mktemp("data"), "tiny")


@pytest.fixture
def own_models(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Models that a test registers are forgotten after it."""
    from recbole_kd.integration import model_classes
    from recbole_kd.integration import register as registration

    monkeypatch.setattr(registration, "_registered", dict(registration._registered))
    monkeypatch.setattr(model_classes, "_known", dict(model_classes._known))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        module = sys.modules[name]
        alias = module.__name__ != name or not hasattr(
            module, "__file__"
        )  # RecBole's own modules stay: they were only imported
        if name.startswith("recbole.model.") and alias:
            del sys.modules[name]
