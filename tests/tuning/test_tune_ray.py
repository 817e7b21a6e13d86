"""Ray Tune over kd parameters: spaces, trials, resuming, a cluster that loses a node and its driver."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray
import yaml

from recbole_kd.cli.run import main as run_main
from recbole_kd.cli.tune import main
from recbole_kd.distributed.ray_cluster import connect, own_devices
from recbole_kd.errors import ConfigError
from recbole_kd.storage.files import SCORES
from recbole_kd.tuning import ray_space
from recbole_kd.tuning.ray_record import StudyRecord, recorded_from
from recbole_kd.tuning.ray_trial import as_trial
from recbole_kd.tuning.space import Space, read_space
from recbole_kd.tuning.study import FAILED, Study, Trial
from recbole_kd.tuning.teacher_transfer import pack, unpack
from tests.support import paths
from tests.support.runs import gpus_of_a_run, results, words

ROOT = paths.ROOT
STORE = 100 * 2**20


@pytest.fixture
def local_ray() -> Iterator[None]:
    """Ray on this machine, small."""
    ray.init(
        num_cpus=2, object_store_memory=2 * STORE, include_dashboard=False, log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}},
    )  # fmt: skip
    yield
    ray.shutdown()


def search(folder: Path, space: str, *more: str) -> int:
    (folder / "space.yaml").write_text(space)
    kept = [word for word in words(folder, output_dir=str(folder / "saved")) if not word.startswith("--kd_k=")]
    return main([*kept, "--tool=Ray", "--study=s", f"--params_file={folder / 'space.yaml'}", *more])


def trials(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "saved" / "s" / "trials.json").read_text())["trials"]
    return found


def logs(folder: Path) -> str:
    return "".join(path.read_text() for path in (folder / "saved").rglob("run.log"))


# -- without a cluster
# ----------------------------------------------------------------------------------------------------


def space_of(folder: Path, text: str) -> Space:
    (folder / "space.yaml").write_text(text)
    return read_space(folder / "space.yaml")


def test_rays_domains_keep_to_their_ends(tmp_path: Path) -> None:
    text = """
    a: {choice: [1, x]}
    b: {uniform: [0.5, 2]}
    c: {loguniform: [1.0e-3, 1]}
    d: {int: [3, 5]}
    e: {logint: [2, 9]}
    f: {quniform: [0, 1, 0.25]}
    """
    domains = ray_space.ray_space(space_of(tmp_path, text), "RCEKD")
    drawn = {name: {domain.sample() for _ in range(200)} for name, domain in domains.items()}
    assert drawn["a"] == {1, "x"} and drawn["d"] == {3, 4, 5} and min(drawn["e"]) >= 2 and max(drawn["e"]) <= 9
    assert all(0.5 <= value <= 2 for value in drawn["b"]) and all(1e-3 <= value <= 1 for value in drawn["c"])
    assert drawn["f"] == {0, 0.25, 0.5, 0.75, 1}


def test_a_grid_is_one_parameter_of_whole_combinations(tmp_path: Path) -> None:
    space = space_of(tmp_path, "kd_k: {grid: [3, 5]}\nkd_beta: {grid: [1, 2]}\nkd_weight: {uniform: [1, 2]}\n")
    domains = ray_space.ray_space(space, "RCEKD")
    assert set(domains) == {"kd_weight", "grid"} and len(domains["grid"]["grid_search"]) == 4
    drawn = ray_space.drawn_values({"kd_weight": 1.5, "grid": {"kd_k": 3, "kd_beta": 2}})
    assert space.settings(drawn, "RCEKD") == {"kd_weight": 1.5, "kd_k": 3, "kd_beta": 2}


@pytest.mark.parametrize(
    ("searcher", "words_"), [("optuna", "searcher=optuna cannot run a grid and kd_k is one"), ("random", "")]
)
def test_a_grid_needs_the_random_searcher(tmp_path: Path, searcher: str, words_: str) -> None:
    space = space_of(tmp_path, "kd_k: {grid: [3, 5]}\n")
    if words_:
        with pytest.raises(ConfigError, match=words_):
            ray_space.check_searcher(space, searcher)
    else:
        ray_space.check_searcher(space, searcher)


def test_the_states_of_trials(tmp_path: Path) -> None:
    space, study = space_of(tmp_path, "kd_k: {choice: [3, 5]}\n"), Study({"kd": "RCEKD"}, tmp_path)
    done = {
        "state": "done",
        "score": 0.2,
        "bigger": True,
        "metric": "ndcg@10",
        "valid": {"ndcg@10": 0.2},
        "test": {},
        "epoch": 7,
    }

    def trial(metrics: dict[str, Any] | None, error: Exception | None = None) -> Trial:
        return as_trial(SimpleNamespace(metrics=metrics, config={"kd_k": 3}, error=error), space, study)

    assert trial(done) == Trial({"kd_k": 3}, "done", 0.2, True, 7, "ndcg@10", {"ndcg@10": 0.2}, {})
    assert trial({"state": "running", "best": 0.1, "epoch": 2}).state == "stopped"
    assert trial({"state": "running", "best": -0.9, "epoch": 2}) == Trial({"kd_k": 3}, "stopped", 0.9, False, 2), (
        "RMSE, say"
    )
    assert trial({"state": "failed", "reason": "nan", "best": FAILED}).reason == "nan"
    lost = trial({"state": "running", "best": 0.1, "epoch": 2}, RuntimeError("the worker died: out of memory"))
    assert lost.state == "failed" and "out of memory" in lost.reason
    assert trial(None).state == "interrupted"


def test_teachers_reach_a_node_once(tmp_path: Path) -> None:
    entry = tmp_path / "here" / "teacher" / "a"
    entry.mkdir(parents=True)
    (entry / "scores.safetensors").write_bytes(b"1234")
    packed = pack([entry], tmp_path / "here")
    asked: list[int] = []

    def files() -> Any:
        asked.append(1)
        return packed

    for _ in range(2):
        unpack(["teacher/a"], files, tmp_path / "there")
    assert len(asked) == 1 and (tmp_path / "there" / "teacher" / "a" / "scores.safetensors").read_bytes() == b"1234"
    unpack(["teacher/a"], files, tmp_path / "here")  # a shared disk has it already
    assert len(asked) == 1 and np.array_equal(
        packed["teacher/a"]["scores.safetensors"], np.frombuffer(b"1234", dtype=np.uint8)
    )


def test_a_worker_keeps_the_gpus_that_it_was_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from recbole_kd.config.merging import merge_sources
    from recbole_kd.pipeline.request import make_request

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    base = {"model": "MF", "teacher": "MF", "kd": "RCEKD", "dataset": "ml-100k", **own_devices()}
    request = make_request(merge_sources(None, base, {}))
    request.distilled_config("MF")
    request.teacher_configs()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3,5"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert own_devices() == {}


def test_nothing_answers_at_an_address() -> None:
    with pytest.raises(ConfigError, match="ray_address='nowhere': no Ray cluster answers there"):
        connect("nowhere")


# -- with one
# ---------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_study_of_two_trials(tmp_path: Path, local_ray: None, capsys: pytest.CaptureFixture[str]) -> None:
    grid = "kd_k: {grid: [41, 5]}\n"  # the first cannot be, and neither can the default
    assert search(tmp_path, grid, "--max_evals=1", "--scheduler=FIFO") == 0
    found = {t["settings"]["kd_k"]: t for t in trials(tmp_path)}
    assert found[5]["state"] == "done" and found[5]["epochs"] == 3 and found[5]["score"] == found[5]["valid"]["ndcg@10"]
    assert (
        found[41]["state"] == "failed" and "Invalid --kd_k=41: expected an integer from 1 to 40" in found[41]["reason"]
    )
    assert "Invalid --kd_k=41: expected an integer from 1 to 40" in capsys.readouterr().out
    same = ["--max_evals=1", "--scheduler=FIFO", "--resume=True"]
    assert search(tmp_path, grid) == 2
    assert "continue it with --resume=True" in capsys.readouterr().err
    assert search(tmp_path, "kd_k: {grid: [5, 8]}\n", *same) == 2
    assert "was made for another search space: give it the same" in capsys.readouterr().err
    assert search(tmp_path, grid, *same, "--learning_rate=0.5") == 2
    assert "was made with other keys (learning_rate=None, not 0.5)" in capsys.readouterr().err
    assert search(tmp_path, grid, "--max_evals=2", *same[1:]) == 2
    assert "was made by another search (max_evals=1, not 2)" in capsys.readouterr().err
    assert search(tmp_path, grid, *same) == 0 and {t["settings"]["kd_k"]: t for t in trials(tmp_path)} == found


CONDITIONAL = """
kd: {choice: [RCEKD, RRD]}
kd_weight: {loguniform: [0.5, 50]}
methods:
  RCEKD: {kd_k: {choice: [3, 5, 8]}, kd_beta: {uniform: [1, 9]}}
  RRD: {kd_k: {int: [4, 9]}}
"""


@pytest.mark.slow
@pytest.mark.parametrize("searcher", ["random", "hyperopt", "optuna"])
def test_searchers_over_two_methods(tmp_path: Path, local_ray: None, searcher: str) -> None:
    # only keys that both methods know may stand in the base
    more = [f"--searcher={searcher}", "--max_evals=6", "--grace_period=1", "--cpus_per_trial=0.5"]
    (tmp_path / "space.yaml").write_text(CONDITIONAL)
    kept = [word for word in words(tmp_path, kd=None) if not word.startswith("--kd_k=")]
    assert main([*kept, "--tool=Ray", "--study=s", f"--params_file={tmp_path / 'space.yaml'}", *more]) == 0
    found = trials(tmp_path)
    assert len(found) == 6 and {t["state"] for t in found} <= {"done", "stopped"}
    for t in found:
        assert set(t["settings"]) == {
            "kd",
            "kd_weight",
            "kd_k",
            *(["kd_beta"] if t["settings"]["kd"] == "RCEKD" else []),
        }
        assert t["settings"]["kd_k"] in ((3, 5, 8) if t["settings"]["kd"] == "RCEKD" else range(4, 10))
    assert logs(tmp_path).count("Training the teacher") == 1


@pytest.mark.slow
def test_nodes_without_a_shared_disk_get_the_teacher_from_the_object_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two nodes whose caches are different folders: one trains the teacher, the other writes what it gets, once."""
    from ray.cluster_utils import Cluster

    (tmp_path / "space.yaml").write_text("kd_weight: {grid: [1, 2, 4, 8, 16, 32]}\n")
    caches = [tmp_path / "cache-a", tmp_path / "cache-b"]
    monkeypatch.setenv("RECBOLE_KD_CACHE", str(tmp_path / "cache-of-the-driver"))
    node = {"num_cpus": 1, "object_store_memory": STORE}
    first, second = ({**node, "env_vars": {"RECBOLE_KD_CACHE": str(cache)}} for cache in caches)
    cluster = Cluster(initialize_head=True, head_node_args={**first, "include_dashboard": False})
    try:
        cluster.add_node(**second)
        given = words(tmp_path, cache_dir=None, output_dir=str(tmp_path / "saved"))
        more = [
            "--tool=Ray",
            "--study=s",
            f"--params_file={tmp_path / 'space.yaml'}",
            "--max_evals=1",
            "--scheduler=FIFO",
        ]
        assert main([*given, *more, f"--ray_address={cluster.address}"]) == 0
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert [t["state"] for t in trials(tmp_path)] == 6 * ["done"] and logs(tmp_path).count("Training the teacher") == 1
    paths = [
        Path(json.loads(path.read_text())["teacher"]["path"])
        for path in (tmp_path / "saved" / "s" / "runs").glob("*/result.json")
    ]
    assert len(paths) == 6 and {path.parents[1] for path in paths} == set(caches)
    one, other = ({path.name: path.read_bytes() for path in entry.iterdir()} for entry in sorted(set(paths)))
    assert one == other and SCORES in one
    assert not (tmp_path / "cache-of-the-driver").exists()


@pytest.mark.slow
def test_trials_on_a_ray_worker_keep_the_gpus_that_ray_gave_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two made-up GPUs, a trial on each: a whole run, teacher included, leaves CUDA_VISIBLE_DEVICES as Ray set it."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    given = dict(word[2:].split("=", 1) for word in words(tmp_path))
    base = {key: yaml.safe_load(value) for key, value in given.items()}
    environment = {"env_vars": {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}}
    ray.init(
        num_cpus=2,
        num_gpus=2,
        object_store_memory=2 * STORE,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env=environment,
    )
    try:
        remote = ray.remote(num_gpus=1, num_cpus=1)(gpus_of_a_run)
        found = ray.get([remote.remote({**base, "seed": seed}) for seed in (1, 2)])
    finally:
        ray.shutdown()
    assert all(before == after == given and state == "done" for before, after, given, state in found)
    assert sorted(before for before, *_ in found) == ["4", "7"]


class _Bomb:
    """Pickles as a call of os.system."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


def _plant_bombs(study: Path, mark: Path) -> int:
    """Put a bomb into every file of a study that is not JSON of ours, and into Ray's own; return the number.

    Ray's own files are those that it looks for.
    """
    bomb = pickle.dumps(_Bomb(mark))
    own = {
        study / "study.json",
        study / "trials.json",
        study / "best.yaml",
        *(study / "record").iterdir(),
        *(study / "runs").rglob("*.json"),
    }
    files = [path for path in study.rglob("*") if path.is_file() and path not in own]
    names = (
        "tuner.pkl",
        "trainable.pkl",
        "searcher-state-now.pkl",
        "search_gen_state-now.json",
        "error.pkl",
        "params.pkl",
    )
    for folder in (study, *(path for path in study.rglob("*") if path.is_dir())):
        files += [folder / name for name in names if not (folder == study / "record" and name.endswith(".json"))]
    for path in files:
        path.write_bytes(bomb)
    state = {"trial_data": [[json.dumps({"x": {"_type": "CLOUDPICKLE_FALLBACK", "value": bomb.hex()}}), "{}"]]}
    for folder in (study, *(path for path in (study / "ray").iterdir() if path.is_dir())):
        (folder / "experiment_state-2099-01-01_00-00-00.json").write_text(json.dumps(state))
    return len(files)


@pytest.mark.slow
@pytest.mark.parametrize("searcher", ["random", "hyperopt", "optuna"])
def test_no_pickle_of_a_study_is_read_when_it_is_continued(searcher: str, tmp_path: Path, local_ray: None) -> None:
    """Of three trials one has not ended: it is run, the others are told from the record, and no bomb goes off."""
    mark, study = tmp_path / "mark", tmp_path / "saved" / "s"
    space = "kd_weight: {loguniform: [0.5, 50]}\nkd_k: {int: [3, 20]}\n"
    more = ["--max_evals=3", f"--searcher={searcher}", "--grace_period=1", "--reduction_factor=2"]
    assert search(tmp_path, space, *more) == 0
    before = trials(tmp_path)
    records = sorted((study / "record").iterdir(), key=lambda path: json.loads(path.read_text())["number"])
    assert len(records) == 3 and {t["state"] for t in before} <= {"done", "stopped"}
    lost = [json.loads(path.read_text())["trial"]["settings"] for path in records[-1:]]
    for path in records[-1:]:
        path.unlink()
        (study / "runs" / "outcomes" / path.name).unlink(missing_ok=True)
    assert _plant_bombs(study, mark) > 10
    written = {path: path.stat().st_mtime_ns for path in records[:-1]}
    assert search(tmp_path, space, *more, "--resume=True") == 0
    assert not mark.exists() and {path: path.stat().st_mtime_ns for path in written} == written
    after = trials(tmp_path)
    kept = [t for t in before if t["settings"] not in lost]
    assert len(after) == 3 and all(t in after for t in kept) and {t["state"] for t in after} <= {"done", "stopped"}
    if searcher == "random":
        assert all(any(t["settings"] == settings for t in after) for settings in lost), (
            "the same values are drawn again"
        )
    assert len({json.dumps(t["settings"]) for t in after}) == 3
    sessions = len(list((study / "ray").iterdir()))
    assert search(tmp_path, space, *more, "--resume=True") == 0
    assert len(list((study / "ray").iterdir())) == sessions, "a study at its end starts nothing"
    assert sorted(trials(tmp_path), key=str) == sorted(after, key=str)


def _recorded(tmp_path: Path, **changes: Any) -> StudyRecord:
    record = StudyRecord(tmp_path)
    for epoch in (1, 2):
        record.note({"kd_k": 3}, Trial({"kd_k": 3}, "interrupted", 0.1 * epoch, epochs=epoch), 0.1 * epoch)
    record.note({"kd_k": 5}, Trial({"kd_k": 5}, **{"state": "failed", "reason": "no room", **changes}))
    return record


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    record, read = _recorded(tmp_path), StudyRecord(tmp_path)
    read.read()
    assert read.trials == record.trials and [r.number for r in read.trials.values()] == [0, 1]
    first = read.of({"kd_k": 3})
    assert first is not None and first.curve == [0.1, 0.2] and not first.is_final
    read.note({"kd_k": 3}, Trial({"kd_k": 3}, "interrupted", 0.1, epochs=1), 0.1)  # reported again
    assert first.curve == [0.1, 0.2] and first.trial.epochs == 2
    read.note({"kd_k": 3}, Trial({"kd_k": 3}, "interrupted", 0.3, epochs=2), 0.3)  # the second epoch again
    assert first.curve == [0.1, 0.3]
    read.note({"kd_k": 3}, Trial({"kd_k": 3}, "stopped", 0.3, epochs=2))
    read.note({"kd_k": 3}, Trial({"kd_k": 3}, "interrupted", 0.0, epochs=1), 0.0)
    again = StudyRecord(tmp_path)
    again.read()
    assert again.trials == read.trials and again.of({"kd_k": 3}).trial.state == "stopped"  # type: ignore[union-attr]
    assert {d: recorded_from(plain) for d, plain in json.loads(json.dumps(again.plain())).items()} == again.trials


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"{}", b"null", b"\x80\x04N.", b'{"number": 0, "drawn": {}, "curve": [], "trial": {}}',
        b'{"number": "0", "drawn": {}, "curve": [], "trial": {"settings": {"kd_k": 3}, "state": "done"}}',
        b'{"number": 0, "drawn": {}, "curve": ["x"], "trial": {"settings": {"kd_k": 3}, "state": "failed"}}',
        b'{"number": 0, "drawn": {}, "curve": [], "trial": {"settings": {"kd_k": 4}, "state": "failed"}}',
        b'{"number": 0, "drawn": {}, "curve": [NaN], "trial": {"settings": {"kd_k": 3}, "state": "failed"}}',
        b"[" * 100000,
    ],
)  # fmt: skip
def test_a_damaged_record_is_named(content: bytes, tmp_path: Path) -> None:
    _recorded(tmp_path)
    path = next(path for path in (tmp_path / "record").iterdir() if '"kd_k": 3' in path.read_text())
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"{path.name} is damaged .* delete it, and its trial is run again"):
        StudyRecord(tmp_path).read()


EVERY_KIND = """
a: {choice: [7, x, 0.5]}
b: {uniform: [0.5, 2]}
c: {loguniform: [1.0e-3, 1]}
d: {int: [3, 50]}
e: {logint: [2, 90]}
f: {quniform: [0, 1, 0.25]}
"""


@pytest.mark.parametrize("name", ["hyperopt", "optuna"])
def test_values_of_every_kind_come_back_from_the_record_as_they_were(name: str, tmp_path: Path) -> None:
    pytest.importorskip(name)
    space, options = space_of(tmp_path, EVERY_KIND), {"search_seed": 0, "searcher": name}
    first = ray_space.make_searcher(options, space, StudyRecord(tmp_path))
    first.set_search_properties("objective", "max", ray_space.ray_space(space, "RCEKD"))
    drawn = [first.suggest(str(n)) for n in range(4)]
    record, read = StudyRecord(tmp_path), StudyRecord(tmp_path)
    for values in drawn:
        record.note(values, Trial(space.settings(values, "RCEKD"), "failed", reason="no room"))
    read.read()
    again = ray_space.make_searcher(options, space, read)
    again.set_search_properties("objective", "max", ray_space.ray_space(space, "RCEKD"))
    told = [space.settings(again.suggest(str(n)), "RCEKD") for n in range(5)]
    assert [json.dumps(t) for t in told[:4]] == [json.dumps(space.settings(values, "RCEKD")) for values in drawn]
    assert told[4] not in told[:4]


def test_a_searcher_that_learns_tries_first_what_is_known_and_draws_on(tmp_path: Path) -> None:
    space, record = space_of(tmp_path, "kd_k: {int: [3, 50]}\n"), _recorded(tmp_path)
    for name in ("hyperopt", "optuna"):
        pytest.importorskip(name)
        drawn = []
        for known in (StudyRecord(tmp_path / "none"), record):
            searcher = ray_space.make_searcher({"search_seed": 0, "searcher": name}, space, known)
            searcher.set_search_properties("objective", "max", ray_space.ray_space(space, "RCEKD"))
            drawn.append([searcher.suggest(str(n))["kd_k"] for n in range(4)])
        assert drawn[1][:2] == [3, 5] and drawn[1][2:] != drawn[0][:2]


CLUSTER = """
kd_weight: {loguniform: [0.5, 100]}
kd_beta: {uniform: [0.5, 9]}
"""
SETTINGS = [
    "--model=MF", "--teacher=MF", "--kd=RCEKD", "--dataset=ml-100k", "--embedding_size=8",
    "--teacher.embedding_size=16", "--teacher.epochs=2",
    "--epochs=9", "--kd_k=10", "--kd_n_samples=10", "--kd_candidates=50", "--state=INFO", "--show_progress=False",
    "--tool=Ray",
    "--max_evals=12", "--grace_period=1", "--reduction_factor=3", "--study=s",
]  # fmt: skip


def wait_for(what: Callable[[], bool], driver: subprocess.Popen[bytes], seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert driver.poll() is None, "the driver ended early"
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.5)


@pytest.mark.slow
def test_a_node_and_the_driver_are_lost_and_no_finished_trial_is_repeated(tmp_path: Path) -> None:
    from ray.cluster_utils import Cluster

    (tmp_path / "space.yaml").write_text(CLUSTER)
    command = [
        sys.executable, str(ROOT / "scripts" / "run_hyper_kd.py"), *SETTINGS,
        f"--params_file={tmp_path / 'space.yaml'}",
        f"--cache_dir={tmp_path / 'cache'}", f"--output_dir={tmp_path / 'saved'}",
    ]  # fmt: skip
    done = tmp_path / "saved" / "s" / "runs" / "outcomes"

    def finished() -> list[str]:
        return sorted(path.name for path in done.glob("*.json")) if done.is_dir() else []

    def begun() -> set[str]:
        return {path.name for path in (tmp_path / "saved" / "s" / "runs").glob("MF-MF-RCEKD-*")}

    node = {"num_cpus": 1, "object_store_memory": STORE}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        second = cluster.add_node(**node)
        command.append(f"--ray_address={cluster.address}")
        with open(tmp_path / "first.log", "wb") as log:
            driver = subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path)
            wait_for(lambda: len(finished()) >= 1 and len(begun()) >= 3, driver)
            cluster.remove_node(second, allow_graceful=False)
            wait_for(lambda: len(begun()) >= 6, driver)
            driver.send_signal(signal.SIGKILL)
            driver.wait()
        before = finished()
        times = {name: (done / name).stat().st_mtime_ns for name in before}
        cluster.add_node(**node)
        with open(tmp_path / "second.log", "wb") as log:
            assert (
                subprocess.run(
                    [*command, "--resume=True"], stdout=log, stderr=log, cwd=tmp_path, timeout=600
                ).returncode
                == 0
            )
    finally:
        cluster.shutdown()
    found = trials(tmp_path)
    assert len(found) == 12 and {t["state"] for t in found} <= {"done", "stopped"}
    assert before and {name: (done / name).stat().st_mtime_ns for name in before} == times
    results_of = [json.loads(path.read_text()) for path in (tmp_path / "saved" / "s" / "runs").glob("*/result.json")]
    keys = [(r["kd_weight"], r["kd_options"]["kd_beta"]) for r in results_of]
    assert len(keys) == len(set(keys)) == sum(t["state"] == "done" for t in found)
    assert logs(tmp_path).count("Training the teacher") == 1
    best = max((t for t in found if t["state"] == "done"), key=lambda t: t["score"])
    assert run_main([f"--config_files={tmp_path / 'saved' / 's' / 'best.yaml'}"]) == 0
    again = results(tmp_path)[-1]
    assert again["distilled"]["valid"] == best["valid"]
