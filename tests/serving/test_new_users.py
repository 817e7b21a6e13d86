"""Users without training: histories encoded, or folded in by the map of trained users."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import recbole_kd
from recbole_kd.errors import ConfigError, UnknownIdError
from recbole_kd.ops.ragged import Ragged
from recbole_kd.serving.fold_in import RIDGE, mapped, user_map
from tests.support.students import trained

Student = recbole_kd.Student


def student_of(model: str) -> Student:
    return recbole_kd.load_student(trained(model)["folder"])  # the run's folder does, too


def history_of(student: Student, user: str, parts: int = 3) -> tuple[list[str], list[float]]:
    seen = student.known.seen
    mine = (seen["user"] == student.users.places([user])[0]) & (seen["part"] < parts)
    return list(student.items.of(seen["item"][mine].numpy())), seen["time"][mine].tolist()


@pytest.mark.parametrize("model", ["SASRec", "GRU4Rec", "HSTU"])
def test_a_known_history_gives_the_known_users_list(model: str) -> None:
    """With times where the student was trained with them; each alone, and two in one call."""
    student = student_of(model)
    histories, times = (
        dict(zip("ab", both, strict=True))
        for both in zip(history_of(student, "u3"), history_of(student, "u8"), strict=True)
    )
    given = {"times": times} if model == "HSTU" else {}
    found = student.recommend_for(histories, k=5, **given)
    known = student.recommend(["u3", "u8"], k=5)
    assert list(found["user"]) == ["a"] * 5 + ["b"] * 5
    assert list(found["item"]) == list(known["item"])
    assert found["score"].to_numpy() == pytest.approx(known["score"].to_numpy(), abs=1e-5)


def test_the_map_is_the_minimum_that_is_stated() -> None:
    generator = torch.Generator().manual_seed(1)
    items, users = torch.randn(30, 3, generator=generator), torch.randn(6, 3, generator=generator)
    rows, places = np.array([1, 1, 2, 3, 3, 3, 4, 5]), np.array([2, 7, 9, 1, 4, 5, 6, 2])  # user 0 has no history
    histories = Ragged.from_pairs(rows, places, 6)
    found = user_map(items, users, histories).requires_grad_()
    means = torch.stack([items[histories.items[rows == user]].double().mean(0) for user in range(1, 6)])
    fitted = means @ found[:3] + found[3]
    scale = means.square().mean(0)
    size = (scale.unsqueeze(1) * found[:3].square()).sum() + found[3].square().sum()
    loss = (fitted - users[1:].double()).square().sum(1).mean() + RIDGE * size
    (gradient,) = torch.autograd.grad(loss, found)
    assert gradient.abs().max() < 1e-12
    one = Ragged(torch.tensor([0, 2]), torch.tensor([2, 7]))
    assert torch.allclose(mapped(found.detach(), items, one)[0].double(), fitted[0].detach(), atol=1e-6)
    larger = user_map(10 * items, users, histories)  # the weight means the same at any scale
    assert torch.allclose(mapped(larger, 10 * items, one), mapped(found.detach(), items, one), atol=1e-5)


def test_a_trained_user_of_a_linear_student_is_found_again() -> None:
    """Where the trained vectors are a linear function of the histories, a new user's vector is what training gives."""
    generator = torch.Generator().manual_seed(2)
    items = torch.randn(40, 4, generator=generator)
    pairs = torch.rand(60, 40, generator=generator) < 0.2
    pairs[:, 0] = False
    means = pairs.float() @ items / pairs.sum(1, keepdim=True).clamp(min=1)
    users = means @ torch.randn(4, 4, generator=generator) + 0.5
    rows, places = pairs[:50].numpy().nonzero()
    table = user_map(items, users[:50], Ragged.from_pairs(rows, places, 50))
    rows, places = pairs[50:].numpy().nonzero()
    found = mapped(table, items, Ragged.from_pairs(rows, places, 10))
    assert (found - users[50:]).abs().max() < 0.01 * users.abs().max()


@pytest.mark.parametrize("model", ["MF", "LightGCN"])
def test_new_users_get_items_of_their_own_colour(model: str) -> None:
    """The data are a checkerboard: who likes even items is closer to items that such users like."""
    student = student_of(model)
    table = student.embeddings()
    rng = np.random.default_rng(0)
    clean = table.item_vectors.copy()
    for place, item in enumerate(table.items):  # vectors of a model that has learnt the two colours
        clean[place] = rng.normal(0, 0.05, clean.shape[1])
        clean[place, int(item[1:]) % 2] += 1
    whole = torch.from_numpy(np.vstack([np.zeros_like(clean[:1]), clean]).astype(np.float32))
    student.scores._items = whole  # type: ignore[attr-defined]
    train = student.known.trained  # users of such a model stand where their items do
    means = [whole[items].sum(0) / max(1, len(items)) for items in train.items.split(train.counts().tolist())]
    student.scores._queries = torch.stack(means)  # type: ignore[attr-defined]
    found = student.recommend_for([["i2", "i4"], ["i3"]], k=5)
    assert [int(item[1:]) % 2 for item in found["item"]] == [0] * 5 + [1] * 5
    assert not {"i2", "i4"} & set(found["item"][:5]) and list(found["user"]) == [0] * 5 + [1] * 5


def test_bad_histories_are_a_sentence() -> None:
    student = student_of("MF")
    with pytest.raises(UnknownIdError, match="no item 'x'"):
        student.recommend_for([["i1", "x"]])
    assert list(student.recommend_for({"a": ["i1", "x"], "b": ["x"]}, k=2, unknown="skip")["user"]) == ["a", "a"]
    with pytest.raises(ConfigError, match="history of user 0 is empty"):
        student.recommend_for([[]])
    with pytest.raises(ConfigError, match="list of lists"):
        student.recommend_for("i1")
    with pytest.raises(ConfigError, match="times have no effect"):
        student.recommend_for([["i1"]], times=[[3.0]])
    with pytest.raises(ConfigError, match="Invalid times of user 0"):
        student_of("HSTU").recommend_for([["i1"]], times=[[3.0, 4.0]])
    with pytest.raises(ConfigError, match="exclude_seen"):
        student.recommend_for([["i1"]], exclude_seen="protocol")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="NeuMF does not score by a dot product"):
        student_of("NeuMF").recommend_for([["i1"]])
    assert student.recommend_for([]).empty
