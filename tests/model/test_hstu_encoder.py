"""HSTU's encoder and loss: equal to the public research code, blind to padding and to the future, bounded in memory."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional

from recbole_kd.model import hstu_packing
from recbole_kd.model import sampled_softmax as sampled_softmax_module
from recbole_kd.model.hstu_encoder import Encoded, HSTUBlock, HSTUEncoder, HSTUSizes, unit
from recbole_kd.model.hstu_packing import PackedLayout
from recbole_kd.model.sampled_softmax import UniformNegatives, sampled_softmax
from recbole_kd.ops import length_groups
from tests.support import paths

REFERENCE = json.loads((paths.REFERENCE / "hstu.json").read_text())
SIZES = ("max_length", "embedding_size", "n_layers", "n_heads", "attention_size", "linear_size")


def padded(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Right padded with zeros, and the lengths."""
    lengths = torch.tensor([len(row) for row in rows])
    return nn.utils.rnn.pad_sequence([torch.tensor(row, dtype=torch.int64) for row in rows], batch_first=True), lengths


def make(
    biases: tuple[str, ...] = ("position", "time"), *, double: bool = True, n_items: int = 30, **given: Any
) -> HSTUEncoder:
    sizes = {
        "max_length": 9,
        "embedding_size": 8,
        "n_layers": 2,
        "n_heads": 2,
        "attention_size": 3,
        "linear_size": 5,
        **given,
    }
    torch.manual_seed(1)
    encoder = HSTUEncoder(
        n_items, HSTUSizes(**sizes, position_bias="position" in biases, time_bias="time" in biases)
    ).eval()
    with torch.no_grad():
        for weight in encoder.parameters():
            weight.normal_(std=0.5)
        encoder.item_embedding.weight[0] = 0
    return encoder.double() if double else encoder


def some_rows(lengths: list[int], seed: int = 0, n_items: int = 30) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Items, lengths, times and next times."""
    generator = torch.Generator().manual_seed(seed)
    n, width = len(lengths), max(lengths)
    sizes = torch.tensor(lengths)
    keep = torch.arange(width) < sizes.unsqueeze(1)
    items = torch.randint(1, n_items, (n, width), generator=generator) * keep
    gaps = (10 ** (torch.rand(n, width + 1, generator=generator) * 8)).long()
    times = 10**9 + gaps.cumsum(1)
    return items, sizes, times[:, :-1] * keep, times.gather(1, sizes.unsqueeze(1)).squeeze(1)


def load(case: dict[str, Any]) -> HSTUEncoder:
    sizes = HSTUSizes(
        **{key: REFERENCE[key] for key in SIZES},
        position_bias="position" in case["biases"],
        time_bias="time" in case["biases"],
    )
    encoder = HSTUEncoder(REFERENCE["n_items"], sizes).double().eval()
    encoder.load_state_dict({name: torch.tensor(value, dtype=torch.float64) for name, value in case["weights"].items()})
    return encoder


@pytest.mark.parametrize("case", REFERENCE["cases"], ids=lambda case: case["name"])
def test_equals_the_public_research_code(case: dict[str, Any]) -> None:
    """Outputs, scores, loss and the gradient of every weight."""
    encoder = load(case)
    items, lengths = padded([row[:-1] for row in case["items"]])
    times, _ = padded([row[:-1] for row in case["times"]])
    target, asked = (torch.tensor([row[-1] for row in case[key]]) for key in ("items", "times"))
    encoded = encoder(items, lengths, times, asked)
    for got, want in zip(encoded.padded(), case["positions"], strict=True):
        torch.testing.assert_close(got[: len(want)], torch.tensor(want, dtype=torch.float64), rtol=1e-5, atol=1e-6)
    vectors = encoder.item_vectors()
    torch.testing.assert_close(
        encoded.last() @ vectors.T, torch.tensor(case["scores"], dtype=torch.float64), rtol=1e-5, atol=1e-6
    )

    row, after = encoded.layout.row, encoded.layout.column + 1
    positives = torch.cat([items, torch.zeros(len(items), 1, dtype=torch.int64)], 1).scatter(
        1, lengths.unsqueeze(1), target.unsqueeze(1)
    )[row, after]
    # theirs drew row by row in the input's order
    in_their_order = torch.argsort(row * (REFERENCE["max_length"] + 1) + encoded.layout.place)
    negatives = torch.empty(len(row), len(case["negatives"][0]), dtype=torch.int64)
    negatives[in_their_order] = torch.tensor(case["negatives"])
    loss = sampled_softmax(encoded.positions, vectors, positives, negatives, REFERENCE["temperature"])
    assert loss.item() == pytest.approx(case["loss"], rel=1e-5)
    loss.backward()
    for name, weight in encoder.named_parameters():
        want = torch.tensor(case["gradients"][name], dtype=torch.float64)
        assert weight.grad is not None
        if name == "item_embedding.weight":
            weight.grad[0] = want[0] = 0
        torch.testing.assert_close(weight.grad, want, rtol=1e-5, atol=1e-5 * float(want.abs().max()))


def plain_attention(block: HSTUBlock, x: Tensor, times: Tensor, asked: Tensor) -> Tensor:
    """One block on dense rows of full length, line by line as in the paper."""
    sizes, n = block.sizes, x.shape[1]
    u, v, q, k = functional.silu(functional.layer_norm(x, x.shape[-1:], eps=1e-6) @ block.uvqk).split(
        block.widths, dim=-1
    )
    q, k, v = (part.unflatten(-1, (sizes.n_heads, -1)).transpose(1, 2) for part in (q, k, v))
    scores = q @ k.transpose(2, 3)
    at = torch.arange(n)
    if block.position_weight is not None:
        scores = scores + block.position_weight[at - at[:, None] + sizes.divisor - 1]
    if block.time_weight is not None:
        after = torch.cat([times[:, 1:], asked[:, None]], 1)
        apart = (after[:, :, None] - times[:, None, :]).abs().clamp(min=1)
        scores = scores + block.time_weight[(torch.log(apart) / 0.301).long().clamp(0, 128)].unsqueeze(1)
    mixed = (functional.silu(scores) / sizes.divisor * torch.ones(n, n).tril() @ v).transpose(1, 2).flatten(2)
    return x + block.output(u * functional.layer_norm(mixed, mixed.shape[-1:], eps=1e-6))


@pytest.mark.parametrize("biases", [(), ("position",), ("position", "time"), ("time",)])
@pytest.mark.parametrize("device", ["cpu", "other"])
def test_groups_and_hand_written_gradients_equal_the_plain_attention(
    device: str, biases: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(length_groups, "PAIRS_PER_GROUP", 100)  # one or two rows a group
    if device == "other":
        there = partial(length_groups.like_lengths, on_cpu=False)
        monkeypatch.setattr(hstu_packing, "like_lengths", lambda sizes, n_heads, **_: there(sizes, n_heads))
        monkeypatch.setattr(length_groups, "ACCELERATOR_PAIRS_PER_GROUP", 500)  # three rows of length 9, then the rest
    encoder = make(biases)
    lengths = [9, 1, 4, 9, 7, 2, 9, 3]
    items, sizes, times, asked = some_rows(lengths)
    groups = hstu_packing.PackedLayout.of(sizes, 9, 2).groups
    assert len(groups) == (7 if device == "cpu" else 2)
    weight = torch.randn(sum(lengths), 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    encoded = encoder(items, sizes, times, asked)
    (encoded.positions * weight).sum().backward()
    grads = [parameter.grad.clone() for parameter in encoder.parameters() if parameter.grad is not None]
    encoder.zero_grad()
    total = torch.zeros((), dtype=torch.float64)
    for row, length in enumerate(lengths):
        x = (
            encoder.item_embedding(items[row, :length]) * 8**0.5 + encoder.position_embedding.weight[:length]
        ).unsqueeze(0)
        for block in encoder.blocks:
            x = plain_attention(block, x, times[row : row + 1, :length], asked[row : row + 1])
        want = unit(x[0])
        mine = encoded.layout.row == row
        torch.testing.assert_close(encoded.positions[mine], want, rtol=1e-10, atol=1e-12)
        total = total + (want * weight[mine]).sum()
    total.backward()
    for got, parameter in zip(grads, [p for p in encoder.parameters() if p.grad is not None], strict=True):
        torch.testing.assert_close(got, parameter.grad, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("biases", [(), ("position", "time")])
def test_gradients_are_those_of_finite_differences(biases: tuple[str, ...]) -> None:
    encoder = make(biases, max_length=5, embedding_size=4, n_layers=1, n_items=7, attention_size=2, linear_size=2)
    items, lengths, times, asked = some_rows([5, 2, 1], n_items=7)
    names = [name for name, _ in encoder.named_parameters()]

    def loss(*weights: Tensor) -> Tensor:
        given = dict(zip(names, weights, strict=True))
        encoded = torch.func.functional_call(encoder, given, (items, lengths, times, asked))
        vectors = unit(given["item_embedding.weight"])
        negatives = torch.arange(8 * 3).view(8, 3) % 6 + 1
        return sampled_softmax(encoded.positions, vectors, torch.arange(8) % 6 + 1, negatives, 0.5)

    assert torch.autograd.gradcheck(
        loss, tuple(p.detach().clone().requires_grad_() for p in encoder.parameters()), atol=1e-6
    )


@pytest.mark.parametrize("double", [True, False])
def test_padding_changes_nothing(double: bool) -> None:
    """Neither its length nor what stands in it nor the company of a longer row; n in the divisor is constant."""
    encoder = make(double=double)
    items, lengths, times, asked = some_rows([4, 1, 9, 6])
    alone: list[Encoded] = [
        encoder(items[r : r + 1, :n], lengths[r : r + 1], times[r : r + 1, :n], asked[r : r + 1])
        for r, n in enumerate(lengths.tolist())
    ]
    rubbish = torch.arange(items.shape[1] + 7) >= lengths.unsqueeze(1)
    wide = functional.pad(items, (0, 7)).masked_fill(rubbish, 29)
    late = functional.pad(times, (0, 7)).masked_fill(rubbish, 10**12)
    together = encoder(wide, lengths, late, asked)
    near = {"rtol": 1e-12, "atol": 1e-13} if double else {"rtol": 1e-5, "atol": 1e-6}
    for row, single in enumerate(alone):
        torch.testing.assert_close(together.last()[row], single.last()[0], **near)
        torch.testing.assert_close(together.padded()[row, : lengths[row]], single.padded()[0], **near)


def test_the_future_changes_nothing() -> None:
    encoder = make()
    items, lengths, times, asked = some_rows([9, 9])
    before = encoder(items, lengths, times, asked).padded()
    for cut in range(1, 9):
        changed, later = items.clone(), times.clone()
        changed[:, cut:] = changed[:, cut:] % 29 + 1
        later[:, cut + 1 :] += 10**7  # the time at `cut` is what position cut - 1 is asked about
        after = encoder(changed, lengths, later, asked + 10**7).padded()
        assert torch.equal(before[:, :cut], after[:, :cut])
        assert not torch.allclose(before[:, cut:], after[:, cut:])
    short = encoder(items, torch.tensor([5, 5]), times, times[:, 5])
    torch.testing.assert_close(short.last(), before[:, 4], rtol=1e-12, atol=1e-13)


def test_a_long_history_keeps_its_latest_items() -> None:
    encoder = make()
    items, lengths, times, asked = some_rows([25, 4])
    encoded = encoder(items, lengths, times, asked)
    cut = encoder(items[:1, -9:], torch.tensor([9]), times[:1, -9:], asked[:1])
    torch.testing.assert_close(encoded.last()[0], cut.last()[0], rtol=1e-12, atol=1e-13)
    assert encoded.layout.column[encoded.layout.row == 0].tolist() == list(range(16, 25))
    other = items.clone()
    other[0, :16] = 1
    assert torch.equal(encoder(other, lengths, times, asked).positions, encoded.positions)


def test_time_buckets() -> None:
    layout = PackedLayout.of(torch.tensor([3]), 9, 1)
    times = torch.tensor([0, 1, 10**6])
    (bucket,) = hstu_packing.time_buckets(layout, times, torch.tensor([1, 10**6, 2**62]))
    ln = np.log(np.maximum(1, np.abs([[1, 0, 1 - 10**6], [10**6, 10**6 - 1, 0], [2**62, 2**62, 2**62 - 10**6]])))
    assert bucket[0].tolist() == np.minimum(np.floor(ln / 0.301), 128).astype(int).tolist()


def test_seconds_decide_and_without_them_the_positions() -> None:
    encoder = make()
    items, lengths, times, asked = some_rows([6, 3])
    assert not torch.allclose(encoder(items, lengths, times, asked).last(), encoder(items, lengths).last())
    at = torch.arange(6).expand(2, 6)
    torch.testing.assert_close(encoder(items, lengths, at, lengths).last(), encoder(items, lengths).last())
    same = encoder(items, lengths, times)
    torch.testing.assert_close(
        same.last(), encoder(items, lengths, times, times.gather(1, lengths[:, None] - 1)[:, 0]).last()
    )
    assert torch.equal(make(())(items, lengths, times).last(), make(())(items, lengths).last())


def test_empty_histories_get_zeros() -> None:
    encoder = make()
    last = encoder(torch.tensor([[0, 0], [3, 4], [0, 0]]), torch.tensor([0, 2, 0])).last()
    assert not last[[0, 2]].any() and last[1].norm().item() == pytest.approx(1)
    nobody = encoder(torch.zeros(2, 1, dtype=torch.int64), torch.tensor([0, 0]))
    assert nobody.last().shape == (2, 8) and not nobody.last().any() and nobody.padded().shape == (2, 0, 8)
    assert (
        sampled_softmax(
            nobody.positions,
            encoder.item_vectors(),
            torch.empty(0, dtype=torch.int64),
            UniformNegatives(30, 3, torch.device("cpu")),
            0.1,
        )
        == 0
    )


def test_layout_covers_every_position_once() -> None:
    lengths = torch.randint(0, 60, (200,), generator=torch.Generator().manual_seed(0))
    layout = PackedLayout.of(lengths, 40, 4)
    kept = lengths.clamp(max=40)
    assert torch.equal(torch.bincount(layout.row, minlength=200), kept)
    assert [group.start for group in layout.groups[1:]] == [group.stop for group in layout.groups[:-1]]
    assert layout.groups[-1].stop == int(kept.sum()) == len(layout.row)
    for group in layout.groups:
        sizes = (~group.padding).sum(1)
        assert int(sizes.max()) < 1.5 * int(sizes.min()) or int(sizes.max()) == 1
        assert torch.equal(group.index.view(-1)[group.places], torch.arange(group.stop - group.start))
    ends = layout.last[kept > 0]
    assert torch.equal(layout.row[ends], torch.arange(200)[kept > 0]) and torch.equal(
        layout.column[ends] + 1, lengths[kept > 0]
    )


def test_dropout_is_off_in_evaluation() -> None:
    encoder = make((), input_dropout=0.5, linear_dropout=0.5)
    items, lengths, *_ = some_rows([6, 3])
    assert torch.equal(encoder(items, lengths).last(), encoder(items, lengths).last())
    encoder.train()
    assert not torch.equal(encoder(items, lengths).last(), encoder(items, lengths).last())


def test_mixed_precision_trains() -> None:
    """RecBole's enable_amp: the attention and the loss run in float32 all the same."""
    encoder = make(double=False).train()
    items, lengths, times, asked = some_rows([6, 3])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        encoded = encoder(items, lengths, times, asked)
        loss = sampled_softmax(
            encoded.positions, encoder.item_vectors(), torch.ones(9, dtype=torch.int64), torch.arange(2, 20), 0.05
        )
    loss.backward()
    exact = encoder(items, lengths, times, asked)
    torch.testing.assert_close(encoded.positions.float(), exact.positions, rtol=0.1, atol=0.1)
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in encoder.parameters())


def test_pad_gets_no_gradient() -> None:
    encoder = make()
    items, lengths, *_ = some_rows([4, 2])
    (encoder(items, lengths).last() @ encoder.item_vectors().T).sum().backward()
    grad = encoder.item_embedding.weight.grad
    assert grad is not None and not grad[0].any() and bool(grad[1:].any())


# -- the loss --------------------------------------------------------------------------------------------------------


def plain_loss(queries: Tensor, items: Tensor, positives: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    good = (queries * items[positives]).sum(1, keepdim=True) / temperature
    bad = torch.einsum("pd,prd->pr", queries, items[negatives]) / temperature
    bad = torch.where(negatives == positives[:, None], -5e4, bad)
    return functional.cross_entropy(torch.cat([good, bad], 1), torch.zeros(len(queries), dtype=torch.int64))


@pytest.mark.parametrize("kind", ["own", "shared", "drawn"])
@pytest.mark.parametrize("chunk", [1, 50, 10**6])
def test_chunked_loss_equals_the_plain_one(kind: str, chunk: int) -> None:
    torch.manual_seed(0)
    queries = unit(torch.randn(23, 6, dtype=torch.float64)).requires_grad_()
    items = unit(torch.randn(12, 6, dtype=torch.float64)).requires_grad_()
    positives, own = torch.randint(1, 12, (23,)), torch.randint(1, 12, (23, 9))
    own[0] = positives[0]  # no negative is left
    expanded = own[1].expand(23, 9) if kind == "shared" else own
    at = iter(range(0, 24))

    def draw(n: int) -> Tensor:
        return own[[next(at) for _ in range(n)]]

    given = {"own": own, "shared": own[1], "drawn": draw}[kind]
    want = plain_loss(queries, items, positives, expanded, 0.05)
    wanted = torch.autograd.grad(3 * want, (queries, items))
    got = sampled_softmax(queries, items, positives, given, 0.05, chunk)
    torch.testing.assert_close(got, want)
    for mine, theirs in zip(torch.autograd.grad(3 * got, (queries, items)), wanted, strict=True):
        torch.testing.assert_close(mine, theirs)
    with torch.no_grad():
        torch.testing.assert_close(
            sampled_softmax(queries, items, positives, own, 0.05, chunk),
            plain_loss(queries, items, positives, own, 0.05),
        )


def test_loss_is_finite_at_scores_of_1e4() -> None:
    queries, items = (
        torch.full((3, 4), 100.0, requires_grad=True),
        torch.tensor([[0.0], [25.0], [-25.0]]).expand(3, 4).clone().requires_grad_(),
    )
    loss = sampled_softmax(queries, items, torch.tensor([2, 1, 2]), torch.tensor([[1, 1], [2, 2], [2, 2]]), 0.05)
    loss.backward()
    assert loss.isfinite() and queries.grad.isfinite().all() and items.grad.isfinite().all()


def test_negatives_are_uniform_over_the_items() -> None:
    np.random.seed(3)
    drawn = UniformNegatives(51, 100, torch.device("cpu"))(1000)
    counts = torch.bincount(drawn.flatten(), minlength=51)
    assert counts[0] == 0
    assert stats.chisquare(counts[1:].numpy()).pvalue > 1e-3


def test_negatives_of_a_position_depend_on_nothing_but_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampled_softmax_module, "NEGATIVES_PER_BLOCK", 40)  # blocks of 5 positions

    def table(mine: Tensor | None, *sizes: int) -> Tensor:
        np.random.seed(1)
        draw = UniformNegatives(1000, 8, torch.device("cpu"), mine)
        return torch.cat([draw(n) for n in sizes])

    whole = table(None, 23)
    assert torch.equal(table(None, 0, 2, 3, 11, 7), whole) and len(whole.unique(dim=0)) == 23
    mine = torch.arange(23) % 7 < 2
    assert torch.equal(table(mine, 1, 4, 3), whole[mine])
    assert torch.equal(table(~mine, 15), whole[~mine])


def test_no_scores_of_a_whole_batch_are_held() -> None:
    """4,000 positions with 2,048 negatives: 32 MB of scores and 1 GB of gathered vectors if held at once."""
    items, queries = unit(torch.randn(3000, 32)).requires_grad_(), unit(torch.randn(4000, 32)).requires_grad_()
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            out = function(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, tuple | list) else [out]:
                largest = max(
                    largest, tensor.numel() if isinstance(tensor, Tensor) and tensor.layout is torch.strided else 0
                )
            return out

    with Watch():
        sampled_softmax(
            queries,
            items,
            torch.ones(4000, dtype=torch.int64),
            UniformNegatives(3000, 2048, torch.device("cpu")),
            0.05,
            2**18,
        ).backward()
    assert largest <= 2**19
