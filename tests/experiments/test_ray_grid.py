"""Grids of experiments as Ray tasks: the local run's results, a task that fails alone, a node that is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import ray

from recbole_kd.errors import TrainingError
from recbole_kd.experiments.runner import _outcome
from tests.support import paths
from tests.support.helpers import write_tiny
from tests.support.made_results import reproduce, write_grid

ROOT = paths.ROOT
STORE = 100 * 2**20


def found(folder: Path) -> dict[str, dict[str, Any]]:
    return {file.name: json.loads(file.read_text()) for file in sorted((folder / "tiny-grid").glob("*.json"))}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Do two results of a task agree in all that is no time and no memory?"""
    parts = ("valid", "test", "kd_loss", "epochs", "best_epoch")
    return (
        all(one["distilled"][part] == other["distilled"][part] for part in parts)
        and one["student"]["test"] == other["student"]["test"]
    )


def test_the_reason_inside_rays_wrapping_is_shown() -> None:
    class WrappedError(Exception):
        cause = TrainingError("The loss is nan in epoch 3")

    def ask() -> None:
        raise WrappedError("a long traceback")

    assert _outcome(ask) == (None, "The loss is nan in epoch 3")


@pytest.mark.slow
def test_on_ray_the_results_are_those_of_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tiny(tmp_path / "data", "tiny")
    monkeypatch.chdir(tmp_path)
    runs = {"RCE-KD": {}, "vanilla CE": {"kd_variant": "vanilla_ce"}, "too long": {"kd_k": 41}}
    path = write_grid(tmp_path, seeds=[0], runs=runs)
    results = {}
    environment = {"env_vars": {"PYTHONPATH": str(ROOT)}}
    for name, more in (("one", []), ("ray", ["--ray_address=local", "--cpus_per_task=0.5"])):
        monkeypatch.setenv("RECBOLE_KD_CACHE", str(tmp_path / f"cache-{name}"))
        if more:
            ray.init(
                num_cpus=2,
                object_store_memory=2 * STORE,
                include_dashboard=False,
                log_to_driver=False,
                runtime_env=environment,
            )
        try:
            assert (
                reproduce([str(path), f"--data_path={tmp_path / 'data'}", f"--results={tmp_path / name}", *more]) == 1
            )
        finally:
            ray.shutdown()
        results[name] = found(tmp_path / name)
        assert "too long seed 0: failed kd_k=41 is not possible" in capsys.readouterr().out
    assert list(results["one"]) == list(results["ray"]) == ["rce-kd-seed0.json", "vanilla-ce-seed0.json"]
    assert all(same(one, results["ray"][name]) for name, one in results["one"].items())


@pytest.mark.slow
def test_a_lost_node_loses_nothing_that_was_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.cluster_utils import Cluster

    write_tiny(tmp_path / "data", "tiny")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RECBOLE_KD_CACHE", str(tmp_path / "cache"))
    path = write_grid(tmp_path, seeds=[0, 1, 2])
    words = [str(path), f"--data_path={tmp_path / 'data'}"]
    node = {"num_cpus": 1, "object_store_memory": STORE}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        second = cluster.add_node(**node)
        command = [sys.executable, str(ROOT / "scripts" / "reproduce.py"), *words, f"--results={tmp_path / 'ray'}"]
        with open(tmp_path / "driver.log", "wb") as log:
            driver = subprocess.Popen(
                [*command, f"--ray_address={cluster.address}"], stdout=log, stderr=log, env=dict(os.environ)
            )
            end = time.monotonic() + 180
            while not found(tmp_path / "ray"):
                assert driver.poll() is None and time.monotonic() < end
                time.sleep(0.2)
            before = {file: file.stat().st_mtime_ns for file in (tmp_path / "ray" / "tiny-grid").glob("*.json")}
            cluster.remove_node(second, allow_graceful=False)
            assert driver.wait(timeout=300) == 0
    finally:
        cluster.shutdown()
    said = [line for line in (tmp_path / "driver.log").read_text().splitlines() if line.startswith("[tiny-grid")]
    assert len(said) == 4 and all(line.endswith(": done") for line in said)
    assert all(file.stat().st_mtime_ns == when for file, when in before.items())
    assert reproduce([*words, f"--results={tmp_path / 'one'}"]) == 0
    one, other = found(tmp_path / "one"), found(tmp_path / "ray")
    assert len(one) == 4 and one.keys() == other.keys()
    assert all(same(result, other[name]) for name, result in one.items())
    assert len(list((tmp_path / "cache" / "teacher").glob("*.lock"))) == 1
