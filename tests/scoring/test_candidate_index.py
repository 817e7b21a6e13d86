"""The student's candidates by an approximate index: against the exact lists, its sizes, its seed, what is refused."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from recbole_kd.distiller.base import Distiller
from recbole_kd.distiller.registry import DISTILLERS, distiller_class
from recbole_kd.errors import ConfigError
from recbole_kd.model.mf import MF
from recbole_kd.ops.ragged import Ragged
from recbole_kd.ops.topk import DotProducts, top_k_in_blocks
from recbole_kd.scoring import candidate_index
from recbole_kd.scoring.candidate_index import CandidateIndex, cells_for
from recbole_kd.scoring.scorer import Scorer
from recbole_kd.teacher.stores.dense import DenseScores
from recbole_kd.teacher.stores.factors import FactorScores
from recbole_kd.teacher.stores.remapped import MappedScores
from recbole_kd.training.build_distiller import build_distiller, check_index
from tests.support.helpers import TinyData, build_case, dataset_of
from tests.support.runs import refusal, run

pytest.importorskip("faiss")


def tables(n_queries: int = 300, n_items: int = 2000, d: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Clustered vectors, items of very different lengths; row 0 is the pad."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(20, d, generator=generator)

    def draw(n: int) -> Tensor:
        return centres[torch.randint(20, (n,), generator=generator)] + 0.3 * torch.randn(n, d, generator=generator)

    return draw(n_queries), draw(n_items) * (0.5 * torch.randn(n_items, 1, generator=generator)).exp()


def train_items(n_queries: int, n_items: int, most: int = 60) -> Ragged:
    rng = np.random.default_rng(0)
    rows = np.repeat(np.arange(n_queries), rng.integers(0, most, n_queries))
    return Ragged.from_pairs(rows, rng.integers(1, n_items, len(rows)), n_queries)


def ranked(index: CandidateIndex, *given: Any) -> tuple[Tensor, Tensor]:
    found = index.top_k(*given)
    index.close()
    return found


@pytest.mark.parametrize("excluding", [False, True])
def test_all_cells_give_the_exact_lists(excluding: bool) -> None:
    queries, items = tables()
    exclude = train_items(*map(len, (queries, items))) if excluding else None
    asked = torch.randperm(len(queries), generator=torch.Generator().manual_seed(1))
    index = CandidateIndex(nlist=16, nprobe=16)
    ids, scores = ranked(index, queries, items, asked, 30, exclude)
    exact_ids, exact_scores = top_k_in_blocks(DotProducts(queries, items), asked, len(items), 30, exclude)
    assert torch.equal(ids, exact_ids)
    torch.testing.assert_close(scores, exact_scores)
    assert index.recall == 1.0 and index.recalls == [1.0]


def test_some_cells_give_most_of_each_list_in_order_and_say_how_much(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, items = tables()
    asked = torch.arange(len(queries))
    monkeypatch.setattr(candidate_index, "PAIRS_PER_SEARCH", 1000)
    index = CandidateIndex(nlist=64, nprobe=4)
    ids, scores = ranked(index, queries, items, asked, 30)
    exact = top_k_in_blocks(DotProducts(queries, items), asked, len(items), 30)[0]
    share = float((ids[1:].unsqueeze(2) == exact[1:].unsqueeze(1)).sum()) / exact[1:].numel()
    assert index.recall is not None and 0.7 < index.recall < 1
    assert abs(index.recall - share) < 0.02  # a sample of 256 of 299
    assert torch.equal(scores, scores.sort(dim=1, descending=True).values)
    torch.testing.assert_close(scores, (queries @ items.T).gather(1, ids))
    assert int(ids.min()) > 0 and all(len(set(row)) == 30 for row in ids.tolist())


def test_recall_grows_with_the_cells_that_are_looked_at() -> None:
    queries, items = tables(n_items=6000)
    recalls = []
    for nprobe in (1, 4, 16, 64):
        index = CandidateIndex(nlist=64, nprobe=nprobe)
        ranked(index, queries, items, torch.arange(len(queries)), 5)
        recalls.append(index.recall)
    assert recalls == sorted(recalls) and recalls[0] < recalls[-1] == 1.0


def test_the_length_of_a_query_and_its_scale_have_no_say() -> None:
    queries, items = tables()
    found = [
        ranked(CandidateIndex(nlist=64, nprobe=4), queries * scale, items * other, torch.arange(len(queries)), 20)[0]
        for scale, other in ((1.0, 1.0), (2.0**-8, 1.0), (1.0, 2.0**-8))
    ]
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_a_query_whose_cells_hold_too_little_is_ranked_exactly() -> None:
    queries, items = tables(n_items=101)
    exclude = train_items(len(queries), len(items), most=90)
    index = CandidateIndex(nlist=50, nprobe=1)
    ids, scores = ranked(index, queries, items, torch.arange(len(queries)), 40, exclude)
    exact = top_k_in_blocks(DotProducts(queries, items), torch.arange(len(queries)), len(items), 40, exclude)
    left = (100 - exclude.counts()).clamp(max=40)
    assert torch.equal((ids > 0).sum(1), left) and torch.equal(ids, exact[0])
    assert torch.equal(scores == -torch.inf, ids == 0)


def test_more_items_asked_for_than_there_are() -> None:
    queries, items = tables(n_queries=5, n_items=7)
    ids, scores = ranked(CandidateIndex(nlist=2, nprobe=2), queries, items, torch.arange(5), 10)
    exact = top_k_in_blocks(DotProducts(queries, items), torch.arange(5), 7, 10)
    assert torch.equal(ids, exact[0])
    torch.testing.assert_close(scores, exact[1])


def test_the_same_seed_gives_the_same_lists_on_any_number_of_threads() -> None:
    queries, items = tables()
    found = []
    for threads, seed in ((1, 3), (2, 3), (1, 4)):
        torch.set_num_threads(threads)
        try:
            found.append(
                ranked(CandidateIndex(nlist=64, nprobe=2, seed=seed), queries, items, torch.arange(len(queries)), 30)[0]
            )
        finally:
            torch.set_num_threads(1)
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


@pytest.mark.parametrize("n_items", [1, 2, 100, 25_181, 10**6])
def test_the_number_of_cells_follows_from_the_catalogue(n_items: int) -> None:
    cells = cells_for(n_items)
    assert 1 <= cells <= n_items
    if n_items > 4:
        assert math.log2(cells).is_integer() and math.sqrt(2) <= cells / math.sqrt(n_items) <= 2 * math.sqrt(2)


def test_sizes_that_are_not_given_are_reported() -> None:
    queries, items = tables(n_items=1001)
    index = CandidateIndex()
    ranked(index, queries, items, torch.arange(len(queries)), 10)
    assert index.report() == {"kind": "ivf", "nlist": 64, "nprobe": 8, "refreshes": 1, "recall": index.recall}


def test_an_index_is_kept_until_it_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, items = tables()
    index, built = CandidateIndex(nlist=64, nprobe=4), []
    plain = index._build
    monkeypatch.setattr(index, "_build", lambda items: built.append(1) or plain(items))
    whole = ranked(index, queries, items, torch.arange(len(queries)), 20)
    recall = index.recall
    parts = [index.top_k(queries, items, some, 20) for some in torch.arange(len(queries)).split(70)]
    index.close()
    assert built == [1, 1] and index.recalls == [recall, recall]
    assert torch.equal(torch.cat([ids for ids, _ in parts]), whole[0])


@pytest.mark.parametrize("model", ["MF", "LightGCN", "HSTU", "SASRec"])
def test_students_of_vectors_are_ranked_by_it(model: str, tiny_dataset: TinyData) -> None:
    case = build_case(tiny_dataset, model)
    train = dataset_of(case.loaders.train)
    scorer = Scorer(case.model, getattr(train, "training_rows", lambda: None)())
    queries = torch.arange(scorer.n_queries)
    exact = scorer.top_k(queries, 7)
    scorer.index = CandidateIndex(nlist=4, nprobe=4)
    ids, scores = scorer.top_k(queries, 7)
    torch.testing.assert_close(scores, exact[1])
    assert float((ids == exact[0]).float().mean()) > 0.98  # rounding may exchange equal scores


def test_every_method_that_ranks_the_student_says_so(tiny_dataset: TinyData) -> None:
    asking = {
        name
        for name in DISTILLERS
        if "student_scorer.top_k(" in Path(sys.modules[distiller_class(name).__module__].__file__ or "").read_text()
    }
    assert asking <= {name for name in DISTILLERS if distiller_class(name).ranks_student} and asking
    assert not Distiller.ranks_student


# -- whole runs
# -----------------------------------------------------------------------------------------------------------


def test_a_run_reports_recall_of_each_refresh(tmp_path: Path) -> None:
    few = run(tmp_path, "--kd_candidate_index=ivf", "--kd_nlist=10", "--kd_nprobe=2", "--kd_compare=False")
    found = few["distilled"]
    recalls = found["history"]["candidate_recall"]
    assert len(recalls) == 3 and all(0 < recall <= 1 for recall in recalls)
    assert found["candidate_index"] == {
        "kind": "ivf",
        "nlist": 10,
        "nprobe": 2,
        "refreshes": 3,
        "recall": pytest.approx(sum(recalls) / 3),
    }
    assert "candidate_recall" in (few["folder"] / "run.log").read_text()
    assert few["kd_options"]["kd_candidate_index"] == "ivf"


def test_looking_at_all_cells_trains_the_same_student_as_none(tmp_path: Path) -> None:
    exact = run(tmp_path, "--kd_compare=False")["distilled"]
    indexed = run(tmp_path, "--kd_compare=False", "--kd_candidate_index=ivf", "--kd_nlist=4", "--kd_nprobe=4")[
        "distilled"
    ]
    assert indexed["history"]["candidate_recall"] == [1.0] * 3 and "candidate_recall" not in exact["history"]
    assert indexed["kd_loss"] == pytest.approx(exact["kd_loss"], rel=1e-6) and indexed["test"] == pytest.approx(
        exact["test"]
    )


def test_a_factor_teachers_lists_by_an_index_of_its_own(tmp_path: Path) -> None:
    found = run(tmp_path, IVF, "--kd_index_teacher=True", "--kd_nlist=5", "--kd_nprobe=5", "--kd_compare=False")[
        "distilled"
    ]
    assert found["candidate_index"]["teacher"] == [
        {"kind": "ivf", "nlist": 5, "nprobe": 5, "refreshes": 1, "recall": 1.0}
    ]
    exact = run(tmp_path, "--kd_compare=False")["distilled"]
    assert found["kd_loss"] == pytest.approx(exact["kd_loss"], rel=1e-6)


IVF = "--kd_candidate_index=ivf"
REFUSED: dict[str, tuple[dict[str, str | None], list[str], list[str]]] = {
    "kind": ({}, ["--kd_candidate_index=hnsw"], ["kd_candidate_index=hnsw", "ivf"]),
    "nlist": ({}, [IVF, "--kd_nlist=0"], ["kd_nlist=0"]),
    "nprobe": ({}, [IVF, "--kd_nprobe=x"], ["kd_nprobe=x"]),
    "nprobe-many": ({}, [IVF, "--kd_nlist=4", "--kd_nprobe=5"], ["kd_nprobe=5", "from 1 to 4 (kd_nlist)"]),
    "nlist-many": ({}, [IVF, "--kd_nlist=10000"], ["kd_nlist=10000", "the number of items"]),
    "teacher-only": ({}, ["--kd_index_teacher=True"], ["kd_index_teacher", "kd_candidate_index=ivf"]),
    "teacher-word": ({}, [IVF, "--kd_index_teacher=2"], ["kd_index_teacher=2"]),
    "teacher-store": (
        {},
        [IVF, "--kd_index_teacher=True", "--teacher_store=dense"],
        ["LightGCN", "dense", "teacher_store=factors"],
    ),
    "no-index": ({}, ["--kd_nlist=4"], ["kd_nlist=4", "kd_candidate_index=ivf"]),
    "no-vectors": ({"model": "NeuMF", "embedding_size": None}, [IVF], ["NeuMF", "dot product"]),
    "no-ranking": ({"kd": "RD", "kd_n_samples": None, "kd_candidates": None}, [IVF], ["kd=RD", "no effect"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_in_a_sentence(name: str, tmp_path: Path, capsys: Any) -> None:
    changes, more, named = REFUSED[name]
    said = refusal(capsys, tmp_path, *more, **changes)
    assert all(word in said for word in named)


def test_without_the_library_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ConfigError, match="pip install faiss-cpu"):
        check_index({"kd_candidate_index": "ivf"}, "RCEKD", MF)
    check_index({"kd_candidate_index": None}, "RCEKD", MF)


def test_a_student_without_vectors_is_refused_in_the_api_too(tiny_dataset: TinyData) -> None:
    case = build_case(
        tiny_dataset, "NeuMF", kd="RCEKD", kd_candidate_index="ivf", kd_k=5, kd_n_samples=5, kd_candidates=10
    )
    table = torch.zeros(case.model.n_users, case.model.n_items)
    with pytest.raises(ConfigError, match="NeuMF"):
        build_distiller(case.config, case.model, DenseScores(table))


def test_a_masked_sequential_student_is_served_by_the_teachers_index() -> None:
    """Lists by all cells are the exact ones, and the index has been asked."""
    generator = torch.Generator().manual_seed(3)
    users, items = torch.randn(9, 4, generator=generator), torch.randn(41, 4, generator=generator)
    ids = torch.tensor([0, 3, 3, 5, 8, 1, 2])  # rows of a student's histories -> users of the teacher
    mask = Ragged.from_pairs(np.array([1, 1, 2, 6]), np.array([4, 7, 9, 11]), len(ids))
    queries = torch.arange(1, 7)
    exact = MappedScores(FactorScores(users, items, {}), ids).top_k(queries, 6, mask)
    teacher = FactorScores(users, items, {})
    teacher.index = CandidateIndex("ivf", nlist=4, nprobe=4)
    found = MappedScores(teacher, ids).top_k(queries, 6, mask)
    assert torch.equal(found[0], exact[0]) and torch.allclose(found[1], exact[1])
    assert teacher.index.recall == 1.0
