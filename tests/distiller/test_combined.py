"""Methods combined by a plus: the sum of what they are alone, each with its own keys, or a refusal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from recbole_kd.cli.run import main
from recbole_kd.config.property_layers import check_training_keys, distiller_layers
from recbole_kd.distiller.base import DistillBatch
from recbole_kd.distiller.own_loop import KDTerm
from recbole_kd.distiller.registry import check_idle, check_options, distiller_class
from recbole_kd.errors import ConfigError, TeacherError
from recbole_kd.scoring.tables import TableScorer
from recbole_kd.training.build_distiller import known_kd_keys
from tests.support.embedding_stubs import batch_of_rows, random_pair
from tests.support.lists import top_of
from tests.support.method_cases import make_teacher
from tests.support.own_loop_cases import N_ITEMS, N_USERS, interactions
from tests.support.own_loop_cases import batch as plain_batch
from tests.support.own_loop_cases import student as plain_student
from tests.support.runs import run, words
from tests.support.stubs import batch_for, no_train_items

SMALL: dict[str, dict[str, Any]] = {
    "RCEKD": {"k": 4, "n_samples": 3, "candidates": 8},
    "DE": {"n_experts": 2},
    "RRD": {"k": 2, "candidates": 6, "n_samples": 3},
    "RD": {"k": 3, "n_samples": 4, "start_epoch": 0},
    "CE": {"k": 4},
}


def begun(name: str, reduction: str, **weights: float) -> tuple[Any, Any]:
    """A method, alone or combined, at its second epoch, and its student."""
    student, teacher = random_pair(12, 20)
    parts = name.split("+")
    options = dict(SMALL[name]) if len(parts) == 1 else {f"{o}.{p}": v for p in parts for o, v in SMALL[p].items()}
    options |= {f"weight.{part}": weight for part, weight in weights.items()}
    distiller = distiller_class(name)(student, teacher, seed=3, **options)
    distiller.reduction = reduction
    distiller.begin_training(no_train_items(student.n_queries))
    for epoch in (0, 1):
        distiller.begin_epoch(epoch, draw=distiller.is_due(epoch))
    return distiller, student


def batch_of(distiller: Any) -> DistillBatch:
    users = [1, 4, 4, 9]
    rows = batch_of_rows(users, [1, 2, 3, 4], [5, 6, 7, 8])
    return replace(batch_for(distiller, users), positives=rows.positives, negatives=rows.negatives, rows=rows.rows)


def loss_and_gradient(distiller: Any, student: Any) -> tuple[float, torch.Tensor]:
    loss = distiller(batch_of(distiller))
    loss.backward()
    return float(loss.detach()), torch.cat([student.users.grad.flatten(), student.items.grad.flatten()])


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("names", [("RCEKD", "DE"), ("DE", "RRD"), ("CE", "RD")])
def test_the_loss_and_its_gradient_are_the_weighted_sum_of_the_parts_alone(
    names: tuple[str, str], reduction: str
) -> None:
    weights = dict(zip(names, (0.3, 2.0), strict=True))
    alone = {name: loss_and_gradient(*begun(name, reduction)) for name in names}
    combined, student = begun("+".join(names), reduction, **weights)
    loss, gradient = loss_and_gradient(combined, student)
    assert loss == pytest.approx(sum(weights[name] * alone[name][0] for name in names), rel=1e-6)
    expected = sum(weights[name] * alone[name][1] for name in names)
    torch.testing.assert_close(gradient, expected)
    figures = combined.diagnostics()
    assert {f"kd_loss.{name}": figures[f"kd_loss.{name}"] for name in names} == pytest.approx(
        {f"kd_loss.{name}": alone[name][0] for name in names}, rel=1e-6
    )
    parts = {figure.rpartition(".")[2] for figure in figures}
    assert parts <= set(names)


def test_the_state_of_the_draws_comes_back() -> None:
    first, _ = begun("RCEKD+RRD", "mean")
    second, _ = begun("RCEKD+RRD", "mean")
    second.begin_epoch(2)
    second.restore_sampling(first.sampling_state())
    for distiller in (first, second):
        distiller.begin_epoch(2)
    assert first.item_sets.keys() == {
        "RCEKD.own", "RCEKD.drawn", "RCEKD.teacher_list", "RRD.interesting", "RRD.uninteresting",
    }  # fmt: skip
    for name, ids in first.item_sets.items():
        assert torch.equal(ids, second.item_sets[name])


def test_each_key_reaches_its_part_and_each_bound_is_that_of_its_part() -> None:
    cls = distiller_class("RCEKD+RRD")
    options = check_options(cls, {"k.RCEKD": 7, "k.RRD": 3, "candidates.RRD": 9, "weight.RRD": 0.5}, 30, 300)
    student, teacher = random_pair(12, 20)
    made = cls(student, teacher, **{**options, "n_samples.RCEKD": 3, "n_samples.RRD": 2})
    parts = dict(made.named_methods())  # type: ignore[attr-defined]
    assert (parts["RCEKD"].k, parts["RRD"].k, parts["RRD"].candidates) == (7, 3, 9)
    assert made.part_weights == {"RCEKD": 1.0, "RRD": 0.5}
    with pytest.raises(ConfigError, match=r"Invalid --kd_k\.RRD=10"):
        check_options(cls, {"k.RRD": 10, "candidates.RRD": 9}, 30, 300)
    with pytest.raises(ConfigError, match=r"Invalid --kd_weight\.RRD=-1"):
        check_options(cls, {"weight.RRD": -1}, 30, 300)
    with pytest.raises(ConfigError, match="no effect with kd_sampling=none of RRD"):
        check_idle(cls, {"kd_sampling.RRD": "none", "kd_tau.RRD": 2.0}, {})
    assert {"kd_k.RRD", "kd_weight.RCEKD", "kd_weight"} <= known_kd_keys("RCEKD+RRD") and "kd_k" not in known_kd_keys(
        "RCEKD+RRD"
    )
    own = distiller_layers("RCEKD", "ml-100k", "MF", "LightGCN")[0]
    both = distiller_layers("RCEKD+DE", "ml-100k", "MF", "LightGCN")[0]
    assert both["kd_k.RCEKD"] == own["kd_k"] and both["kd_weight.RCEKD"] == own["kd_weight"]
    assert all(key.partition(".")[2] in ("RCEKD", "DE") for key in both if key.startswith("kd_"))


def test_keys_of_base_training_are_those_that_the_parts_agree_on() -> None:
    """A pair file of one part counts; where two differ the user says which."""
    one = distiller_layers("RCEKD+DE", "ml-100k", "MF", "LightGCN")[0]
    assert (one["learning_rate"], one["weight_decay"]) == (0.005, 0.01)
    check_training_keys("RCEKD+DE", "ml-100k", "MF", "LightGCN", {})
    agreed = distiller_layers("RCEKD+RRD", "citeulike", "MF", "MF")[0]
    assert (agreed["weight_decay"], agreed["kd_weight.RCEKD"]) == (0.00001, 500.0)
    differ = distiller_layers("RCEKD+DE", "citeulike", "MF", "MF")[0]
    assert "weight_decay" not in differ and differ["learning_rate"] == 0.001
    with pytest.raises(ConfigError, match=r"RCEKD with weight_decay=1e-05, DE with weight_decay=0\.0001") as error:
        check_training_keys("RCEKD+DE", "citeulike", "MF", "MF", {"learning_rate": 0.1})
    assert "\n" not in str(error.value) and "--weight_decay=1e-05" in str(error.value)
    check_training_keys("RCEKD+DE", "citeulike", "MF", "MF", {"weight_decay": 0.1})
    check_training_keys("DE", "citeulike", "MF", "MF", {})


@pytest.mark.parametrize(
    ("kd", "said"),
    [
        ("CE+CE", "names a method twice"), ("CE+TARec", "TARec, which trains an assistant"),
        ("HetComp+CE", "learns from a teacher's checkpoints"), ("CE+Nothing", "Nothing"),
        ("CE+", "is not the name of a method"),
    ],
)  # fmt: skip
def test_parts_that_cannot_live_together_are_refused(kd: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        distiller_class(kd)
    assert "\n" not in str(error.value)


def test_a_part_that_needs_vectors_is_refused_under_lists() -> None:
    lists = top_of(torch.randn(4, 9), 3)
    with pytest.raises(TeacherError, match="DE needs the teacher's embeddings"):
        distiller_class("RCEKD+DE").check_teacher(lists)
    distiller_class("RCEKD+RRD").check_teacher(lists)


def test_a_run_of_two_methods_logs_the_figures_of_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = {"kd": "RCEKD+DE", "kd_compare": "False", "kd_k": None, "kd_n_samples": None, "kd_candidates": None}
    own = {"kd_k.RCEKD": "5", "kd_n_samples.RCEKD": "4", "kd_candidates.RCEKD": "8", "kd_weight.DE": "0.5"}
    found = run(tmp_path, **keys, **own)
    assert found["distilled"]["kd_loss"][0] > 0
    text = (Path(found["folder"]) / "run.log").read_text(encoding="utf-8")
    assert "kd_loss.RCEKD: " in text and "kd_loss.DE: " in text and "gamma_mean.RCEKD: " in text
    capsys.readouterr()
    assert main(words(tmp_path, **{**keys, **own, "kd_k": "5"})) == 2
    assert "kd_k" in capsys.readouterr().err


def test_de_rrd_is_one_case_of_a_combination() -> None:
    """DERRD and DE+RRD with its weights have the same losses and gradients, drawn from the same seed."""
    lists = {"k": 4, "n_samples": 5, "candidates": 8}
    of_both = {"n_experts.DE": 2, "weight.DE": 0.3, "weight.RRD": 2.0} | {f"{key}.RRD": n for key, n in lists.items()}
    cases: tuple[tuple[str, dict[str, Any]], ...] = (
        ("DERRD", {**lists, "n_experts": 2, "lambda_de": 0.3, "lambda_rrd": 2.0}),
        ("DE+RRD", of_both),
    )
    found = []
    for name, options in cases:
        users, items = plain_student()
        cls = distiller_class(name)
        distiller = cls(TableScorer(users, items), make_teacher(cls, N_USERS, N_ITEMS)[0], **options, seed=3)
        distiller.reduction = "sum"
        term = KDTerm(distiller, interactions())
        for epoch in range(2):
            term.begin_epoch(epoch)
            loss = term(*plain_batch())
        loss.backward()
        found.append((loss.detach(), users.weight.grad, items.weight.grad))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
