"""An option that nothing reads beside the others is refused where the user gives it, and nowhere else."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from recbole_kd.config.property_layers import names_in, properties_dir, read_yaml
from recbole_kd.data.train_items import query_items
from recbole_kd.distiller.registry import check_idle, distiller_class, distiller_options, resolve_options
from recbole_kd.errors import ConfigError
from recbole_kd.pipeline.request import make_request
from recbole_kd.pipeline.request_checks import check_effects
from recbole_kd.scoring.scorer import Scorer
from recbole_kd.training.build_distiller import build_distiller
from recbole_kd.training.teacher_loader import TeacherAwareLoader
from tests.support.helpers import build_case, write_tiny
from tests.support.method_cases import METHODS, make_teacher

IDLE: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    # method, the choice, an option that it leaves idle, what the error names
    ("RCEKD", {}, {"gamma_constant": 0.3}, "kd_gamma=exponential"),
    ("RCEKD", {"gamma": "fixed"}, {"beta": 2.0}, "kd_gamma=fixed"),
    ("RCEKD", {"gamma": "linear"}, {"gamma_epochs": 5}, "kd_gamma=linear"),
    ("RCEKD", {"variant": "const"}, {"gamma": "linear"}, "kd_variant=const"),
    ("RCEKD", {"variant": "const"}, {"beta": 2.0}, "kd_variant=const"),
    ("RCEKD", {"variant": "vanilla_ce"}, {"beta": 7.0}, "kd_variant=vanilla_ce"),
    ("RCEKD", {"variant": "full_ce"}, {"gamma": "linear"}, "kd_variant=full_ce"),
    ("RCEKD", {"variant": "wo_t"}, {"tau": 2.0}, "kd_variant=wo_t"),
    ("RCEKD", {"candidates": 30}, {"code_candidates": 20}, "kd_candidates=30"),
    ("RCEKD", {"faithful": "paper"}, {"code_candidates": 20}, "kd_faithful=paper"),
    ("TARec", {}, {"epsilon": 0.1}, "kd_distance=rank"),
    ("TARec", {"distance": "score"}, {"n_iterations": 9}, "kd_distance=score"),
    ("RRD", {"sampling": "none"}, {"tau": 2.0}, "kd_sampling=none"),
    ("RRD", {"sampling": "none"}, {"sort": False}, "kd_sampling=none"),
    ("DCD", {}, {"temperature": 2.0}, "kd_loss=relaxed"),
    ("RankDistil", {"tau": 0}, {"permutations": 3}, "kd_tau=0"),
    ("PCKD", {"regulariser": "pair"}, {"temperature": 2.0}, "kd_regulariser=pair"),
    ("CE", {"guide": "student"}, {"list_weights": {"position": 1.0}}, "kd_guide=student"),
    ("CE", {}, {"list_tau": 2.0}, "kd_list_weights without a position"),
    ("RD", {"list_weights": {"agreement": 1.0}}, {"tau": 2.0}, "kd_list_weights without a position"),
    ("RRD", {"list_weights": {"agreement": 1.0}}, {"list_tau": 2.0}, "kd_list_weights without a position"),
    ("RCEKD", {}, {"list_tau": 2.0}, "kd_list_weights without a position"),
    ("RCEKD", {"variant": "full_ce"}, {"list_weights": {"position": 1.0}}, "kd_variant=full_ce"),
]


def keys(options: dict[str, Any]) -> dict[str, Any]:
    return {f"kd_{name}": value for name, value in options.items()}


@pytest.mark.parametrize(("kd", "choice", "option", "named"), IDLE)
def test_an_idle_option_of_the_user_is_refused(
    kd: str, choice: dict[str, Any], option: dict[str, Any], named: str
) -> None:
    cls, (name,) = distiller_class(kd), option
    with pytest.raises(ConfigError, match=f"--kd_{name}=.* it has no effect with {named}"):
        check_idle(cls, keys({**choice, **option}), {})
    check_idle(cls, keys(choice), keys(option))  # of a property file it is left alone
    check_idle(cls, keys({**choice, name: None}), {})
    with pytest.raises(ConfigError, match=named):
        check_effects({"teacher": ["MF"], **keys({**choice, **option})}, "MF", kd, "tiny")
    check_effects(keys({**choice, **option}), "MF", kd, "tiny", drawn=keys({**choice, **option}))


@pytest.mark.parametrize("kd", METHODS)
def test_idle_names_options_and_the_defaults_leave_few_idle(kd: str) -> None:
    cls = distiller_class(kd)
    assert set(cls.idle(resolve_options(cls, {}))) <= set(distiller_options(cls))


@pytest.mark.parametrize("kd", sorted({kd for kd, *_ in IDLE}))
def test_an_idle_option_does_change_nothing(kd: str, tmp_path: Path) -> None:
    """The claim itself: the loss of an epoch under two values of an idle option has the same bits."""
    case = build_case(write_tiny(tmp_path, "tiny"), "MF", train_batch_size=512)
    small = {"k": 4, "n_samples": 4, "candidates": 20, "code_candidates": 20, "n_negatives": 4}
    for _, choice, option, _ in (found for found in IDLE if found[0] == kd):
        losses = [_loss(case, kd, {**choice, **more}, small) for more in ({}, option)]
        assert torch.equal(*losses), (choice, option)


def _loss(case: Any, kd: str, options: dict[str, Any], small: dict[str, Any]) -> torch.Tensor:
    cls, student = distiller_class(kd), copy.deepcopy(case.model)
    given = {name: value for name, value in small.items() if name in distiller_options(cls)}
    if options.get("faithful") == "paper" or ("code_candidates" in options and "candidates" not in options):
        given.pop("candidates", None)
    scorer = Scorer(student)
    teacher, _ = make_teacher(cls, scorer.n_queries, scorer.n_items)
    torch.manual_seed(0)
    distiller = cls(scorer, teacher, **{**given, **options})
    distiller.begin_training(query_items(case.loaders.train))
    distiller.begin_epoch(0)
    aware = TeacherAwareLoader(case.loaders.train, distiller, teacher)
    aware.ask_teacher()
    torch.manual_seed(1)
    batch = next(iter(aware))
    with scorer.step(batch):
        loss: torch.Tensor = distiller(batch.kd).detach()
    return loss


def test_a_mapping_given_to_build_distiller_is_asked_too(tmp_path: Path) -> None:
    case = build_case(write_tiny(tmp_path, "tiny"), "MF")
    scorer = Scorer(case.model)
    teacher, _ = make_teacher(distiller_class("TARec"), scorer.n_queries, scorer.n_items)
    config = {"kd": "TARec", "dataset": "tiny", "model": "MF", "kd_k": 5, "kd_n_negatives": 5, "kd_epsilon": 0.1}
    with pytest.raises(ConfigError, match=r"kd_epsilon=0\.1: it has no effect with kd_distance=rank"):
        build_distiller(config, case.model, teacher)
    build_distiller({**config, "kd_distance": "sinkhorn"}, case.model, teacher)


def test_no_shipped_file_is_refused(tmp_path: Path) -> None:
    write_tiny(tmp_path, "tiny")
    for kd in METHODS:
        values = {"model": "MF", "teacher": "BM3" if kd == "PromptMM" else "MF", "kd": kd, "dataset": "tiny"}
        make_request({**values, "data_path": str(tmp_path)})
    tried = 0
    for name in names_in("reproduce"):
        grid = read_yaml(properties_dir() / "reproduce" / f"{name}.yaml")
        for run in grid["runs"].values():
            values = {**grid["config"], **{key: value for key, value in run.items() if key != "from"}}
            if "kd" in values:
                check_effects(values, values["model"], values["kd"], values["dataset"])
                tried += 1
    assert tried > 50
    for name in names_in("distiller"):
        yaml_keys = yaml.safe_load((properties_dir() / "distiller" / f"{name}.yaml").read_text())
        check_effects({}, "MF", name.split("-")[0], "tiny")
        assert yaml_keys
