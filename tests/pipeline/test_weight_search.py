"""kd_weight=auto: the choice on validation, its cost, its resumption, and where it is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from recbole.config import Config

from recbole_kd.cli.run import main
from recbole_kd.cli.tune import main as tune
from recbole_kd.config.merging import merge_sources
from recbole_kd.config.parsing import parse_arguments
from recbole_kd.config.property_layers import has_weight_of_pair
from recbole_kd.errors import ConfigError, DivergedError
from recbole_kd.integration.safe_load import load_checkpoint
from recbole_kd.pipeline.plan import make_plan
from recbole_kd.pipeline.request import make_request
from recbole_kd.pipeline.setting_sources import settings_of_stages
from recbole_kd.training import resume_state
from recbole_kd.training.build_distiller import build_distiller
from recbole_kd.training.trainer import KDTrainer
from recbole_kd.training.training_job import TrainingJob
from tests.support.helpers import TinyData, build_case
from tests.support.runs import refusal, results, run, words
from tests.support.stubs import dense

AUTO: dict[str, str | None] = {"kd_weight": "auto", "epochs": "16", "kd_compare": "False", "learning_rate": "0.01"}
"""Three trials of 1 epoch, then two until 3 and until 7: at most 8 of the others."""


TAREC: dict[str, str | None] = {"kd": "TARec", "kd_n_negatives": "5", "kd_n_samples": None, "kd_candidates": None}


PAIR = ("RCEKD", "tiny", "MF", "LightGCN")


def merged(folder: Path, **changes: str | None) -> dict[str, Any]:
    """The keys of the main job, typed as on the command line."""
    return merge_sources(None, None, parse_arguments(words(folder, **changes)))


def weights(result: dict[str, Any]) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = load_checkpoint(result["folder"] / "MF.pth")["state_dict"]
    return state


def assert_same_training(one: dict[str, Any], other: dict[str, Any]) -> None:
    for key in ("valid", "test", "kd_loss", "epochs", "best_epoch", "history"):
        assert one["distilled"][key] == other["distilled"][key], key
    for name, value in weights(one).items():
        assert torch.equal(value, weights(other)[name])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A search that nothing interrupted."""
    return run(tmp_path_factory.mktemp("whole"), **AUTO)


def test_the_best_trial_becomes_the_training(whole: dict[str, Any], tmp_path: Path) -> None:
    found = whole
    search = found["kd_weight_search"]
    grid, chosen = search["grid"], search["grid"].index(found["kd_weight"])
    assert found["kd_weight"] == search["choice"] == found["kd_options"]["kd_weight"]
    assert grid[3] == pytest.approx(search["weight_ratio"] / search["grad_ratio"], rel=0.005) and len(grid) == 7
    assert search["worthwhile"] and search["at_end"] == (chosen in (2, 4))
    others = [epochs for trial, epochs in enumerate(search["epochs"]) if trial != chosen]
    assert search["epochs"][chosen] == found["distilled"]["epochs"] == 16
    assert 2 * sum(others) <= 16 and sorted(others) == [0, 0, 0, 0, 1, 7]
    assert [score is None for score in search["scores"]] == [True, True, *[False] * 3, True, True]
    assert found["distilled"]["history"]["grad_ratio"][0] == pytest.approx(
        search["grad_ratio"] * found["kd_weight"], rel=1e-4
    )
    assert not list((found["folder"].parents[1] / "cache" / "distilled").glob("*.work"))
    log = (found["folder"] / "run.log").read_text()
    assert [log.count(f"valid NDCG@10 after {n} epoch") for n in (1, 3, 7)] == [1, 1, 1]
    alone = run(tmp_path, **{**AUTO, "kd_weight": str(found["kd_weight"])})
    assert_same_training(found, alone)
    assert alone.get("kd_weight_search") is None


@pytest.mark.parametrize("cut", [2, 6, 17])
def test_an_interrupted_search_continues_to_the_same_choice(
    cut: int, whole: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first epochs are 3 of the first rung, 4 of the second, 8 of the third; then the best one goes on."""
    monkeypatch.setattr(resume_state, "SHARE_OF_TIME", 1e9)  # a state after every epoch, however busy the machine
    plain, seen = KDTrainer._valid_epoch, [0]

    def interrupted(self: KDTrainer, *args: Any, **options: Any) -> Any:
        seen[0] += self.distiller is not None
        if self.distiller is not None and seen[0] == cut:
            raise KeyboardInterrupt
        return plain(self, *args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(KDTrainer, "_valid_epoch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            main(words(tmp_path, **AUTO))
    trained: list[int] = []

    def counted(self: KDTrainer, *args: Any, **options: Any) -> Any:
        trained.append(self._epoch)
        return plain(self, *args, **options)

    monkeypatch.setattr(KDTrainer, "_valid_epoch", counted)
    resumed = run(tmp_path, "--resume=True", **AUTO)
    assert resumed["kd_weight_search"] == whole["kd_weight_search"]
    assert_same_training(resumed, whole)
    # no epoch is trained twice: 24 in all, and those before the cut are done
    assert len(trained) == 24 - (cut - 1)


def test_it_is_the_default_where_no_weight_of_the_pair_is_known(tmp_path: Path) -> None:
    plan = make_plan(make_request(merged(tmp_path, **{**AUTO, "kd_weight": None})))
    assert plan.distilled["kd_weight"] == "auto" and plan.general_weight == 10.0 and not plan.weight_note
    setting = settings_of_stages(plan, [])["distilled"]["kd_weight"]
    assert (setting.value, setting.source) == ("auto", "recbole_kd's default")


@pytest.mark.parametrize(
    ("changes", "weight", "logged"),
    [
        ({"kd_weight": "default"}, 10.0, ""),
        ({"epochs": "3"}, 10.0, "too few epochs for trial trainings"),
        ({"max_minutes": "3"}, 10.0, "with max_minutes=3"),
        ({"kd": "CE+RD", "kd_n_samples": None, "kd_candidates": None, "kd_k": None}, 1.0, "of several methods"),
    ],
)
def test_the_general_default_stands_where_no_search_is_possible_or_wanted(
    changes: dict[str, str | None], weight: float, logged: str, tmp_path: Path
) -> None:
    given = merged(tmp_path, **{**AUTO, "kd_weight": None, **changes})
    plan = make_plan(make_request(given))
    assert plan.distilled["kd_weight"] == weight and plan.general_weight is None
    assert logged in plan.weight_note and bool(logged) == bool(plan.weight_note)
    beneath = [("file", {"kd_weight": 3})] if "kd_weight" in given else []  # which `default` overrides
    source = settings_of_stages(plan, [("command", given), *beneath])["distilled"]["kd_weight"].source
    assert "+" in plan.request.kd or source == "property file distiller/RCEKD.yaml"


def test_the_weight_of_a_pair_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recbole_kd.pipeline.weight_checks.has_weight_of_pair", lambda *names: names == PAIR)
    plan = make_plan(make_request(merged(tmp_path, **{**AUTO, "kd_weight": None})))
    assert plan.distilled["kd_weight"] == 10.0 and plan.general_weight is None and not plan.weight_note
    assert has_weight_of_pair("RCEKD", "ml-100k", "MF", "LightGCN") and not has_weight_of_pair(*PAIR)


def test_under_a_teacher_that_is_no_better_the_smallest_weight_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recbole_kd.pipeline.quick_start.worthwhile_teacher", lambda result: False)
    found = run(tmp_path, **{**AUTO, "epochs": "4"})
    search = found["kd_weight_search"]
    assert found["kd_weight"] == search["choice"] == search["grid"][0] > 0
    assert search["epochs"] == [4, *[0] * 6] and search["scores"] == [None] * 7
    assert search["at_end"] and not search["worthwhile"]
    assert "weight_at_end" not in [warning["code"] for warning in found["verdict"]["warnings"]]


def test_without_a_gradient_the_general_default_is_taken_unless_a_search_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(TrainingJob, "first_gradient_ratio", lambda self: 0.0)
    found = run(tmp_path, **{**AUTO, "kd_weight": None, "epochs": "4"})
    assert found["kd_weight"] == 10.0 and "kd_weight_search" not in found
    assert "the ratio of gradient norms is 0" in (found["folder"] / "run.log").read_text()
    assert not [path for path in (tmp_path / "cache" / "distilled").iterdir() if path.suffix in (".work", ".pt")]
    assert main(words(tmp_path, **{**AUTO, "epochs": "4"})) == 2
    assert "the ratio of gradient norms is 0: tune it, or give a number" in capsys.readouterr().err.splitlines()[-1]


def test_a_trial_that_diverges_is_not_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, bound = TrainingJob.advance, [0.0]

    def advance(self: TrainingJob, epochs: int) -> tuple[float, int]:
        bound[0] = bound[0] or self.config["kd_weight"]  # the smallest weight is the first
        if self.config["kd_weight"] > 2 * bound[0]:
            raise DivergedError("The loss of MF is inf")
        return plain(self, epochs)

    monkeypatch.setattr(TrainingJob, "advance", advance)
    found = run(tmp_path, **AUTO)
    search = found["kd_weight_search"]
    assert search["scores"][3:] == [None] * 4 and search["choice"] == search["grid"][2] and search["at_end"]
    assert "diverged" in (found["folder"] / "run.log").read_text()
    (warning,) = [w for w in found["verdict"]["warnings"] if w["code"] == "weight_at_end"]
    assert f"--kd_weight={search['choice'] / 10:.3g}" in warning["text"]


def test_a_search_whose_trials_all_diverge_ends_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def advance(self: TrainingJob, epochs: int) -> tuple[float, int]:
        raise DivergedError("The loss of MF is inf")

    monkeypatch.setattr(TrainingJob, "advance", advance)
    assert main(words(tmp_path, **AUTO)) == 2
    assert "Every trial of kd_weight=auto diverged" in capsys.readouterr().err
    assert not results(tmp_path) and not list((tmp_path / "cache" / "distilled").glob("*.work"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"nproc": "2"}, "with nproc=2: take nproc=1"),
        ({"max_minutes": "3"}, "with max_minutes=3"),
        ({"epochs": "3"}, "is at least 4, or give a number"),
        ({"stopping_step": "3", "kd_refresh": "4"}, "is at least 16, or give a number"),
        (TAREC, "set kd_assistant_weight"),
        (
            {"kd_weight": "automatic"},
            "Invalid --kd_weight=automatic: expected a number of at least 0 or one of auto, default",
        ),
    ],
)
def test_it_is_refused_where_it_cannot_work(
    changes: dict[str, str | None], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refusal(capsys, tmp_path, **{**AUTO, **changes})
    assert not (tmp_path / "cache").exists()


def test_trainings_outside_a_run_refuse_it(
    tmp_path: Path, tiny_dataset: TinyData, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = {"kd": "RCEKD", "teacher": "MF", "kd_weight": "auto", "data_path": tiny_dataset.data_path}
    with pytest.raises(ConfigError, match="kd_weight=auto is not possible here, because RecBole's own functions"):
        Config(model="BPR", dataset=tiny_dataset.name, config_dict=keys)
    case = build_case(tiny_dataset, "MF")
    teacher = dense(torch.rand(case.splits.n_users, case.splits.n_items))
    asked = {"dataset": "tiny", "model": "MF", "seed": 1, "kd": "CE", "kd_k": 5, "kd_weight": "auto"}
    with pytest.raises(ConfigError, match="kd_weight=auto is not possible here, because the distiller"):
        build_distiller(asked, case.model, teacher)
    (tmp_path / "space.yaml").write_text("kd_k: {choice: [3, 5]}\n")
    given = [word for word in words(tmp_path, **AUTO) if not word.startswith("--kd_k=")]
    assert tune([*given, f"--params_file={tmp_path / 'space.yaml'}"]) == 2
    assert "the search itself chooses" in capsys.readouterr().err
