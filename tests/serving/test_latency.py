"""Latency of student and teacher: what is timed, how often, and what is said where a teacher cannot be."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import recbole_kd
from recbole_kd.cli.program import main
from recbole_kd.errors import TeacherError
from recbole_kd.pipeline.quick_start import run_recbole_kd
from recbole_kd.serving import latency
from recbole_kd.serving.known_interactions import KnownInteractions
from recbole_kd.serving.latency import DRAWN, FEWEST_CALLS, WARM_UP, ranker, timed
from recbole_kd.serving.student_scores import ModelScores
from recbole_kd.serving.teacher_scores import teacher_scores
from recbole_kd.storage.files import SCORES, read_manifest, read_tensors
from recbole_kd.teacher.export import scores_from
from tests.support.students import KEYS, SEQUENTIAL, place, trained

QUICK = ["--seconds=0.01"]


def test_calls_are_timed_after_a_warm_up_and_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    calls: list[tuple[str, tuple[int, ...]]] = []
    monkeypatch.setattr(latency, "perf_counter", lambda: now[0])

    def rank(name: str, seconds: float, users: torch.Tensor) -> None:
        calls.append((name, tuple(users.tolist())))
        now[0] += seconds * (3 if len(calls) % 20 == 0 else 1)

    rankers: Any = {"a": lambda users: rank("a", 0.001, users), "b": lambda users: rank("b", 0.01, users)}
    found = timed(rankers, 50, 4, seconds=1.0)
    names = [name for name, _ in calls]
    assert names[: 2 * WARM_UP] == ["a"] * WARM_UP + ["b"] * WARM_UP
    after = names[2 * WARM_UP :]
    assert after == ["a", "b"] * (len(after) // 2)
    assert [one.calls for one in found] == [len(after) // 2] * 2 and 2.0 <= now[0] < 2.5
    assert (found[0].p50_ms, found[1].p50_ms) == (pytest.approx(1.0), pytest.approx(10.0))
    assert found[1].p99_ms == pytest.approx(30.0) and found[0].users_per_second == pytest.approx(4000, rel=0.01)
    users = [users for _, users in calls]
    assert {len(some) for some in users} == {4} and 1 <= min(map(min, users)) <= max(map(max, users)) < 50
    assert users[0] == users[WARM_UP] and len(set(users)) == DRAWN  # both are asked about the same users


def test_a_call_gives_the_lists_of_recommend() -> None:
    student = recbole_kd.load_student(trained("HSTU")["folder"])
    ids, scores = ranker(student, student.scores, 3)(torch.tensor([2, 5]))  # type: ignore[misc]
    expected = student.recommend(student.users.tokens[2:6:3], k=3)
    assert student.items.of(ids.numpy().ravel()).tolist() == list(expected["item"])
    assert scores.ravel().numpy() == pytest.approx(expected["score"].to_numpy())


def test_the_program_times_both_and_writes_what_it_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, threads = tmp_path / "latency.json", torch.get_num_threads()
    assert main(["latency", trained("MF")["folder"], *QUICK, "--threads=2", f"--out={out}"]) == 0
    assert torch.get_num_threads() == threads
    printed = capsys.readouterr().out
    content = json.loads(out.read_text())
    assert content["threads"] == 2 and content["k"] == 10 and content["teacher_missing"] is None
    assert [(one["name"], one["batch"]) for one in content["latency"]] == [
        (name, batch) for batch in (1, 512) for name in ("student MF", "teacher LightGCN")
    ]
    for one in content["latency"]:
        assert 0 < one["p50_ms"] <= one["p95_ms"] <= one["p99_ms"] and one["calls"] >= FEWEST_CALLS
        assert f"{one['p50_ms']:.3f}" in printed and one["users_per_second"] > 0
    assert "top 10 of 40 items, 2 threads" in printed


def test_a_teacher_that_is_not_there_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Path(trained("MF")["folder"])
    shutil.copytree(run / "student", tmp_path / "run" / "student")
    assert main(["latency", str(tmp_path / "run"), *QUICK]) == 0
    assert "no result.json names it. Name its folder by --teacher_path." in capsys.readouterr().out
    result = json.loads((run / "result.json").read_text())
    teacher = result["teacher"]["path"]
    result["teacher"]["path"] = str(tmp_path / "gone")
    (tmp_path / "run" / "result.json").write_text(json.dumps(result))
    assert main(["latency", str(tmp_path / "run"), *QUICK]) == 0
    printed = capsys.readouterr().out
    assert "The run's teacher is not timed: No teacher at" in printed and "student MF" in printed
    assert main(["latency", str(tmp_path / "run"), *QUICK, f"--teacher_path={teacher}"]) == 0
    assert "teacher LightGCN" in capsys.readouterr().out
    (tmp_path / "run" / "result.json").write_text("[]")
    assert main(["latency", str(tmp_path / "run"), *QUICK]) == 2
    assert "is not a result of a run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--k=0"], "Invalid --k=0"),
        (["--threads=0"], "Invalid --threads=0"),
        (["--seconds=nan"], "Invalid --seconds=nan"),
        (["--out=mine"], "Invalid --out=mine"),
        (["--teacher_path=missing"], "No teacher at missing"),
    ],
)
def test_bad_words_are_a_sentence(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").write_text("mine")
    assert main(["latency", trained("MF")["folder"], *words]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert said in line and (tmp_path / "mine").read_text() == "mine"


# -- teachers
# ---------------------------------------------------------------------------------------------------------------


def taught_by(teacher: str, **keys: Any) -> dict[str, Any]:
    """The result of a run of an MF, or another model, under another teacher."""
    folder = place()
    places = {
        "data_path": str(folder / "data"),
        "cache_dir": str(folder / "cache"),
        "output_dir": str(folder / "saved"),
    }
    return run_recbole_kd(
        "MF", config_dict={**KEYS, "embedding_size": 4, "kd": "CE", **places, "teacher": teacher, **keys}
    )


def test_a_teacher_of_histories_encodes_them() -> None:
    """Its kept vectors are those of the training histories, which a service does not have.

    So it is rebuilt from its weights.
    """
    sizes = {key: value for key, value in SEQUENTIAL.items() if key != "kd"}
    result = taught_by("SASRec", setting="sequential", teacher_config={"epochs": 1, **sizes, "n_heads": 1})
    student = recbole_kd.load_student(result["folder"])
    seen = {name: column[student.known.seen["part"] == 0] for name, column in student.known.seen.items()}
    name, scores = teacher_scores(Path(result["teacher"]["path"]), _knowing(student, seen))
    assert name == "SASRec" and isinstance(scores, ModelScores)
    users = torch.arange(1, len(student.users))
    folder = Path(result["teacher"]["path"])
    store = scores_from(read_tensors(folder / SCORES), read_manifest(folder))
    with scores.of_users(users, as_tested=False) as full:
        torch.testing.assert_close(
            full(torch.arange(len(users)))[:, 1:], store.full(users)[:, 1:], atol=1e-5, rtol=1e-4
        )


def _knowing(student: recbole_kd.Student, seen: dict[str, torch.Tensor]) -> recbole_kd.Student:
    return replace(student, known=KnownInteractions(seen, len(student.users), student.known.tested))


def test_a_teacher_that_cannot_be_rebuilt_or_is_of_other_data_is_a_sentence(tmp_path: Path) -> None:
    student = recbole_kd.load_student(trained("MF")["folder"])
    result = taught_by("EASE", teacher_config={})
    with pytest.raises(TeacherError, match="The teacher EASE is kept as dense"):
        teacher_scores(Path(result["teacher"]["path"]), student)
    fewer = type(student.items)("item", student.items.tokens[:-1])
    with pytest.raises(TeacherError, match="41 items, the student of 31 users and 40 items"):
        teacher_scores(Path(trained("MF")["teacher"]["path"]), replace(student, items=fewer))


def test_equal_models_of_a_run_have_one_time() -> None:
    result = taught_by("MF", teacher_config={"epochs": 1, "embedding_size": 4}, kd_compare=True)
    times = {result[part]["inference_us_per_user"] for part in ("teacher", "student", "distilled")}
    assert len(times) == 1 and times.pop() > 0
