"""Interrupted trainings of models of histories, with dropout, go on to the same result, bit by bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from recbole_kd.cli.run import main
from recbole_kd.integration.safe_load import load_checkpoint
from recbole_kd.training import resume_state as resume
from tests.support.runs import cut_after, run, words

LENGTHS: dict[str, str | None] = {"MAX_ITEM_LIST_LENGTH": "6", "teacher.MAX_ITEM_LIST_LENGTH": "8"}
CASES = [("SASRec", "SASRec", "sequential"), ("HSTU", "HSTU", "sequential"), ("HSTU", "HSTU", "general")]
SMALL = {"hidden_size": "8", "inner_size": "8", "n_layers": "1"}
DROPOUTS = {
    "SASRec": {
        "hidden_dropout_prob": "0.3",
        "attn_dropout_prob": "0.3",
        "hidden_size": "8",
        "inner_size": "8",
        "n_layers": "1",
    },
    "HSTU": {"input_dropout": "0.3", "linear_dropout": "0.3", "embedding_size": "8"},
}


def changes_of(model: str, teacher: str, setting: str, kd: str) -> dict[str, str | None]:
    left_out: dict[str, str | None] = {"embedding_size": None, "teacher.embedding_size": None, "eval_args.order": None}
    own = {**DROPOUTS[model], **{f"teacher.{key}": value for key, value in DROPOUTS[teacher].items()}}
    few = {
        "epochs": "4",
        "teacher.epochs": "4",
        "kd_compare": "False",
        "train_batch_size": "16" if model == "HSTU" else "64",
    }
    return {**left_out, **LENGTHS, **own, **few, "model": model, "teacher": teacher, "setting": setting, "kd": kd}


def weights(result: dict[str, Any]) -> dict[str, torch.Tensor]:
    (file,) = result["folder"].glob("*.pth")
    state: dict[str, torch.Tensor] = load_checkpoint(file)["state_dict"]
    return state


Whole = Callable[[dict[str, str | None]], dict[str, Any]]
"""Returns the result of a run in one go with these changes."""


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Each run in one go is made once for all tests that are compared with it."""
    made: dict[str, dict[str, Any]] = {}

    def result(changes: dict[str, str | None]) -> dict[str, Any]:
        key = repr(sorted(changes.items()))
        if key not in made:
            made[key] = run(tmp_path_factory.mktemp("whole"), **changes)
        return made[key]

    return result


def check_resumed(
    changes: dict[str, str | None],
    which: int,
    cut: int,
    start: int,
    folder: Path,
    whole_run: Whole,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Interrupt the which-th training of a run in an epoch and continue it from ``start``.

    The result is compared with a run in one go.
    """
    monkeypatch.setattr(resume, "SHARE_OF_TIME", 1e9)  # a state after every epoch, however busy the machine
    whole = whole_run(changes)
    with monkeypatch.context() as patched:
        cut_after(cut, which, patched)
        with pytest.raises(KeyboardInterrupt):
            main(words(folder / "broken", **changes))
    resumed = run(folder / "broken", "--resume=True", **changes)
    assert f"from epoch {start}" in (resumed["folder"] / "run.log").read_text()
    for name in ("teacher", "distilled"):
        assert resumed[name]["test"] == whole[name]["test"] and resumed[name]["valid"] == whole[name]["valid"]
    assert len(set(whole["distilled"]["kd_loss"])) == int(changes["epochs"] or 0)
    assert resumed["distilled"]["kd_loss"] == whole["distilled"]["kd_loss"]
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(resumed)[name]), name


@pytest.mark.parametrize(("stage", "which"), [("teacher", 1), ("distilled", 2)])
@pytest.mark.parametrize(("model", "teacher", "setting"), CASES)
def test_continues_to_the_same_result(
    model: str,
    teacher: str,
    setting: str,
    stage: str,
    which: int,
    whole_run: Whole,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_resumed(changes_of(model, teacher, setting, "RCEKD"), which, 2, 2, tmp_path, whole_run, monkeypatch)


@pytest.mark.parametrize("model", ["SASRec", "HSTU"])
def test_item_sets_of_several_epochs(
    model: str, whole_run: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {**changes_of(model, "SASRec", "sequential", "RCEKD"), "kd_refresh": "2"}
    check_resumed(changes, 2, 3, 2, tmp_path, whole_run, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("which", [1, 2])
def test_training_by_user_continues_to_the_same_result(
    which: int, whole_run: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_user = {"train_by_user": "True", "teacher.train_by_user": "True", "kd_refresh": "2"}
    changes = {**changes_of("SASRec", "SASRec", "sequential", "RCEKD"), **by_user}
    check_resumed(changes, which, 3, 2 if which == 2 else 3, tmp_path, whole_run, monkeypatch)


@pytest.mark.parametrize("which", [1, 2])
def test_a_trajectory_of_histories(
    which: int, whole_run: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {
        **changes_of("SASRec", "HSTU", "sequential", "HetComp"),
        "kd_p": "1",
        "kd_n_samples": None,
        "kd_candidates": None,
    }
    check_resumed(changes, which, 2, 2, tmp_path, whole_run, monkeypatch)
