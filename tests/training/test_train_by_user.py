"""Training by user is training on RecBole's rows of the same users, in one pass per history."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from recbole.data import create_dataset, data_preparation
from torch import Tensor
from torch.nn.functional import cross_entropy

from recbole_kd.acceleration import user_passes
from recbole_kd.acceleration.user_passes import begins_the_next, encode_by_user, in_passes
from recbole_kd.data.histories.history_rows import QUERY
from recbole_kd.data.histories.user_blocks import TARGETS_OF_A_BLOCK
from recbole_kd.errors import ConfigError
from recbole_kd.experiments.benchmarks.made_data import random_teacher
from recbole_kd.losses import catalogue_softmax as softmax
from recbole_kd.losses.catalogue_softmax import catalogue_softmax
from recbole_kd.pipeline.request import make_request
from recbole_kd.training.build_distiller import build_distiller
from recbole_kd.training.trainer import KDTrainer
from tests.support.helpers import Case, TinyData, build_case, dataset_of

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "dropout_prob": 0.0}
WHOLE = {"train_batch_size": 10**6}
BPR = {"loss_type": "BPR", "train_neg_sample_args": {"distribution": "uniform", "sample_num": 1}}


def both(data: TinyData, model: str, **more: Any) -> tuple[Case, Case]:
    """The same model on RecBole's rows and by user, with weights that are not zero."""
    keys = {"setting": "sequential", "MAX_ITEM_LIST_LENGTH": 20, **NO_DROPOUT, **WHOLE, **more}
    rows, by_user = (build_case(data, model, **keys, train_by_user=asked) for asked in (False, True))
    with torch.no_grad():
        for number, parameter in enumerate(rows.model.parameters()):  # biases too: RecBole starts them at nought
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))
    by_user.model.load_state_dict(rows.model.state_dict())
    return rows, by_user


def columns(batch: Any) -> dict[str, Tensor]:
    """The columns of a batch in the order of its queries."""
    order = batch[QUERY].argsort()
    return {name: column[order] for name, column in batch.interaction.items()}


def gradients(model: Any, loss: Tensor) -> list[Tensor]:
    model.zero_grad()
    loss.backward()
    return [parameter.grad for parameter in model.parameters()]


@pytest.mark.parametrize(
    ("model", "more"),
    [
        ("SASRec", {}),
        ("SASRec", {"n_layers": 1, "n_heads": 4, **BPR}),
        ("GRU4Rec", {}),
        ("GRU4Rec", {"num_layers": 2, **BPR}),
    ],
)
def test_loss_and_gradients_are_those_of_recboles_rows(
    model: str, more: dict[str, Any], tiny_dataset: TinyData
) -> None:
    rows, by_user = both(tiny_dataset, model, **more)
    encode_by_user(by_user.model)
    batch, theirs = next(iter(by_user.loaders.train)), next(iter(rows.loaders.train))
    if more:
        order = batch[QUERY][:, None].eq(theirs[QUERY]).int().argmax(0)
        theirs["neg_item_id"] = batch["neg_item_id"][order]  # the same negatives
    ours, plain = columns(batch), columns(theirs)
    assert ours.keys() == plain.keys() and all(torch.equal(ours[name], plain[name]) for name in ours)
    losses = [case.model.train().calculate_loss(b) for case, b in ((by_user, batch), (rows, theirs))]
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=1e-6)
    for mine, other in zip(gradients(by_user.model, losses[0]), gradients(rows.model, losses[1]), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("model", ["SASRec", "GRU4Rec"])
@pytest.mark.parametrize("cut", [1, 5])
def test_longer_histories_are_cut_to_more_than_half_the_length(model: str, cut: int, tiny_dataset: TinyData) -> None:
    """Windows lie half a window apart, and every target of RecBole's rows is trained once."""
    rows, by_user = both(tiny_dataset, model, MAX_ITEM_LIST_LENGTH=cut)
    encode_by_user(by_user.model)
    batch, every = columns(next(iter(by_user.loaders.train))), columns(next(iter(rows.loaders.train)))
    for name in ("user_id", "item_id", QUERY):
        assert torch.equal(batch[name], every[name])
    lengths, theirs = batch["item_length"], every["item_length"]
    assert bool((lengths <= theirs).all()) and bool(
        (lengths > torch.minimum(theirs - 1, torch.tensor(cut - cut // 2 - 1))).all()
    )
    for mine, n, whole, length in zip(batch["item_id_list"], lengths, every["item_id_list"], theirs, strict=True):
        assert torch.equal(mine[:n], whole[length - n : length]) and not mine[n:].any()  # the latest items
    last = torch.cat([batch["user_id"].diff() != 0, torch.ones(1, dtype=torch.bool)])
    assert torch.equal(batch["item_id_list"][last], every["item_id_list"][last])
    assert len(by_user.loaders.train.dataset) < len(lengths) or cut == 1


@pytest.mark.parametrize("model", ["SASRec", "GRU4Rec"])
def test_a_cut_history_has_the_vectors_of_its_rows(model: str, tiny_dataset: TinyData) -> None:
    rows, by_user = both(tiny_dataset, model, MAX_ITEM_LIST_LENGTH=5)
    encode_by_user(by_user.model)
    batch = next(iter(by_user.loaders.train))
    loss, plain = by_user.model.train().calculate_loss(batch), rows.model.train().calculate_loss(batch)
    torch.testing.assert_close(loss, plain, rtol=0, atol=1e-6)


@pytest.mark.parametrize("cut", [20, 5])
def test_a_distillation_asks_at_the_same_positions(cut: int, tiny_dataset: TinyData, tmp_path: Any) -> None:
    """Base loss, KD loss and gradients of the joint step; uncut, they are those of RecBole's rows."""
    kd = {"kd": "RCEKD", "kd_k": 5, "kd_n_samples": 3, "kd_candidates": 10, "MAX_ITEM_LIST_LENGTH": cut}
    found = []
    for case in both(tiny_dataset, "SASRec", **kd):
        train = case.loaders.train
        teacher = random_teacher(case.splits.n_users + 1, case.splits.n_items + 1)
        distiller = build_distiller(case.config, case.model, teacher, train)
        trainer = KDTrainer(case.config, case.model, distiller, scalars=tmp_path / str(len(found)))
        trainer.prepare(train)
        distiller.begin_epoch(0)
        assert trainer._loader is not None
        trainer._loader.ask_teacher()
        batch = next(iter(trainer._loader))
        case.model.train()
        losses = trainer._losses(batch)
        trainer.tensorboard.close()
        found.append((losses, gradients(case.model, sum(losses)), batch))
    (plain, slopes, rows), (ours, own, by_user) = found
    assert torch.equal(by_user.kd.queries, by_user[QUERY].sort().values)
    if cut == 5:
        assert len(by_user) == len(rows) and all(bool(loss.isfinite()) for loss in ours)
        return
    torch.testing.assert_close(torch.stack(ours), torch.stack(plain), rtol=0, atol=1e-6)
    for mine, other in zip(own, slopes, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)


def test_a_history_is_encoded_once_for_each_of_its_blocks(
    tiny_dataset: TinyData, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, case = both(tiny_dataset, "SASRec")
    seen = []
    plain = user_passes.ENCODERS[type(case.model)]
    monkeypatch.setitem(
        user_passes.ENCODERS, type(case.model), lambda model, items: (seen.append(items), plain(model, items))[1]
    )
    encode_by_user(case.model)
    batch = next(iter(case.loaders.train))
    case.model.train().calculate_loss(batch)
    targets = batch["user_id"].unique(return_counts=True)[1]
    assert int(targets.max()) > TARGETS_OF_A_BLOCK, "a history of several blocks"
    n_blocks = int((-(-targets // TARGETS_OF_A_BLOCK)).sum())
    assert sum(len(items) for items in seen) == n_blocks
    twin = copy.deepcopy(case.model)
    with torch.no_grad():
        twin.LayerNorm.weight.zero_()
    history = batch["item_id_list"], batch["item_length"]
    assert not torch.equal(twin.forward(*history), case.model.forward(*history))


def test_an_epoch_has_as_many_steps_and_every_target_in_one_of_them(tiny_dataset: TinyData) -> None:
    rows, by_user = both(tiny_dataset, "SASRec", train_batch_size=40)
    assert abs(len(by_user.loaders.train) - len(rows.loaders.train)) <= 1
    queries = torch.cat([batch[QUERY] for batch in by_user.loaders.train])
    assert torch.equal(queries.sort().values, torch.arange(1, len(dataset_of(rows.loaders.train)) + 1))


def test_blocks_take_the_targets_of_a_history_in_turn(tiny_dataset: TinyData) -> None:
    """A batch has few targets of one user, early and late ones, so that its rows differ as random rows do."""
    data = dataset_of(both(tiny_dataset, "SASRec")[1].loaders.train)
    several = 0
    for block in range(len(data)):
        users, lengths = data[block]["user_id"], data[block]["item_length"]
        n_targets = int((data.rows.users == users[0]).sum())
        n_blocks = -(-n_targets // TARGETS_OF_A_BLOCK)
        assert len(users.unique()) == 1 and len(users) in (n_targets // n_blocks, -(-n_targets // n_blocks))
        assert (lengths.diff() == n_blocks).all()
        several += n_blocks > 1
    assert several, "a history of several blocks"


def test_what_is_scored_is_not_changed(tiny_dataset: TinyData) -> None:
    rows, by_user = both(tiny_dataset, "SASRec", MAX_ITEM_LIST_LENGTH=5)
    for phase in ("valid", "test"):
        theirs, ours = (dataset_of(getattr(case.loaders, phase)).inter_feat for case in (rows, by_user))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs.columns)
    universes = [dataset_of(case.loaders.train).universe for case in (rows, by_user)]
    assert torch.equal(universes[0].begins, universes[1].begins) and torch.equal(universes[0].ends, universes[1].ends)


@given(st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=6), min_size=1, max_size=12))
def test_rows_of_any_order_get_their_own_vectors(histories: list[list[int]]) -> None:
    lengths = torch.tensor([len(history) for history in histories])
    items = torch.tensor([history + [0] * (6 - len(history)) for history in histories])
    powers = 10.0 ** torch.arange(6, dtype=torch.float64)

    def encode(some: Tensor) -> Tensor:
        """The digits of the history up to each position."""
        return (some * powers[: some.shape[1]]).cumsum(1).unsqueeze(2)

    wanted = (items * powers).sum(1, keepdim=True)
    assert torch.equal(in_passes(encode, items, lengths), wanted)
    nested = sum(b[: len(a)] == a for a, b in pairwise(histories))
    assert int(begins_the_next(items, lengths).sum()) == nested


@given(n=st.integers(1, 40), n_items=st.integers(1, 50), scale=st.sampled_from([0.0, 1.0, 1e4]), seed=st.integers(0, 9))
def test_the_softmax_in_blocks_is_torchs(n: int, n_items: int, scale: float, seed: int) -> None:
    """The vectors have few binary digits, so that scores are exact and their softmax alone is compared."""
    generator = torch.Generator().manual_seed(seed)
    queries, items = (torch.randint(-4, 5, (size, 3), generator=generator) / 4 for size in (n, n_items))
    queries = scale * queries
    targets = torch.randint(0, n_items, (n,), generator=generator)
    results = []
    for dtype, loss_of in (
        (torch.float32, catalogue_softmax),
        (torch.float64, lambda q, v, t: cross_entropy(q @ v.T, t)),
    ):
        leaves = queries.to(dtype).requires_grad_(), items.to(dtype).requires_grad_()
        loss = loss_of(*leaves, targets)
        results.append([loss.detach().double(), *(s.double() for s in torch.autograd.grad(3 * loss, leaves))])
    for ours, exact in zip(*results, strict=True):
        torch.testing.assert_close(ours, exact, rtol=2e-5, atol=2e-6 * max(1.0, scale))


@pytest.mark.parametrize("compiled", [True, False])
def test_the_softmax_keeps_nan_and_never_holds_all_scores(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(softmax, "CPU_BLOCK_BYTES", 4 * 50 * 8)
    if not compiled:
        monkeypatch.setattr(softmax.compiled, "softmax_sums", lambda scores: None)
    sizes = []
    plain = softmax._loss_and_slopes
    monkeypatch.setattr(softmax, "_loss_and_slopes", lambda s, t: (sizes.append(s.shape), plain(s, t))[1])
    queries, items, targets = torch.randn(30, 4).requires_grad_(), torch.randn(50, 4), torch.arange(30)
    loss = catalogue_softmax(queries, items, targets)
    torch.testing.assert_close(loss, cross_entropy(queries @ items.T, targets))
    assert max(rows for rows, _ in sizes) == 8
    queries.data[3, 1] = torch.nan
    assert bool(catalogue_softmax(queries, items, targets).isnan())


@pytest.mark.parametrize(
    "given",
    [
        {"model": "NARM", "train_by_user": True},
        {"model": "MF", "train_by_user": True},
        {"model": "SASRec", "teacher": "MF", "teacher_config": {"train_by_user": True}},
    ],
)
def test_other_models_are_refused(given: dict[str, Any], tiny_dataset: TinyData) -> None:
    place = {"kd": "RCEKD", "dataset": tiny_dataset.name, "data_path": tiny_dataset.data_path}
    with pytest.raises(ConfigError, match=r"train_by_user=True: it has no effect on .*: SASRec and GRU4Rec can train"):
        make_request({"teacher": "SASRec", "setting": "sequential", **place, **given})


def test_data_of_single_rows_are_refused(tiny_dataset: TinyData, tmp_path: Any) -> None:
    _, case = both(tiny_dataset, "SASRec")
    train, valid, _ = data_preparation(case.config, create_dataset(case.config))
    trainer = KDTrainer(case.config, case.model, scalars=tmp_path)
    with pytest.raises(ConfigError, match="train_by_user=True has no effect on this SequentialDataset"):
        trainer.fit(train, valid)
    trainer.tensorboard.close()
