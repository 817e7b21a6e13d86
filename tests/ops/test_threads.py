"""Work side by side: same result, one thread each, nothing left behind."""

from __future__ import annotations

import threading

import pytest
import torch

from recbole_kd.ops import topk
from recbole_kd.ops.threads import in_halves, n_threads, side_by_side, torch_on_one_thread
from recbole_kd.ops.topk import DotProducts, top_k_in_blocks


def test_every_part_is_done_once_on_one_thread_without_gradient() -> None:
    before, parts = torch.get_num_threads(), [slice(i, i + 1) for i in range(40)]
    seen: list[tuple[slice, int, bool]] = []
    side_by_side(lambda part: seen.append((part, torch.get_num_threads(), torch.is_grad_enabled())), parts, 2)
    assert sorted(part.start for part, _, _ in seen) == list(range(40))
    assert {(threads, gradient) for _, threads, gradient in seen} == {(1, False)}
    assert torch.get_num_threads() == before and torch.is_grad_enabled()


def test_threads_overlap() -> None:
    """Two parts that wait for each other can only finish side by side."""
    meeting = threading.Barrier(2, timeout=30)
    side_by_side(lambda _: meeting.wait() and None, [slice(0, 1), slice(1, 2)], 2)


def test_an_error_comes_through_and_the_threads_are_given_back() -> None:
    before = torch.get_num_threads()

    def work(part: slice) -> None:
        if part.start == 3:
            raise ValueError("part 3")

    with pytest.raises(ValueError, match="part 3"):
        side_by_side(work, [slice(i, i + 1) for i in range(6)], 2)
    assert torch.get_num_threads() == before


def test_torch_on_one_thread_leaves_the_other_threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with pytest.raises(ValueError, match="inside"), torch_on_one_thread():
            assert (torch.get_num_threads(), n_threads()) == (1, 3)
            with torch_on_one_thread():
                assert (torch.get_num_threads(), n_threads()) == (1, 3)
            side_by_side(lambda part: None, [slice(0, 1), slice(1, 2)], n_threads())
            assert (torch.get_num_threads(), n_threads()) == (1, 3)
            raise ValueError("inside")
        assert (torch.get_num_threads(), n_threads()) == (3, 3)
        with torch_on_one_thread(False):
            assert (torch.get_num_threads(), n_threads()) == (3, 3)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_ranking_does_not_depend_on_the_threads(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    query_vectors, item_vectors = torch.randn(50, 8, generator=generator), torch.randn(700, 8, generator=generator)
    query_vectors.requires_grad_()
    monkeypatch.setattr(topk, "BLOCK_BYTES", 4 * 700 * 3)
    used: list[int] = []
    monkeypatch.setattr(
        topk, "side_by_side", lambda work, parts, lanes: used.append(lanes) or side_by_side(work, parts, lanes)
    )
    queries = torch.arange(50).flip(0)
    with torch.no_grad():
        expected = top_k_in_blocks(lambda some: query_vectors[some] @ item_vectors.T, queries, 700, 10)
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            found = top_k_in_blocks(DotProducts(query_vectors, item_vectors), queries, 700, 10)
        finally:
            torch.set_num_threads(before)
    assert used == ([threads] if threads > 1 else [])
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1])


@pytest.mark.parametrize("n_rows", [0, 1, 7])
@pytest.mark.parametrize("at_once", [False, True])
def test_halves_are_all_rows(n_rows: int, at_once: bool) -> None:
    seen: list[int] = []
    in_halves(lambda half: seen.extend(range(n_rows)[half]), n_rows, at_once)
    assert sorted(seen) == list(range(n_rows))


def test_halves_run_at_once_and_an_error_of_either_comes_through() -> None:
    meeting = threading.Barrier(2, timeout=30)
    in_halves(lambda _: meeting.wait() and None, 2, True)
    for bad in (0, 1):

        def work(half: slice, bad: int = bad) -> None:
            if half.start == bad:
                raise ValueError("half")

        with pytest.raises(ValueError, match="half"):
            in_halves(work, 2, True)
