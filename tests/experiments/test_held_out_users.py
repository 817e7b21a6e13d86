"""Users who are held out of a training are in none of its data, and their figures are those of the run's protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recbole_kd.cli.program import main
from recbole_kd.experiments.held_out_users import (
    VALID,
    TwoStudents,
    held_out,
    ndcg,
    ndcg_of_new_users,
    two_students,
)
from tests.support.students import KEYS, MODELS, place

WITHOUT = ("teacher", "teacher_config", "kd", "kd_k", "kd_n_samples", "kd_compare", "load_col")


def keys_of(model: str) -> dict[str, Any]:
    places = {"data_path": str(place() / "data"), "cache_dir": str(place() / "cache")}
    keys = {**KEYS, **MODELS[model], "model": model, **places}
    return {key: value for key, value in keys.items() if key not in WITHOUT}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TwoStudents]:
    folder = tmp_path_factory.mktemp("held-out")
    return {model: two_students(keys_of(model), folder / model, share=0.2) for model in ("MF", "LightGCN", "HSTU")}


def test_the_choice_is_of_the_seed_and_never_the_pad() -> None:
    chosen = held_out(943, 0.1, 0)
    assert len(chosen) == 94 == len(set(chosen)) and chosen.min() >= 1 and chosen.max() <= 943
    assert np.array_equal(chosen, held_out(943, 0.1, 0)) and not np.array_equal(chosen, held_out(943, 0.1, 1))


@pytest.mark.parametrize("model", ["MF", "LightGCN", "HSTU"])
def test_they_are_in_no_part_and_all_else_is(model: str, pairs: dict[str, TwoStudents]) -> None:
    two = pairs[model]
    chosen = two.everybody.users.places(two.users)
    seen, whole = two.without.known.seen["user"].numpy(), two.everybody.known.seen["user"].numpy()
    assert len(two.users) == 6 and not np.isin(seen, chosen).any()
    assert np.array_equal(seen, whole[~np.isin(whole, chosen)])
    assert two.without.users.tokens == two.everybody.users.tokens


@pytest.mark.parametrize("model", ["MF", "LightGCN", "HSTU"])
def test_the_figures_are_those_of_the_lists(model: str, pairs: dict[str, TwoStudents]) -> None:
    """The lists are made again user by user, with the masks of the protocol."""
    two, sequential = pairs[model], model == "HSTU"
    seen = two.known.seen
    lists: dict[str, list[str]] = {}
    wanted = {}
    for user, where in zip(two.users, two.everybody.users.places(two.users), strict=True):
        mine = [seen["item"][(seen["user"] == int(where)) & (seen["part"] == part)].numpy() for part in range(3)]
        train, valid, test = (list(two.everybody.items.of(part)) for part in mine)
        when = seen["time"][(seen["user"] == int(where)) & (seen["part"] == 0)].tolist()
        times = {"times": [when]} if sequential else {}
        ranked = list(two.without.recommend_for([train], k=40, exclude_seen=False, **times)["item"])
        masked = set() if sequential else {*train, *valid} - set(test)
        lists[user], wanted[user] = [item for item in ranked if item not in masked][:10], test
    found = ndcg_of_new_users(two)
    assert found["new"] == pytest.approx(ndcg(lists, wanted, 10), abs=1e-12) and found["users"] == 6
    assert 0 < found["trained"] <= 1 and 0 <= ndcg_of_new_users(two, VALID)["trained"] <= 1


def test_ndcg_of_a_known_list() -> None:
    lists, wanted = {"a": ["x", "y", "z"], "b": ["x"]}, {"a": ["y", "w"], "b": ["x"]}
    assert ndcg(lists, wanted, 3) == pytest.approx(((1 / np.log2(3)) / (1 + 1 / np.log2(3)) + 1) / 2)


def test_the_program_prints_both_and_refuses_bad_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"--{key}={value}" for key, value in keys_of("MF").items() if not isinstance(value, (dict, list))]
    words += ["--topk=[10]", "--metrics=[NDCG]", "--eval_args.order=TO", f"--folder={tmp_path / 'two'}"]
    assert main(["new-users", *words, "--share=0.2"]) == 0
    out = capsys.readouterr().out
    assert "test NDCG@10 of 6 users" in out and "trained on them" in out
    for wrong, said in (("--share=1", "Invalid --share=1.0"), ("--user_seed=-1", "Invalid --user_seed=-1")):
        assert main(["new-users", *words, wrong]) == 2
        assert said in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("distilled", [False, True])
def test_mf_serves_new_users_of_ml_100k_nearly_as_well(distilled: bool, tmp_path: Path) -> None:
    """Minutes; results/new-users.md has the figures of the other models."""
    keys = {"model": "MF", "dataset": "ml-100k", "show_progress": False, "use_gpu": False}
    keys |= {"teacher": "LightGCN", "kd": "RCEKD"} if distilled else {}
    found = ndcg_of_new_users(two_students(keys, tmp_path))
    assert found["users"] == 94 and found["new"] >= 0.8 * found["trained"]
