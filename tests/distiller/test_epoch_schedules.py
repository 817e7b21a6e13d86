"""kd_refresh slows the drawing of item sets and no schedule that counts epochs; keys without effect are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from recbole_kd.distiller.base import Distiller
from recbole_kd.distiller.de import DE
from recbole_kd.distiller.hetcomp import HetComp
from recbole_kd.distiller.rcekd import RCEKD
from recbole_kd.distiller.rd import RD
from recbole_kd.distiller.registry import DISTILLERS, distiller_class, resolve_options
from recbole_kd.errors import ConfigError
from recbole_kd.training.build_distiller import check_distiller
from tests.support.baselines import random_scores
from tests.support.embedding_stubs import random_pair
from tests.support.runs import refusal
from tests.support.stubs import TableScorer, dense, no_train_items, padded

RUN: dict[str, Any] = {"kd_weight": 1.0, "kd_refresh": 7, "kd_compare": True}


def _pair() -> tuple[Any, Any]:
    student, teacher = random_scores()
    return TableScorer(padded(student)), dense(teacher)


def epochs(distiller: Distiller, n: int, refresh: int) -> list[int]:
    """Run the epochs as the trainer does; return those in which item sets were drawn."""
    distiller.refresh, drawn = refresh, []
    for epoch in range(n):
        due = distiller.is_due(epoch)
        drawn += [epoch] if due else []
        distiller.begin_epoch(epoch, draw=due)
    return drawn


def test_annealing_follows_every_epoch() -> None:
    slow, plain = (DE(*random_pair(), n_experts=2, max_epoch=50) for _ in range(2))  # type: ignore[arg-type]
    epochs(slow, 6, refresh=4)
    plain.begin_epoch(5)
    assert slow.temperature == plain.temperature < DE(*random_pair(), n_experts=2, max_epoch=50).temperature  # type: ignore[arg-type]


def test_hetcomp_updates_at_its_own_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(HetComp, "follow_epoch", lambda self, epoch: seen.append(epoch))
    distiller = HetComp.__new__(HetComp)
    torch.nn.Module.__init__(distiller)
    epochs(distiller, 15, refresh=7)
    assert seen == list(range(15))


@pytest.mark.parametrize("rule", ["decreasing", "increasing", "global"])
def test_gamma_that_counts_epochs_follows_every_epoch(rule: Any) -> None:
    student, teacher = _pair()
    distiller = RCEKD(student, teacher, k=3, n_samples=3, candidates=6, gamma=rule, gamma_epochs=10)  # type: ignore[arg-type]
    distiller.begin_training(no_train_items(student.n_queries))
    assert epochs(distiller, 6, refresh=4) == [0, 4]
    assert distiller._gamma.tolist() == pytest.approx([0.5] * student.n_queries)
    assert distiller.diagnostics()["gamma_mean"] == pytest.approx(0.5)


def test_rd_begins_to_draw_at_its_epoch() -> None:
    student, teacher = _pair()
    distiller = RD(student, teacher, k=3, n_samples=3, start_epoch=5)  # type: ignore[arg-type]
    distiller.begin_training(no_train_items(student.n_queries))
    epochs(distiller, 5, refresh=4)
    assert "drawn" not in distiller.item_sets
    distiller.begin_epoch(5, draw=distiller.is_due(5))
    first = distiller.item_sets["drawn"]
    distiller.begin_epoch(6, draw=distiller.is_due(6))
    assert distiller.item_sets["drawn"] is first and distiller.is_due(8)


@pytest.mark.parametrize("name", sorted(DISTILLERS))
def test_refresh_is_refused_where_nothing_is_drawn(name: str) -> None:
    cls = distiller_class(name)
    own = {"kd_k": 5} if "k" in resolve_options(cls, {}) else {}
    nothing = name in {"DE", "FTD", "HTD", "FullCE", "FreqD", "HetComp", "CE"}
    assert cls.draws(resolve_options(cls, {})) == (not nothing)
    if nothing:
        with pytest.raises(ConfigError, match=f"kd_refresh=7 has no effect with kd={name}"):
            check_distiller(name, {**RUN, **own}, 4000, 4000)
    else:
        check_distiller(name, {**RUN, **own}, 4000, 4000)


@pytest.mark.parametrize("name", ["CE", "CD"])
def test_the_guide_decides_whether_something_is_drawn(name: str) -> None:
    check_distiller(name, {**RUN, "kd_guide": "student"}, 4000, 4000)
    with pytest.raises(ConfigError, match=f"kd_refresh=7 has no effect with kd={name} and kd_guide=teacher"):
        check_distiller(name, {**RUN, "kd_guide": "teacher"}, 4000, 4000)


@pytest.mark.parametrize("name", ["CE", "PCKD"])
def test_an_index_is_refused_where_nothing_is_ranked_by_the_student(name: str) -> None:
    pytest.importorskip("faiss")
    keys = {"kd_weight": 1.0, "kd_refresh": 1, "kd_compare": True, "kd_candidate_index": "ivf"}
    check_distiller(name, {**keys, "kd_guide": "student"}, 4000, 4000)
    check_distiller(name, {**keys, "kd_guide": "teacher", "kd_index_teacher": True}, 4000, 4000)  # the teacher's index
    with pytest.raises(ConfigError, match=f"kd_candidate_index=ivf has no effect with kd={name} and kd_guide=teacher"):
        check_distiller(name, {**keys, "kd_guide": "teacher"}, 4000, 4000)


def test_a_number_format_of_scores_is_refused_for_a_store_of_weights(tmp_path: Path, capsys: Any) -> None:
    line = refusal(capsys, tmp_path, "--teacher_store=online", "--teacher_dtype=fp16")
    assert "teacher_dtype=fp16 has no effect on LightGCN in an online store" in line
    # `auto` comes to an online store for a sequential teacher without vectors
    line = refusal(
        capsys,
        tmp_path,
        "--teacher_dtype=fp16",
        "--setting=sequential",
        teacher="TransRec",
        **{"teacher.embedding_size": None},
    )
    assert "teacher_dtype=fp16 has no effect on TransRec in an online store" in line
