"""Figures for analysis: ranks and the fit on the training interactions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from recbole_kd.evaluation.teacher_rank_curve import rank_curve, ranks_of
from recbole_kd.evaluation.train_ndcg import ndcg, train_ndcg
from recbole_kd.ops.ragged import Ragged
from tests.support.stubs import TableScorer, padded


def test_ranks_equal_counting() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 6, (8, 30), generator=generator).float()  # ties
    items = torch.randint(0, 30, (8, 7), generator=generator)
    expected = [[1 + sum(s > scores[b, i] for s in scores[b]) for i in items[b]] for b in range(8)]
    assert ranks_of(scores, items).tolist() == [[int(rank) for rank in row] for row in expected]


def test_the_rank_curve_of_a_student_that_agrees_is_one_to_k() -> None:
    teacher = torch.randn(6, 40, generator=torch.Generator().manual_seed(1))
    scorer = TableScorer(padded(teacher))
    lists = scorer.top_k(torch.arange(7), 5)[0]
    assert rank_curve(scorer, lists) == [1, 2, 3, 4, 5]  # type: ignore[arg-type]
    assert rank_curve(TableScorer(padded(-teacher)), lists) == [40, 39, 38, 37, 36]  # type: ignore[arg-type]


def test_ndcg_equals_its_definition() -> None:
    hits = torch.tensor([[True, False, True], [False, False, False], [False, True, False]])
    counts = torch.tensor([2, 0, 9])
    first = (1 + 1 / math.log2(4)) / (1 + 1 / math.log2(3))
    last = (1 / math.log2(3)) / (1 + 1 / math.log2(3) + 1 / math.log2(4))
    assert ndcg(hits, counts).tolist() == pytest.approx([first, 0.0, last])


def test_train_ndcg_ranks_the_training_items_themselves() -> None:
    scores = torch.tensor([[3.0, 2.0, 1.0, 0.0], [0.0, 1.0, 2.0, 3.0]])
    train = Ragged.from_pairs(
        np.array([1, 1, 2]), np.array([1, 2, 1]), 3
    )  # user 1 likes its two best, user 2 its worst
    found = train_ndcg(TableScorer(padded(scores)), train, k=4)  # type: ignore[arg-type]
    assert found == pytest.approx((1 + 1 / math.log2(5)) / 2)
