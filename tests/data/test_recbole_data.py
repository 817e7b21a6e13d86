"""RecBole's own data sets and loaders as what students are trained on.

The tests cover queries, fingerprints and teachers of every family.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from recbole.utils import get_model, init_seed

import recbole_kd
from recbole_kd.data.fingerprint import data_fingerprint
from recbole_kd.data.histories.recbole_rows import _row_by_row, sequence_queries
from recbole_kd.data.histories.sequence_dataset import stage_parts
from recbole_kd.data.recbole_split import generators_kept, split_behind
from recbole_kd.data.split_and_loaders import split_data
from recbole_kd.data.train_items import query_items, train_items
from tests.support.helpers import SEQUENTIAL, TinyData, dataset_of
from tests.support.recbole_scripts import SEQUENTIAL_MODELS, folder_of, recboles


@pytest.fixture(autouse=True)
def _no_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["script.py"])


@pytest.fixture(scope="module")
def short_histories(tmp_path_factory: pytest.TempPathFactory) -> TinyData:
    """Users of one to eight items.

    RecBole's sequential data set divides those below four otherwise than the general one.
    """
    folder = tmp_path_factory.mktemp("short") / "short"
    folder.mkdir()
    rows = ["user_id:token\titem_id:token\ttimestamp:float"]
    rows += [
        f"u{user}\ti{(3 * user + step) % 11}\t{1000 * step + user}"
        for user in range(16)
        for step in range(1 + user % 8)
    ]
    (folder / "short.inter").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return TinyData(str(folder.parent), "short")


@pytest.mark.parametrize("model", SEQUENTIAL_MODELS)
@pytest.mark.parametrize("longest", [3, 10])
def test_queries_of_recboles_rows_are_those_of_our_split(tiny_dataset: TinyData, model: str, longest: int) -> None:
    config, train, _, _ = recboles(tiny_dataset, model, MAX_ITEM_LIST_LENGTH=longest)
    theirs = sequence_queries(train)
    ours = sequence_queries(stage_parts(config, split_data(config).parts)[0])
    assert theirs is not None and ours is not None
    assert torch.equal(theirs.query_ids, ours.query_ids) and len(theirs.universe) == len(ours.universe)
    assert torch.equal(theirs.universe.users, ours.universe.users)
    every = torch.arange(len(ours.universe))
    left, right = theirs.universe.interaction(every), ours.universe.interaction(every)
    names = set(left.columns) - {
        "raw_time"
    }  # a whole history is asked at its last item's time in both, and only HSTU's rows carry times
    assert names and all(torch.equal(left[name], right[name]) for name in names)
    seen, expected = query_items(train), query_items(stage_parts(config, split_data(config).parts)[0])
    assert torch.equal(seen.starts, expected.starts) and torch.equal(seen.items, expected.items)


def test_rows_that_follow_no_sequence_keep_their_histories(tiny_dataset: TinyData) -> None:
    _, train, _, _ = recboles(tiny_dataset, "SASRec")
    queries = sequence_queries(train)
    assert queries is not None
    rows = queries.training_rows().take(torch.arange(1, len(queries.query_ids)))
    alone = _row_by_row(dataset_of(train).inter_feat, rows.fields, False)
    every = torch.arange(len(rows))
    shared, own = rows.interaction(every), alone.interaction(every)
    assert all(torch.equal(shared[name], own[name]) for name in own.columns)


@pytest.mark.parametrize("model", ["BPR", *SEQUENTIAL_MODELS])
def test_the_split_behind_a_loader_is_found_whatever_the_length_of_histories(
    short_histories: TinyData, model: str
) -> None:
    _, train, valid, _ = recboles(short_histories, model)
    before = torch.get_rng_state()
    splits = split_behind(train)
    assert torch.equal(before, torch.get_rng_state())
    assert splits.fingerprint["train"] == data_fingerprint(train=train)["train"]
    assert splits.fingerprint["valid"] == data_fingerprint(valid=valid)["valid"]
    assert splits is split_behind(train)
    pairs = train_items(train)
    assert int(pairs.starts[-1]) == splits.fingerprint["train"]["count"]


@pytest.fixture(scope="module")
def later_users_first(tmp_path_factory: pytest.TempPathFactory) -> TinyData:
    """Who stands later in the file comes earlier in time.

    RecBole's rows take users in another order than their numbers.
    """
    folder = tmp_path_factory.mktemp("later") / "later"
    folder.mkdir()
    rows = ["user_id:token\titem_id:token\ttimestamp:float"]
    rows += [
        f"u{user}\ti{(3 * user + 5 * step) % 11}\t{1000 * (16 - user) + step}"
        for user in range(16)
        for step in range(6)
    ]
    (folder / "later.inter").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return TinyData(str(folder.parent), "later")


@pytest.mark.parametrize("model", SEQUENTIAL_MODELS)
def test_the_split_behind_a_loader_is_found_whatever_the_order_of_users(
    later_users_first: TinyData, model: str
) -> None:
    _, train, _, _ = recboles(later_users_first, model)
    users = dataset_of(train).inter_feat[dataset_of(train).uid_field]
    assert not torch.equal(users, users.sort().values)
    assert split_behind(train).fingerprint["train"] == data_fingerprint(train=train)["train"]


def test_histories_in_another_order_are_refused_whatever_the_order_of_users(later_users_first: TinyData) -> None:
    _, train, _, _ = recboles(later_users_first, "SASRec")
    rows = dataset_of(train).inter_feat
    history = rows[dataset_of(train).item_id_list_field]
    last = int(rows["item_length"].argmax())
    history[last, :2] = history[last, :2].flip(0)
    with pytest.raises(recbole_kd.DataError, match=r"its histories are in another order than those of the loader"):
        split_behind(train)


def test_a_loader_of_other_interactions_is_refused(tiny_dataset: TinyData) -> None:
    _, train, _, _ = recboles(tiny_dataset, "BPR")
    dataset_of(train).inter_feat = dataset_of(train).inter_feat[:50]
    with pytest.raises(
        recbole_kd.DataError, match=r"do not match eval_args=.*pass the loaders of RecBole's data_preparation"
    ):
        split_behind(train)


def test_generators_are_where_they_were() -> None:
    import random

    import numpy as np

    with generators_kept():
        init_seed(7, True)
        drawn = random.random(), np.random.rand(), torch.rand(1)
    init_seed(7, True)
    kept = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
    with generators_kept():
        init_seed(8, False)
        random.random(), np.random.rand(), torch.rand(1)
    assert (random.random(), np.random.rand(), torch.rand(1)) == drawn
    assert kept == (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic)


@pytest.mark.parametrize(
    ("student", "teacher"),
    [("SASRec", "SASRec"), ("SASRec", "MF"), ("HSTU", "SASRec"), ("MF", "HSTU"), ("BPR", "LightGCN")],
)
def test_a_teacher_of_any_family_teaches_on_recboles_loaders(
    tiny_dataset: TinyData, tmp_path: Path, student: str, teacher: str
) -> None:
    sequential = {"eval_args": SEQUENTIAL["eval_args"]}
    folder = folder_of(tiny_dataset, teacher, tmp_path / "teacher", **sequential)
    keys = {"kd": "RCEKD", "kd_k": 5, "kd_n_samples": 5, "kd_candidates": 10}
    config, train, valid, _ = recboles(tiny_dataset, student, **sequential, **keys)
    model = get_model(student)(config, dataset_of(train))
    scores = recbole_kd.load_teacher(folder, train)
    distiller = recbole_kd.build_distiller(config, model, scores, train)
    trainer = recbole_kd.KDTrainer(config, model, distiller)
    trainer.fit(train, valid, saved=False)
    assert trainer.kd_loss[0] > 0


def test_a_teacher_of_another_split_is_refused_with_the_key_to_set(tiny_dataset: TinyData, tmp_path: Path) -> None:
    folder = folder_of(tiny_dataset, "MF", tmp_path / "teacher")
    _, train, _, _ = recboles(tiny_dataset, "BPR", eval_args={"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO"})
    with pytest.raises(
        recbole_kd.TeacherError, match=r"set what it was made with: eval_args=\{.*'order': 'TO'"
    ) as refused:
        recbole_kd.load_teacher(folder, train)
    named = eval(str(refused.value).partition("eval_args=")[2].partition(", seed")[0])  # the sentence's own words, ours
    assert recbole_kd.load_teacher(folder, recboles(tiny_dataset, "BPR", eval_args=named)[1]).name == "MF"


def test_a_random_split_names_its_seed_too(tiny_dataset: TinyData, tmp_path: Path) -> None:
    random_order = {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": "user", "mode": "full"}
    folder = folder_of(tiny_dataset, "MF", tmp_path / "teacher", eval_args=random_order, split_seed=3)
    _, train, _, _ = recboles(tiny_dataset, "BPR", eval_args=random_order)
    with pytest.raises(recbole_kd.TeacherError, match=r"'order': 'RO'.*, seed=3"):
        recbole_kd.load_teacher(folder, train)
    assert (
        recbole_kd.load_teacher(folder, recboles(tiny_dataset, "BPR", eval_args=random_order, seed=3)[1]).name == "MF"
    )
