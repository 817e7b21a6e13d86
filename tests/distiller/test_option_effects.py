"""Every kd_* option of every method changes what a student learns; an option of the assistant changes the assistant.

A change of the Config alone is no effect: what is compared are the student's weights after a few steps on the KD loss.
"""

from __future__ import annotations

import copy
import inspect
import typing
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from recbole_kd.data.train_items import query_items
from recbole_kd.distiller.registry import check_options, distiller_class, distiller_options
from recbole_kd.pipeline.assistant import KEYS as ASSISTANT_KEYS
from recbole_kd.pipeline.plan import checkpoints_needed
from recbole_kd.scoring.scorer import Scorer
from recbole_kd.training.build_distiller import build_distiller
from recbole_kd.training.teacher_loader import TeacherAwareLoader
from tests.support.helpers import Case, build_case, write_tiny
from tests.support.method_cases import METHODS, make_teacher, small_options

EPOCHS = 3

CASES: dict[tuple[str, str], tuple[dict[str, Any], Any]] = {
    # (method, option): (other options under which it has a meaning, another value)
    ("RCEKD", "code_candidates"): ({"candidates": None, "code_candidates": 8}, 20),
    ("RCEKD", "candidates"): ({"candidates": 8}, "all"),
    ("RCEKD", "faithful"): ({"candidates": None, "code_candidates": 8}, "paper"),
    ("RCEKD", "mask_train"): ({}, True),
    ("RCEKD", "gamma_constant"): ({"gamma": "fixed"}, 0.9),
    ("RCEKD", "gamma_epochs"): ({"gamma": "decreasing", "gamma_epochs": 3}, 9),
    ("CD", "candidates"): ({}, 6),
    ("DCD", "candidates"): ({"candidates": 8}, 20),
    ("DERRD", "candidates"): ({"candidates": 8}, 20),
    ("DERRD", "tau"): ({"candidates": 8}, 1.0),
    ("HTD", "max_epoch"): ({"max_epoch": 2}, 1000),
    ("PCKD", "candidates"): ({"candidates": 8}, 20),
    ("UnKD", "n_samples"): ({}, 8),
    ("DCD", "temperature"): ({"loss": "ce"}, 3.0),
    ("DCD", "disjoint"): ({"k": 4, "candidates": 8, "tau": 1.0}, False),
    ("HetComp", "p"): ({"p": 1, "alpha": 1.0}, 2),
    ("HetComp", "alpha"): ({"p": 1, "alpha": 0.01}, 1e6),
    ("HetComp", "n_positives"): ({}, 2),
    ("RD", "start_epoch"): ({"start_epoch": 0}, 9),
    ("TARec", "epsilon"): ({"distance": "sinkhorn"}, 0.5),
    ("TARec", "n_iterations"): ({"distance": "sinkhorn", "n_iterations": 1}, 2),
    ("TARec", "teacher_share"): ({}, 0.5),
    ("UnKD", "lamda"): ({"lamda": 0.0, "groups": 3, "n_samples": 30}, 4.0),
    ("FreqD", "filter_strength"): ({}, 0.1),
    ("PCKD", "n_samples"): ({}, 3),
    ("CE", "list_weights"): ({}, {"position": 1.0}),
    ("CE", "list_tau"): ({"list_weights": {"position": 1.0}}, 4.0),
    ("RD", "list_weights"): ({}, {"agreement": 1.0}),
    ("RRD", "list_weights"): ({}, {"agreement": 1.0}),
    ("RRD", "list_tau"): ({"list_weights": {"position": 1.0}}, 4.0),
    ("RCEKD", "list_weights"): ({}, {"agreement": 1.0}),
    ("RCEKD", "list_tau"): ({"list_weights": {"position": 1.0}}, 4.0),
}
OF_THE_ASSISTANT = {"assistant_size", *(key.removeprefix("kd_") for key in ASSISTANT_KEYS)}
"""Options that the assistant's training reads; tests/distiller/test_tarec.py follows them into it."""

OF_THE_TEACHER = {"n_checkpoints"}
"""Options that the teacher's training reads."""


def another(parameter: inspect.Parameter, value: Any) -> Any:
    """Another value than the one that an option has."""
    kinds = (parameter.annotation, *typing.get_args(parameter.annotation))
    names = [name for kind in kinds if typing.get_origin(kind) is typing.Literal for name in typing.get_args(kind)]
    if names:
        return next(name for name in names if name != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value - 1 if value > 2 else value + 1
    return value / 2 if value else 1.0


OPTIONS = [
    pytest.param(name, option, id=f"{name}-{option}")
    for name in METHODS
    for option in distiller_options(distiller_class(name))
    if option not in OF_THE_ASSISTANT | OF_THE_TEACHER
]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    data = write_tiny(tmp_path_factory.mktemp("data"), "tiny")
    return build_case(data, "MF", train_batch_size=512)


_known: dict[tuple[Any, ...], Tensor] = {}


def learnt(case: Case, name: str, options: dict[str, Any]) -> Tensor:
    """The student's weights after some steps on the KD loss, float ``[n]``; each setting is trained once."""
    key = (id(case), name, repr(sorted(options.items(), key=str)))
    if key not in _known:
        _known[key] = _train(case, name, options)
    return _known[key]


def _train(case: Case, name: str, options: dict[str, Any]) -> Tensor:
    student = copy.deepcopy(case.model)
    teacher, _ = make_teacher(distiller_class(name), Scorer(student).n_queries, Scorer(student).n_items)
    idle = distiller_class(name).idle(options)  # build_distiller refuses an option that nothing reads
    values = {f"kd_{option}": value for option, value in options.items() if option not in idle}
    config = {"kd": name, "dataset": "tiny", "model": "MF", "seed": 0, **values}
    torch.manual_seed(0)
    distiller = build_distiller(config, student, teacher)
    distiller.begin_training(query_items(case.loaders.train))
    aware = TeacherAwareLoader(case.loaders.train, distiller, distiller.teacher_scores)
    optimiser = torch.optim.SGD([*student.parameters(), *distiller.parameters()], lr=0.5)
    student.train()
    for epoch in range(EPOCHS):
        distiller.begin_epoch(epoch)
        aware.ask_teacher()
        torch.manual_seed(epoch)
        for batch in aware:
            optimiser.zero_grad()
            with distiller.student_scorer.step(batch):
                distiller(batch.kd).backward()
            torch.nn.utils.clip_grad_norm_([p for p in student.parameters() if p.grad is not None], 1.0)
            optimiser.step()
    return torch.cat([weight.detach().flatten() for weight in student.parameters()])


@cache
def base_options(name: str) -> dict[str, Any]:
    return small_options(name)


@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_an_option_changes_what_is_learnt(name: str, option: str, case: Case) -> None:
    under, value = CASES.get((name, option), ({}, None))
    base = {**base_options(name), **under}
    if value is None:
        value = another(distiller_options(distiller_class(name))[option], base[option])
    changed = {**base, option: value}
    check_options(distiller_class(name), changed, 30, 40)
    before, after = learnt(case, name, base), learnt(case, name, changed)
    assert torch.isfinite(before).all() and torch.isfinite(after).all()
    assert not torch.equal(before, after), f"kd_{option}={value} learns what kd_{option}={base[option]} does"


def test_the_same_options_learn_the_same(case: Case) -> None:
    name = "RCEKD"
    assert torch.equal(_train(case, name, base_options(name)), _train(case, name, base_options(name)))


def test_the_number_of_checkpoints_is_asked_of_the_teacher() -> None:
    method = distiller_class("HetComp")
    assert checkpoints_needed(method, {"n_checkpoints": 5}) == 5
