"""One causal pass for all prefixes of a history gives the vectors of separate passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from recbole_kd.data.histories.sequence_dataset import universe_of
from recbole_kd.scoring import prefix_encoding as prefixes
from recbole_kd.scoring import scorer as scorer_module
from recbole_kd.scoring.scorer import Scorer
from recbole_kd.storage.files import SCORES, read_tensors
from recbole_kd.teacher.export import export_teacher
from tests.support.helpers import Case, TinyData, build_case

MODELS = ("SASRec", "GRU4Rec", "HSTU")
LENGTHS = (3, 8, 50)
"""Shorter than nearly all histories of the tiny data, than some, than none."""


def a_case(data: TinyData, model: str, length: int) -> tuple[Case, Scorer]:
    case = build_case(data, model, MAX_ITEM_LIST_LENGTH=length)
    for name, parameter in case.model.named_parameters():  # as they are made they are nearly nothing
        if parameter.dim() > 1 or "position_weight" in name or "time_weight" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    return case, Scorer(case.model, universe_of(case.loaders.train))


def separately(scorer: Scorer, queries: torch.Tensor) -> torch.Tensor:
    """Each history encoded by itself, at full width."""
    assert scorer._encoder is not None
    return torch.cat(
        [scorer._encoder.queries(scorer.model, scorer._own.interaction(query)) for query in queries.split(1)]
    )


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("model", MODELS)
def test_vectors_are_those_of_separate_passes(
    model: str, length: int, tiny_dataset: TinyData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefixes, "POSITIONS_PER_CALL", 3 * length)
    _, scorer = a_case(tiny_dataset, model, length)
    queries = torch.randperm(scorer.n_queries, generator=torch.Generator().manual_seed(0))[:120]
    assert scorer.rows is not None
    with scorer.frozen():
        expected = separately(scorer, queries)
        torch.testing.assert_close(scorer._encoded(queries), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(scorer.tables()[0][queries], expected, rtol=1e-5, atol=1e-5)
        some = queries[: len(queries) // 3]
        torch.testing.assert_close(scorer._encoded(some), expected[: len(some)], rtol=1e-5, atol=1e-5)
    assert float(expected.std(0).min()) > 0.01


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("with_times", [True, False])
def test_what_is_encoded(with_times: bool, length: int, tiny_dataset: TinyData) -> None:
    """Of each user the longest window that begins at the first item, and every window that begins later."""
    rows = universe_of(build_case(tiny_dataset, "HSTU", MAX_ITEM_LIST_LENGTH=length).loaders.train)
    assert rows is not None and rows.with_times
    object.__setattr__(rows, "with_times", with_times)
    queries = torch.arange(len(rows))
    passes = rows.passes(queries)
    sizes = rows.ends - rows.begins
    whole = sizes[: rows.n_whole]
    assert len(passes.encoded) == int((whole == 0).sum() + (whole > 0).sum() + (whole - length).clamp(min=0).sum())
    assert torch.equal(passes.widths, passes.widths.sort().values)
    kept = rows.interaction(passes.encoded[passes.place])["item_id_list"]
    own = rows.interaction(queries)
    assert torch.equal(passes.column + 1, own["item_length"])
    past = torch.arange(length) > passes.column.unsqueeze(1)
    assert torch.equal(kept.masked_fill(past, 0), own["item_id_list"])


def test_a_query_asked_at_another_time_has_its_own_pass(tiny_dataset: TinyData) -> None:
    """HSTU's last position knows when the next item came; that of SASRec does not."""
    for model in ("HSTU", "SASRec"):
        _, scorer = a_case(tiny_dataset, model, 50)
        rows = scorer.rows
        assert rows is not None
        query = int(torch.arange(len(rows))[(rows.users == 4) & (rows.ends - rows.begins == 3)])
        targets = rows.targets.clone()
        targets[query] = rows.ends[3] - 1  # much later
        object.__setattr__(rows, "targets", targets)
        object.__setattr__(rows, "with_times", model == "HSTU")
        passes = rows.passes(torch.arange(len(rows)))
        assert (query in passes.encoded.tolist()) is (model == "HSTU")
        with scorer.frozen():
            torch.testing.assert_close(
                scorer.tables()[0][query], separately(scorer, torch.tensor([query]))[0], rtol=1e-5, atol=1e-5
            )


@pytest.mark.parametrize("model", MODELS)
def test_in_training_mode_every_history_has_its_own_dropout(
    model: str, tiny_dataset: TinyData, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, scorer = a_case(tiny_dataset, model, 8)
    monkeypatch.setattr(scorer_module, "encode_prefixes", lambda *_: pytest.fail("one pass for several histories"))
    scorer.model.train()
    assert scorer._encoded(torch.arange(5)).shape == (5, 8)


@pytest.mark.parametrize("model", ["LightSANs", "NARM", "STAMP", "Caser", "NextItNet"])
def test_others_encode_every_history(model: str, tiny_dataset: TinyData) -> None:
    _, scorer = a_case(tiny_dataset, model, 8)
    assert scorer._encoder is not None and scorer._encoder.positions is None


@pytest.mark.parametrize("model", MODELS)
def test_a_teacher_is_exported_so(
    model: str, tiny_dataset: TinyData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, scorer = a_case(tiny_dataset, model, 8)
    seen: list[int] = []
    plain = prefixes.encode_prefixes

    def counted(positions: Any, rows: Any, queries: torch.Tensor) -> torch.Tensor:
        seen.append(len(rows.passes(queries).encoded))
        return plain(positions, rows, queries)

    monkeypatch.setattr(scorer_module, "encode_prefixes", counted)
    export_teacher(scorer, tmp_path / "teacher", {"model": model})
    vectors, queries = read_tensors(tmp_path / "teacher" / SCORES)["query_vectors"], torch.tensor([0, 3, 40, 90])
    assert seen and seen[0] < 0.8 * scorer.n_queries
    with scorer.frozen():
        torch.testing.assert_close(vectors[queries], separately(scorer, queries), rtol=1e-5, atol=1e-5)
