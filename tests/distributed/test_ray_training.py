"""Trainings on two nodes of a Ray cluster have the losses of one process, also if a node is lost on the way."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from recbole_kd.cli.run import main
from recbole_kd.distributed.ray_ranks import LOWEST_RAY, check_shared, ray_version
from recbole_kd.errors import ConfigError
from tests.support.runs import refusal, run
from tests.support.runs import words as words_of_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.scale,
    pytest.mark.skipif(ray_version() < LOWEST_RAY, reason="Ray Train is too old"),
]

NODE = {"num_cpus": 2, "object_store_memory": 100 * 2**20}
SEVERAL_EPOCHS: dict[str, str | None] = {"kd": "CE", "kd_n_samples": None, "kd_candidates": None}
"""CE under the teacher's lists draws nothing: rounding does not change what is learnt later."""

CHANGES: dict[str, dict[str, str | None]] = {
    "MF": {},
    "LightGCN": {"model": "LightGCN"},
    "SASRec": {
        "model": "SASRec", "teacher": "MF", "eval_args.order": None, "embedding_size": None, "hidden_size": "4",
        "inner_size": "4", "hidden_dropout_prob": "0", "attn_dropout_prob": "0",
    },
}  # fmt: skip
"""Students, without dropout, which each process would draw for itself."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head that trains nothing, and two nodes."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 0, "include_dashboard": False})
    try:
        made.nodes = [made.add_node(**NODE) for _ in range(2)]
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def both(folder: Path, cluster: Any, **changes: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the results of one process and of two nodes; the second run takes teacher and student of the first."""
    return run(folder, **changes), run(folder, "--nproc=2", f"--ray_address={cluster.address}", **changes)


def assert_same(found: dict[str, Any], wanted: dict[str, Any], epochs: int) -> None:
    """Compare losses by epoch and metrics of two runs."""
    for name in ("base_loss", "kd_loss"):
        ours, theirs = (result["distilled"]["history"][name] for result in (found, wanted))
        assert len(ours) == epochs and ours == pytest.approx(theirs, rel=1e-5), name
    for part in ("valid", "test"):
        assert found["distilled"][part] == pytest.approx(wanted["distilled"][part], abs=1e-5), part


@pytest.mark.parametrize("student", list(CHANGES))
def test_two_nodes_train_as_one_process(student: str, cluster: Any, tmp_path: Path) -> None:
    wanted, found = both(tmp_path, cluster, kd_compare="False", **CHANGES[student])
    assert_same(found, wanted, 3)
    assert not list(tmp_path.rglob(".ray-*"))


def test_too_large_for_the_cluster(cluster: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(capsys, tmp_path, "--nproc=5", f"--ray_address={cluster.address}")
    assert "nproc=5 is more than the 4 CPUs of the Ray cluster" in said
    assert not (tmp_path / "saved").exists()


def test_a_folder_that_the_nodes_do_not_see_is_named(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is named by way of the working folder of the process that reads it, which the nodes do not share."""
    ray.init(address=cluster.address, ignore_reinit_error=True, log_to_driver=False)
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    check_shared(ray, [tmp_path / "mine"], False)
    with pytest.raises(ConfigError, match="does not see the folder /proc/self/cwd/mine: set cache_dir and output_dir"):
        check_shared(ray, [Path("/proc/self/cwd/mine")], False)


def test_an_error_of_a_rank_is_said_as_that_of_one_process(
    cluster: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = []
    for place, more in (("one", ()), ("two", ("--nproc=2", f"--ray_address={cluster.address}"))):
        folder = tmp_path / place
        folder.mkdir()
        assert main([*words_of_run(folder), *more, "--teacher.learning_rate=1e30"]) == 2
        said.append(capsys.readouterr().err.strip().splitlines()[-1])
    assert said[0] == said[1] and "LightGCN" in said[0] and "learning_rate" in said[0]


def test_a_node_is_lost_and_the_training_continues(cluster: Any, tmp_path: Path) -> None:
    """The ranks are on a node each, and afterwards both on the one that is left."""
    epochs = 40
    changes: dict[str, str | None] = {
        **SEVERAL_EPOCHS, "kd_compare": "False", "epochs": str(epochs), "stopping_step": str(epochs),
        "train_batch_size": "8",
    }  # fmt: skip
    wanted = run(tmp_path, **changes)
    reached: list[int] = []

    def lose() -> None:
        """Lose a node once the distillation has written its state, and note the epoch."""
        while not (files := list((tmp_path / "cache" / "distilled").glob("*.pt"))):
            time.sleep(0.02)
        cluster.remove_node(cluster.nodes[0], allow_graceful=False)
        reached.append(torch.load(files[0], weights_only=True)["epoch"])

    thread = threading.Thread(target=lose, daemon=True)
    thread.start()
    found = run(tmp_path, "--nproc=2", f"--ray_address={cluster.address}", **changes)
    thread.join(60)
    assert reached and reached[0] < epochs - 1, "the node was lost in the middle"
    assert_same(found, wanted, epochs)
    assert "The Ray cluster lost a process" in (found["folder"] / "run.log").read_text()
    assert not list((tmp_path / "cache" / "distilled").glob("*.pt"))
