"""External ids: what is no list of ids, or no id, is one sentence that names the argument, also beside ``skip``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from recbole_kd.errors import ConfigError, UnknownIdError
from recbole_kd.serving import known_interactions
from recbole_kd.serving.student import Student
from recbole_kd.serving.student_scores import ITEM_VECTORS, QUERY_VECTORS, VectorScores
from recbole_kd.serving.tokens import PAD, Tokens

TOKENS = Tokens("user", [PAD, "196", "22", "ann"])


def small_student() -> Student:
    """A student of two users and three items, of whose interactions nothing is known."""
    nothing = {name: torch.empty(0, dtype=torch.int64) for name in ("user", "item", "part")}
    tested = known_interactions.TestedWith(masked=2, known=2, but_targets=False)
    known = known_interactions.KnownInteractions(nothing, 3, tested)
    vectors = {QUERY_VECTORS: torch.eye(3), ITEM_VECTORS: torch.arange(12.0).reshape(4, 3)}
    users, items = Tokens("user", [PAD, "1", "2"]), Tokens("item", [PAD, "50", "60", "70"])
    return Student({"model": "MF"}, users, items, known, VectorScores(vectors, known))


@pytest.mark.parametrize(
    "asked", [["196", 22], (196, "22"), np.array([196, 22]), pd.Series(["196", "22"]), iter(["196", "22"])]
)
def test_lists_of_text_or_integers_are_ids(asked: Any) -> None:
    assert TOKENS.places(asked).tolist() == [1, 2]


@pytest.mark.parametrize("asked", ["196", b"196", 196, None, 1.5, {"196": ["22"]}, pd.DataFrame({"196": [1]})])
@pytest.mark.parametrize("unknown", ["error", "skip"])
def test_what_is_no_list_is_refused(asked: Any, unknown: str) -> None:
    with pytest.raises(ConfigError, match=r"Invalid candidates.*expected a list of user ids. Try \["):
        TOKENS.places(asked, unknown, argument="candidates")


@pytest.mark.parametrize("one", [196.0, float("nan"), None, True, b"196", ["196"]])
@pytest.mark.parametrize("unknown", ["error", "skip"])
def test_what_is_no_id_is_refused_and_never_skipped(one: Any, unknown: str) -> None:
    with pytest.raises(ConfigError, match=r"Invalid users: .*Give ids as text or integers, such as 'ann'"):
        TOKENS.places(["22", one], unknown)


def test_a_float_that_is_written_like_an_id_is_that_id() -> None:
    assert Tokens("user", [PAD, "1.5"]).places([1.5]).tolist() == [1]


def test_skip_is_advised_only_where_it_is_an_option() -> None:
    with pytest.raises(UnknownIdError, match=r"no user 'x': leave them out \(unknown='skip'\)"):
        TOKENS.places(["x"])
    student = small_student()
    calls: list[Any] = [
        lambda: student.recommend(["1"], candidates=["x"], unknown="skip"),
        lambda: student.recommend(["1"], exclude=["x"], unknown="skip"),
        lambda: student.score(["1"], ["x"]),
        lambda: student.similar_items(["x"]),
    ]
    for call in calls:
        with pytest.raises(UnknownIdError, match="no item 'x'") as refused:
            call()
        assert "skip" not in str(refused.value)


def test_a_flat_history_names_the_user_whose_history_it_is() -> None:
    flat: Any = ["50", "60"]
    with pytest.raises(ConfigError, match="Invalid the history of user 0='50': expected a list of item ids"):
        small_student().recommend_for(flat)


def test_numpy_integers_are_numbers_of_items() -> None:
    student = small_student()
    two: Any = np.int64(2)
    wrong: list[Any] = [True, np.bool_(True), np.float64(2), np.int64(0)]
    assert list(student.recommend([1], k=two)["item"]) == list(student.recommend(["1"], k=2)["item"])
    for k in wrong:
        with pytest.raises(ConfigError, match="Invalid k="):
            student.recommend(["1"], k=k)


def test_export_refuses_wrong_objects(tmp_path: Any) -> None:
    student = small_student()
    wrong: list[tuple[Any, Any]] = [(None, tmp_path / "out"), (1, tmp_path / "out"), (["npz"], None)]
    for to, out in wrong:
        with pytest.raises(ConfigError, match="of export: expected"):
            student.export(to, out)
    assert not list(tmp_path.iterdir())
