"""RD: both published forms on given samples, and the weights of its two phases."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from recbole_kd.distiller.rd import RD
from recbole_kd.distiller.registry import check_options
from recbole_kd.errors import ConfigError
from tests.support.baselines import (
    ids,
    loss_of,
    loss_of_case,
    of_case,
    random_scores,
    random_train,
    references,
    started,
    train_items_of,
)

CASES = references("rd")
NAMES = ["static", "random-1", "random-2", "extreme"]


def on_its_samples(case: dict[str, Any], **options: Any) -> RD:
    distiller, _ = of_case(RD, case, **options)
    assert torch.equal(distiller.item_sets["top"][1:], ids(case["top"])[1:])
    if "drawn" in distiller.item_sets:
        distiller.item_sets["drawn"] = ids(case["drawn"])
    return distiller


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_equals_the_published_class_on_its_samples(case: dict[str, Any]) -> None:
    assert loss_of_case(on_its_samples(case), case) == pytest.approx(case["loss"], rel=1e-5)


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_equals_the_original_on_the_same_samples(case: dict[str, Any]) -> None:
    distiller = on_its_samples(case, form="original")
    distiller.reduction = "mean"
    assert loss_of_case(distiller, case) == pytest.approx(case["loss_original"], rel=1e-5)


def test_discrepancy_begins_at_its_epoch() -> None:
    student, teacher = random_scores()
    losses = []
    for epoch in (2, 3, 9):
        distiller, _ = started(RD, student, teacher, k=5, n_samples=10, start_epoch=3, epoch=epoch)
        assert ("drawn" in distiller.item_sets) is (epoch >= 3)
        losses.append(loss_of(distiller, [1, 2, 2]))
    assert losses[0] != pytest.approx(losses[1])


def test_a_student_that_ranks_as_the_teacher_does_has_nothing_to_correct() -> None:
    _, teacher = random_scores()
    distiller, _ = started(RD, teacher, teacher, k=3, n_samples=10, start_epoch=0, form="original")
    distiller.item_sets["drawn"] = torch.cat([torch.ones(1, 4, dtype=torch.int64), teacher.argsort(dim=1)[:, :4] + 1])
    assert loss_of(distiller, [1, 5]) == 0.0


def test_drawn_items_are_no_training_items() -> None:
    train = random_train(share=0.5)
    distiller, _ = started(RD, *random_scores(), train, k=3, n_samples=200, start_epoch=0)
    for query in range(1, 8):
        assert set(distiller.item_sets["drawn"][query].tolist()) == set(range(1, 31)) - train_items_of(train, query)


@pytest.mark.parametrize(
    ("given", "words"),
    [({"k": 0}, "kd_k=0"), ({"k": 41}, "kd_k=41"), ({"n_samples": 0}, "kd_n_samples=0"), ({"mu": -1.0}, "kd_mu=-1.0"),
     ({"start_epoch": -1}, "kd_start_epoch=-1"), ({"tau": 0.0}, "kd_tau=0.0")],
)  # fmt: skip
def test_options_out_of_range_name_their_key(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_options(RD, given, 30, 40)
