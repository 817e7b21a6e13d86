"""Lists that belong to a user and a position: each training row of a sequential student has its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import recbole_kd
from recbole_kd.cli.program import main
from recbole_kd.data.histories.position_queries import PositionQueries
from recbole_kd.errors import DataError, TeacherError
from recbole_kd.evaluation.teacher_ranking import teacher_metrics
from recbole_kd.teacher.coverage import coverage_of
from recbole_kd.teacher.load import load_teacher
from recbole_kd.training.build_distiller import build_distiller
from recbole_kd.training.trainer import KDTrainer
from tests.support.helpers import SEQUENTIAL, Case, TinyData, build_case

COLUMNS = {"user": "user", "item": "item", "score": "score", "position": "after"}


@pytest.fixture(scope="module")
def case(tiny_dataset: TinyData) -> Case:
    return build_case(tiny_dataset, "SASRec", train_batch_size=16)


def tokens(case: Case, field: str) -> Any:
    return case.splits.dataset.field2id_token[field]


def histories(case: Case) -> list[tuple[str, int, int]]:
    """External user, position and query of every history."""
    rows = case.loaders.train._dataset.universe
    users, lengths = rows.users.tolist(), (rows.ends - rows.begins).tolist()
    names = tokens(case, "user_id")
    return [(str(names[u]), n, q) for q, (u, n) in enumerate(zip(users, lengths, strict=True)) if n]


def frame_of(case: Case, every: int = 1) -> tuple[pd.DataFrame, dict[int, list[int]]]:
    """A list of two items for each ``every``-th history, and the lists by query."""
    items, rows, lists = tokens(case, "item_id"), [], {}
    for user, position, query in histories(case)[::every]:
        lists[query] = [1 + (3 * query) % (len(items) - 1), 1 + (3 * query + 1) % (len(items) - 1)]
        rows += [(user, items[item], -float(n), position) for n, item in enumerate(lists[query])]
    return pd.DataFrame(rows, columns=list(COLUMNS.values())).sample(frac=1, random_state=0), lists


def test_positions_are_numbered_as_a_sequential_teachers_queries(tiny_dataset: TinyData, case: Case) -> None:
    names = {str(token): n for n, token in enumerate(tokens(case, "user_id"))}
    expected = histories(case)
    general = build_case(tiny_dataset, "MF", eval_args=SEQUENTIAL["eval_args"])
    for data in (case.loaders.train, case.splits.parts[0], general.loaders.train, general.splits.parts[0]):
        found = PositionQueries.of(data)
        users, positions = (
            torch.tensor(column).numpy() for column in ([names[u] for u, *_ in expected], [n for _, n, _ in expected])
        )
        assert found.query(users, positions).tolist() == [query for *_, query in expected]
        assert found.n_queries == len(case.loaders.train._dataset.universe)
        assert found.query(users[:2], positions[:2] * 0 + 99).tolist() == [-1, -1]


def test_each_training_row_has_the_list_of_its_history(case: Case, tmp_path: Path) -> None:
    frame, lists = frame_of(case, every=2)
    made = recbole_kd.teacher_from_lists(frame, case.loaders.train, **COLUMNS, out=tmp_path / "teacher")
    read = load_teacher(tmp_path / "teacher", case.loaders.train)
    train = case.loaders.train._dataset
    for teacher in (made, read):
        distiller = build_distiller(
            {**case.config.final_config_dict, "kd": "CE", "kd_weight": 1.0, "kd_k": 2},
            case.model,
            teacher,
            case.loaders.train,
        )
        asked, queries = distiller.teacher_scores, torch.arange(len(train.query_ids))
        assert asked.covered.tolist() == [q in lists for q in train.query_ids.tolist()]
        own = [lists.get(q, [0, 0]) for q in train.query_ids.tolist()]
        assert asked.top_k(queries, 2)[0].tolist() == own
    coverage = coverage_of(read)
    assert coverage is not None
    assert (coverage["histories"], coverage["of_histories"]) == (len(lists), made.n_queries - 1)
    assert coverage["users"] == frame["user"].nunique() and coverage["of_users"] == train.user_num - 1
    trainer = KDTrainer(case.config, case.model, distiller)
    trainer.prepare(case.loaders.train)
    assert all(0 < loss < float("inf") for loss in trainer._train_epoch(case.loaders.train, 0))


def test_it_is_measured_where_its_histories_are_those_of_the_ranking(case: Case) -> None:
    frame, lists = frame_of(case)
    teacher = recbole_kd.teacher_from_lists(frame, case.loaders.train, **COLUMNS)
    found = teacher_metrics(case.config, case.splits, teacher)
    assert found["test"] is None  # its histories hold the validation item
    uid, iid = ("user_id", "item_id")
    held_out = case.splits.parts[1].inter_feat
    hits = [int(item) in lists[int(user)] for user, item in zip(held_out[uid], held_out[iid], strict=True)]
    assert found["valid"]["recall@10"] == pytest.approx(sum(hits) / len(hits))


def test_positions_that_are_not_there_are_counted_and_malformed_ones_refused(case: Case) -> None:
    user = histories(case)[0][0]
    frame = pd.DataFrame({"user": [user] * 3, "item": ["i1", "i2", "i3"], "score": 1.0, "after": [1, 99, 0]})
    teacher = recbole_kd.teacher_from_lists(frame, case.loaders.train, **COLUMNS)
    assert teacher.manifest["imported"]["unknown_positions"] == 2 and int(teacher.covered.sum()) == 1
    with pytest.raises(TeacherError, match="2 of 3 rows name a position"):
        recbole_kd.teacher_from_lists(frame, case.loaders.train, **COLUMNS, strict=True)
    with pytest.raises(TeacherError, match=r"the position 1\.5: expected whole numbers"):
        recbole_kd.teacher_from_lists(frame.assign(after=1.5), case.loaders.train, **COLUMNS)
    by_name = frame.assign(position=[1, 1, 1]).drop(columns=["score"])
    assert (
        recbole_kd.teacher_from_lists(by_name, case.loaders.train).manifest["imported"]["scores"].startswith("-place")
    )
    with pytest.raises(TeacherError, match="no column for score"):  # the only rank is the position
        recbole_kd.teacher_from_lists(by_name, case.loaders.train, position="position")


def test_another_order_of_the_items_is_other_data(tiny_dataset: TinyData, case: Case, tmp_path: Path) -> None:
    recbole_kd.teacher_from_lists(frame_of(case)[0], case.loaders.train, **COLUMNS, out=tmp_path / "teacher")
    other = dict(case.splits.fingerprint, histories="another")
    with pytest.raises(TeacherError, match="its histories are"):
        load_teacher(tmp_path / "teacher", case.loaders.train).check_data(other)


def test_recboles_own_rows_are_refused(tiny_dataset: TinyData, case: Case) -> None:
    from recbole.data import create_dataset, data_preparation

    config = build_case(tiny_dataset, "SASRec").config
    loader = data_preparation(config, create_dataset(config))[0]
    with pytest.raises(DataError, match="prepare_data"):
        recbole_kd.teacher_from_lists(frame_of(case)[0], loader, **COLUMNS)


def test_the_verb_says_how_many_histories_have_a_list(
    tiny_dataset: TinyData, case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame, lists = frame_of(case, every=3)
    frame.to_csv(tmp_path / "lists.csv", index=False)
    words = ["import-teacher", str(tmp_path / "lists.csv"), f"--dataset={tiny_dataset.name}", "--setting=sequential"]
    words += [f"--data_path={tiny_dataset.data_path}", "--position=after", f"--out={tmp_path / 'teacher'}"]
    assert main([*words, "--load_col={inter: [user_id, item_id, timestamp]}"]) == 0
    assert f"for {len(lists):,} of {len(histories(case)):,} histories" in capsys.readouterr().out
