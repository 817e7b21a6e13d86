"""Teachers from outside: tables of lists, scores and vectors become teachers, and what is malformed is one sentence."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import save_file as save_numpy

import recbole_kd
from recbole_kd.cli.program import main
from recbole_kd.errors import TargetError, TeacherError
from recbole_kd.evaluation.teacher_ranking import teacher_metrics
from recbole_kd.scoring.scorer import Scorer
from recbole_kd.storage.files import SCORES
from recbole_kd.teacher import tables
from recbole_kd.teacher.export import export_teacher
from recbole_kd.teacher.external import teacher_from_file
from recbole_kd.teacher.load import load_teacher, named_at
from recbole_kd.teacher.ranked_lists import export_lists
from recbole_kd.teacher.stores.lists import ListScores
from tests.support.helpers import Case, TinyData, build_case, dataset_of

ROWS = [
    ("u1", "i3", 0.5), ("u1", "i8", 2.5), ("u2", "i0", -1.0), ("u2", "i4", 4.0), ("u2", "i2", 4.0), ("u5", "i7", 1e-3),
]  # fmt: skip
LISTS = {"u1": ["i8", "i3"], "u2": ["i2", "i4", "i0"], "u5": ["i7"]}


@pytest.fixture(scope="module")
def case(tiny_dataset: TinyData) -> Case:
    return build_case(tiny_dataset, "MF")


def frame_of(rows: list[tuple[Any, ...]], columns: tuple[str, ...] = ("user", "item", "score")) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(columns))


def lists_in(teacher: Any, case: Case) -> dict[str, list[str]]:
    """The lists with external ids; items with equal scores in the order of their ids."""
    users, items = (case.splits.dataset.field2id_token[field] for field in ("user_id", "item_id"))
    ids = teacher.top_k(torch.arange(len(users)), len(items) - 1)[0]
    found = {str(users[q]): [str(items[i]) for i in row.tolist() if i] for q, row in enumerate(ids)}
    return {user: [*row] for user, row in found.items() if row}


def same_lists(found: dict[str, list[str]]) -> None:
    assert found.keys() == LISTS.keys()
    for user, row in LISTS.items():
        assert sorted(found[user]) == sorted(row)
        if user != "u2":
            assert found[user] == row
    assert found["u2"][2] == "i0"  # the first two are tied


WRITERS: dict[str, Callable[[pd.DataFrame, Path], object]] = {
    ".csv": lambda frame, path: frame.to_csv(path, index=False),
    ".tsv": lambda frame, path: frame.to_csv(path, index=False, sep="\t"),
    ".parquet": lambda frame, path: frame.to_parquet(path, index=False),
    ".jsonl": lambda frame, path: frame.to_json(path, orient="records", lines=True),
}


# -- tables -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", WRITERS)
def test_each_form_gives_the_same_lists_in_any_number_of_chunks(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    if form == ".parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"lists{form}"
    WRITERS[form](frame_of(ROWS).sample(frac=1.0, random_state=1), path)
    whole = teacher_from_file(path, case.loaders.train)
    monkeypatch.setattr(tables, "CHUNK", 2)
    parts = load_teacher(path, case.loaders.train)
    assert isinstance(whole, ListScores) and isinstance(parts, ListScores)
    same_lists(lists_in(whole, case))
    for name, tensor in whole.tensors().items():
        assert torch.equal(tensor, parts.tensors()[name])
    assert whole.manifest["imported"]["used"] == len(ROWS)


def test_what_is_written_comes_back_and_belongs_to_its_data(case: Case, tiny_dataset: TinyData, tmp_path: Path) -> None:
    made = recbole_kd.teacher_from_lists(frame_of(ROWS), case.loaders.train, out=tmp_path / "teacher")
    back = load_teacher(tmp_path / "teacher", case.loaders.train)
    assert isinstance(made, ListScores) and isinstance(back, ListScores)
    assert back.manifest["store"] == "lists" and back.covered is not None
    queries = torch.arange(back.n_queries)
    assert torch.equal(made.full(queries), back.full(queries)) and torch.equal(made.covered, back.covered)
    with pytest.raises(TargetError, match="--out"):
        recbole_kd.teacher_from_lists(frame_of(ROWS), case.loaders.train, out=tmp_path / "teacher")
    split = {"split": {"RS": [0.6, 0.2, 0.2]}, "order": "TO", "group_by": "user", "mode": "full"}
    other = build_case(tiny_dataset, "MF", eval_args=split)
    with pytest.raises(TeacherError, match="made on other data"):
        load_teacher(tmp_path / "teacher", other.loaders.train)
    tensors = tmp_path / "teacher" / SCORES
    tensors.write_bytes(tensors.read_bytes()[:-4])
    with pytest.raises(TeacherError, match="damaged"):
        load_teacher(tmp_path / "teacher", case.loaders.train)


def test_ranks_of_any_numbering_become_scores_by_their_place(case: Case) -> None:
    rows = [("u1", "i3", 9), ("u1", "i8", 2), ("u1", "i5", 30), ("u2", "i1", 0)]
    teacher = recbole_kd.teacher_from_lists(
        frame_of(rows, ("userId", "ItemID", "rank")), case.loaders.train, temperature=4
    )
    assert lists_in(teacher, case) == {"u1": ["i8", "i3", "i5"], "u2": ["i1"]}
    queries = torch.tensor([case.splits.dataset.token2id("user_id", user) for user in ("u1", "u2")])
    scores = teacher.top_k(queries, 3)[1]
    assert scores.tolist() == [[0.0, -0.25, -0.5], [0.0, -torch.inf, -torch.inf]]
    outside = teacher.at(queries, torch.tensor([[case.splits.dataset.token2id("item_id", "i9")]] * 2))
    assert outside.tolist() == [[-0.75], [-1.0]]  # the next place of the first list


BAD_ROWS: dict[str, list[tuple[Any, Any, Any]]] = {
    "unknown_users": [("nobody", "i3", 1.0), ("[PAD]", "i3", 1.0)],
    "unknown_items": [("u1", "nothing", 1.0), ("u1", "[PAD]", 9.0)],
    "not_finite": [("u1", "i4", float("nan")), ("u1", "i4", float("inf")), (None, "i4", 1.0), ("u1", None, 1.0)],
    "duplicates": [("u1", "i3", 0.1), ("u1", "i8", 2.5)],
}


@pytest.mark.parametrize("reason", BAD_ROWS)
def test_rows_that_cannot_be_used_are_counted_and_left_out_or_refused(case: Case, tmp_path: Path, reason: str) -> None:
    frame = frame_of([*BAD_ROWS[reason], *ROWS])
    teacher = recbole_kd.teacher_from_lists(frame, case.loaders.train)
    same_lists(lists_in(teacher, case))
    counts = teacher.manifest["imported"]
    assert counts["rows"] == len(frame) and counts["used"] == len(ROWS)
    left = {name: counts[name] for name in BAD_ROWS if counts[name]}
    assert left == {reason: len(BAD_ROWS[reason])}
    with pytest.raises(TeacherError, match="strict"):
        recbole_kd.teacher_from_lists(frame, case.loaders.train, strict=True, out=tmp_path / "teacher")
    assert list(tmp_path.iterdir()) == []


def test_integers_are_ids_and_the_best_of_repeated_pairs_counts(case: Case) -> None:
    teacher = recbole_kd.teacher_from_lists(
        frame_of([("u1", "i3", 1), ("u1", "i3", 7), ("u1", "i8", 2)]), case.loaders.train
    )
    assert lists_in(teacher, case) == {"u1": ["i3", "i8"]}
    ranked = frame_of([("u1", "i3", 1), ("u1", "i3", 7), ("u1", "i8", 2)], ("user", "item", "rank"))
    assert lists_in(recbole_kd.teacher_from_lists(ranked, case.loaders.train), case) == {"u1": ["i3", "i8"]}


MALFORMED: dict[str, tuple[str, bytes]] = {
    "empty": (".csv", b""),
    "header only": (".csv", b"user,item,score\n"),
    "no header": (".csv", b"u1,i3,0.5\nu2,i4,1.0\n"),
    "no user": (".csv", b"person,item,score\nu1,i3,1\n"),
    "no item": (".csv", b"user,thing,score\nu1,i3,1\n"),
    "no score": (".csv", b"user,item,stars\nu1,i3,1\n"),
    "tabs": (".csv", b"user\titem\tscore\nu1\ti3\t1\n"),
    "commas": (".tsv", b"user,item,score\nu1,i3,1\n"),
    "too many fields": (".csv", b"user,item,score\nu1,i3,1\nu1,i4,1,2,3\n"),
    "too many from the first row": (".csv", b"user,item,score\nu1,i3,1,5\nu1,i4,1,6\n"),
    "text for a score": (".csv", b"user,item,score\nu1,i3,high\n"),
    "decimal comma": (".tsv", b"user\titem\tscore\nu1\ti3\t0,5\n"),
    "open quote": (".csv", b'user,item,score\n"u1,i3,1\nu2,i4,1\n'),
    "not UTF-8": (".csv", b"user,item,score\n\xff\xfe\xfa,i3,1\n"),
    "UTF-16": (".csv", "user,item,score\nu1,i3,1\n".encode("utf-16")),
    "binary": (".csv", bytes(range(256)) * 4),
    "beyond float32": (".csv", b"user,item,score\nu1,i3,1e300\n"),
    "all unknown": (".csv", b"user,item,score\nx,i3,1\ny,i4,2\n"),
    "all NaN": (".csv", b"user,item,score\nu1,i3,nan\nu1,i4,\n"),
    "no Parquet": (".parquet", b"PAR1 this is none"),
    "empty Parquet": (".parquet", b""),
    "no JSON": (".jsonl", b"user item score\n"),
    "a JSON array": (".jsonl", b'[{"user": "u1", "item": "i3", "score": 1}]\n'),
    "broken JSON": (".jsonl", b'{"user": "u1", "item": "i3", "score": 1}\n{"user": "u1", \n'),
    "lists for items": (".jsonl", b'{"user": "u1", "item": ["i3", "i4"], "score": 1}\n'),
    "objects for users": (".jsonl", b'{"user": {"id": 1}, "item": "i3", "score": 1}\n'),
    "fractions for ids": (".jsonl", b'{"user": 1.5, "item": "i3", "score": 1}\n'),
    "text in JSON": (".jsonl", b'{"user": "u1", "item": "i3", "score": "best"}\n'),
    "a missing key": (".jsonl", b'{"user": "u1", "item": "i3"}\n{"user": "u1", "item": "i3", "score": "a"}\n'),
    "deep JSON": (".jsonl", b"[" * 20_000 + b"\n"),
    "a byte order mark alone": (".csv", b"\xef\xbb\xbf"),
    "blank lines": (".csv", b"\n\n\n"),
    "semicolons": (".csv", b"user;item;score\nu1;i3;1\n"),
    "one column": (".csv", b"user\nu1\n"),
    "a column twice": (".csv", b"user,item,item,score\nu1,i3,i4,1\n"),
    "a comment first": (".csv", b"# made today\nuser,item,score\nu1,i3,1\n"),
    "the header again": (".csv", b"user,item,score\nu1,i3,1\nuser,item,score\n"),
    "too few fields": (".csv", b"user,item,score\nu1,i3\nu2,i4\n"),
    "a NUL in an id": (".csv", b"user,item,score\nu1,i3\x00,1\n"),
    "Latin 1": (".csv", b"user,item,score\nu\xe91,i3,1\n"),
    "gzip": (".csv", gzip.compress(b"user,item,score\nu1,i3,1\n")),
    "infinite": (".csv", b"user,item,score\nu1,i3,inf\nu1,i4,-inf\n"),
    "per cent": (".csv", b"user,item,score\nu1,i3,50%\n"),
    "a complex number": (".csv", b"user,item,score\nu1,i3,1+2j\n"),
    "underscores in a number": (".csv", b"user,item,score\nu1,i3,1_000\n"),
    "hexadecimal": (".csv", b"user,item,score\nu1,i3,0x1F\n"),
    "text for a rank": (".csv", b"user,item,rank\nu1,i3,first\n"),
    "csv for Parquet": (".parquet", b"user,item,score\nu1,i3,1\n"),
    "half a Parquet": (".parquet", b""),
    "lists in Parquet": (".parquet", b""),
    "dates in Parquet": (".parquet", b""),
    "numbers for objects": (".jsonl", b"1\n2\n"),
    "null for an object": (".jsonl", b"null\n"),
    "an array later": (".jsonl", b'{"user": "u1", "item": "i3", "score": 1}\n["u1", "i4", 1]\n'),
    "true for a score": (".jsonl", b'{"user": "u1", "item": "i3", "score": true}\n'),
    "a list for a score": (".jsonl", b'{"user": "u1", "item": "i3", "score": [1]}\n'),
    "null for all users": (".jsonl", b'{"user": null, "item": "i3", "score": 1}\n'),
    "an integer beyond int64": (".jsonl", b'{"user": 99999999999999999999999, "item": "i3", "score": 1}\n'),
}
"""Name -> suffix and content of a file; :data:`MADE` makes the content of some."""


def parquet(frame: pd.DataFrame) -> bytes:
    made = BytesIO()
    frame.to_parquet(made, index=False)
    return made.getvalue()


MADE: dict[str, Callable[[], bytes]] = {
    "half a Parquet": lambda: (whole := parquet(frame_of(ROWS)))[: len(whole) // 2],
    "lists in Parquet": lambda: parquet(frame_of([("u1", ["i3", "i4"], 1.0)])),
    "dates in Parquet": lambda: parquet(frame_of([(pd.Timestamp(2024, 1, 1), "i3", 1.0)])),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_malformed_file_is_one_sentence_and_nothing_is_written(case: Case, tmp_path: Path, kind: str) -> None:
    suffix, content = MALFORMED[kind]
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"lists{suffix}"
    path.write_bytes(MADE[kind]() if kind in MADE else content)
    with pytest.raises(TeacherError) as error:
        teacher_from_file(path, case.loaders.train, out=tmp_path / "made" / "teacher")
    said = str(error.value)
    assert "\n" not in said and len(said) > 30 and len(said) < 500 and str(path) in said
    assert [left.name for left in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("given", [{"user": "nobody"}, {"score": "item", "rank": "item"}, {"rank": "place"}])
def test_a_column_that_is_not_there_is_refused(case: Case, given: dict[str, str]) -> None:
    with pytest.raises(TeacherError, match="column"):
        recbole_kd.teacher_from_lists(frame_of(ROWS), case.loaders.train, **given)


def test_a_column_of_confidences_is_kept_with_its_rows(case: Case, tmp_path: Path) -> None:
    rows = [("u1", "i3", 0.5, 0.1), ("u1", "i8", 2.5, 0.9), ("u2", "i0", 1.0, 7.0), ("u2", "i4", 1.0, float("nan"))]
    path = tmp_path / "lists.csv"
    frame_of(rows, ("user", "item", "score", "sure")).to_csv(path, index=False)
    teacher = teacher_from_file(path, case.loaders.train, confidence="sure", out=tmp_path / "teacher")
    assert teacher.manifest["imported"]["not_finite"] == 1
    users, items = (
        torch.tensor([case.splits.dataset.token2id(name, token) for token in tokens])
        for name, tokens in (("user_id", ("u1", "u2")), ("item_id", ("i8", "i3", "i0")))
    )
    for one in (teacher, load_teacher(tmp_path / "teacher", case.loaders.train)):
        assert one.has_confidence
        assert one.confidence(users, items.repeat(2, 1)).flatten().tolist() == pytest.approx([0.9, 0.1, 0, 0, 0, 7.0])
    assert not teacher_from_file(path, case.loaders.train).has_confidence
    with pytest.raises(TeacherError, match="no column 'hope' for confidence="):
        teacher_from_file(path, case.loaders.train, confidence="hope")
    for value, wrong in {-0.1: "negative confidence", 1e39: "a confidence beyond 3.4e38"}.items():
        frame = frame_of([("u1", "i3", 0.5, value)], ("user", "item", "score", "sure"))
        with pytest.raises(TeacherError, match=wrong):
            recbole_kd.teacher_from_lists(frame, case.loaders.train, confidence="sure")


# -- the lists of export-lists ----------------------------------------------------------------------------------------


def test_exported_lists_are_the_teacher_up_to_their_length(case: Case, tmp_path: Path) -> None:
    torch.manual_seed(3)
    for parameter in case.model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    manifest = {"model": "MF", "data": case.splits.fingerprint, "report": {}}
    export_teacher(Scorer(case.model), tmp_path / "whole", manifest)
    export_lists(tmp_path / "whole", tmp_path / "lists", 10, step=7)
    whole, cut = (load_teacher(tmp_path / name, case.loaders.train) for name in ("whole", "lists"))
    assert cut.store == "lists" and cut.name == "MF"
    queries = torch.arange(1, whole.n_queries)
    for k in (1, 5, 10):
        (ids, scores), (own_ids, own_scores) = whole.top_k(queries, k), cut.top_k(queries, k)
        assert torch.equal(ids, own_ids)
        torch.testing.assert_close(scores, own_scores, rtol=1e-6, atol=1e-6)  # blocks of another size
    losses = []
    for teacher in (whole, cut):
        student = build_case(TinyData(case.config["data_path"].rsplit("/", 1)[0], case.config["dataset"]), "MF").model
        values = {"kd": "CE", "kd_k": 10, "seed": 3, "dataset": "tiny", "model": "MF", "loss_reduction": None}
        distiller = recbole_kd.build_distiller(values, student, teacher)
        losses.append(trained_loss(distiller, case))
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-6, atol=1e-7)


def trained_loss(distiller: Any, case: Case) -> torch.Tensor:
    from recbole_kd.data.train_items import query_items
    from recbole_kd.training.teacher_loader import TeacherAwareLoader

    distiller.begin_training(query_items(case.loaders.train))
    distiller.begin_epoch(0)
    aware = TeacherAwareLoader(case.loaders.train, distiller, distiller.teacher_scores)
    aware.ask_teacher()
    loss: torch.Tensor = distiller(aware.batch_of(torch.arange(1, 31)))
    return loss


@pytest.mark.parametrize("damage", ["about", "tensors", "shape"])
def test_damaged_exports_are_refused(case: Case, tmp_path: Path, damage: str) -> None:
    export_teacher(
        Scorer(case.model), tmp_path / "whole", {"model": "MF", "data": case.splits.fingerprint, "report": {}}
    )
    export_lists(tmp_path / "whole", tmp_path / "lists", 5)
    about, tensors = tmp_path / "lists" / "lists.json", tmp_path / "lists" / "lists.safetensors"
    if damage == "about":
        about.write_text("{")
    elif damage == "tensors":
        tensors.write_bytes(tensors.read_bytes()[:-8])
    else:
        about.write_text(json.dumps({**json.loads(about.read_text()), "k": 6}))
    with pytest.raises(TeacherError, match=r"damaged|not what"):
        load_teacher(tmp_path / "lists", case.loaders.train)


# -- scores and vectors -----------------------------------------------------------------------------------------------


def ids_of(case: Case) -> tuple[list[str], list[str]]:
    return tuple([str(t) for t in case.splits.dataset.field2id_token[f][1:]] for f in ("user_id", "item_id"))  # type: ignore[return-value]


@pytest.mark.parametrize("kind", ["scores", "vectors"])
def test_tables_are_aligned_by_external_ids_and_missing_users_are_not_covered(
    case: Case, tmp_path: Path, kind: str
) -> None:
    users, items = ids_of(case)
    random = np.random.default_rng(0)
    order_u, order_i = random.permutation(len(users)), random.permutation(len(items))
    user_ids = [users[u] for u in order_u if users[u] != "u3"] + ["nobody"]
    item_ids = [items[i] for i in order_i] + ["nothing"]
    left, right = random.normal(size=(len(user_ids), 4)), random.normal(size=(len(item_ids), 4))
    given = (left @ right.T,) if kind == "scores" else (left, right)
    make = recbole_kd.teacher_from_scores if kind == "scores" else recbole_kd.teacher_from_vectors
    make(*given, case.loaders.train, user_ids=user_ids, item_ids=item_ids, out=tmp_path / "t")  # type: ignore[operator]
    teacher = load_teacher(tmp_path / "t", case.loaders.train)
    assert teacher.store == ("dense" if kind == "scores" else "factors") and teacher.complete
    for user in ("u1", "u7"):
        row = teacher.full(torch.tensor([case.splits.dataset.token2id("user_id", user)]))[0]
        for item in ("i0", "i9"):
            expected = float(left[user_ids.index(user)] @ right[item_ids.index(item)])
            assert float(row[case.splits.dataset.token2id("item_id", item)]) == pytest.approx(expected, rel=1e-5)
    assert teacher.covered is not None
    assert (~teacher.covered).nonzero().flatten().tolist() == [case.splits.dataset.token2id("user_id", "u3")]


@pytest.mark.parametrize("form", ["npz", "safetensors", "npy"])
def test_files_of_vectors_become_the_teacher_of_their_products(
    tiny_dataset: TinyData, case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    users, items = ids_of(case)
    random = np.random.default_rng(0)
    left, right = (random.normal(size=(len(ids), 3)).astype(np.float32) for ids in (users[1:], items))
    for name, ids in (("users", users[1:]), ("items", items)):
        (tmp_path / f"{name}.txt").write_text("".join(f"{one}\n" for one in ids), encoding="utf-8")
    path, given = tmp_path / f"vectors.{form}", [f"--{name}_ids={tmp_path / name}s.txt" for name in ("user", "item")]
    if form == "npz":
        np.savez(path, users=users[1:], items=items, user_vectors=left, item_vectors=right)
        given = []
    elif form == "safetensors":
        save_numpy({"user_vectors": left, "item_vectors": right}, path)
    else:
        np.save(path, left)
        np.save(tmp_path / "items.npy", right)
        given.append(f"--item_vectors={tmp_path / 'items.npy'}")
    out = tmp_path / "teacher"
    data = [f"--dataset={tiny_dataset.name}", f"--data_path={tiny_dataset.data_path}", f"--out={out}"]
    capsys.readouterr()
    wrong = {
        "no effect on vectors": [path, *given, "--score=points"],
        "No file of a teacher's vectors": [path, f"--user_ids={tmp_path / 'none'}", *given[1:]],
        "both already" if form != "npy" else "needs the items' vectors": [
            path, *given[:2], *([f"--item_vectors={path}"] if form != "npy" else [])
        ],
    }  # fmt: skip
    for said, words in wrong.items():
        assert main(["import-teacher", *map(str, words), *data]) == 2
        error = capsys.readouterr().err.strip()
        assert said in error and "\n" not in error and not out.exists()
    assert main(["import-teacher", str(path), *given, *data]) == 0
    assert f"vectors of {len(users) - 1} of {len(users)} users and all {len(items)} items" in capsys.readouterr().out
    teacher = load_teacher(out, case.loaders.train)
    dataset = case.splits.dataset
    found = teacher.full(torch.tensor([dataset.token2id("user_id", users[4])]))[
        0, dataset.token2id("item_id", items[7])
    ]
    assert float(found) == pytest.approx(float(left[3] @ right[7]), rel=1e-5)
    path.write_bytes(path.read_bytes()[:40])
    assert main(["import-teacher", str(path), *given, *data[:2], f"--out={tmp_path / 'other'}"]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_tables_that_do_not_fit_are_one_sentence(case: Case) -> None:
    users, items = ids_of(case)
    scores = np.zeros((len(users), len(items)))
    for change in (
        {"user_ids": users[:-1], "item_ids": items},
        {"user_ids": users, "item_ids": [*items[:-1], "x"]},
        {"user_ids": [f"x{user}" for user in users], "item_ids": items},
        {},
    ):
        with pytest.raises(TeacherError) as error:
            recbole_kd.teacher_from_scores(scores, case.loaders.train, **change)  # type: ignore[arg-type]
        assert "\n" not in str(error.value)
    with pytest.raises(TeacherError, match="inf or nan"):
        recbole_kd.teacher_from_scores(scores * np.nan, case.loaders.train, user_ids=users, item_ids=items)
    with pytest.raises(TeacherError, match="same width"):
        recbole_kd.teacher_from_vectors(scores, scores.T, case.loaders.train, user_ids=users, item_ids=items)


# -- the verb ---------------------------------------------------------------------------------------------------------


def test_the_verb_writes_a_teacher_or_says_one_sentence(
    tiny_dataset: TinyData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "lists.csv", tmp_path / "teacher"
    frame_of([*ROWS, ("nobody", "i3", 1.0)], ("who", "what", "points")).to_csv(path, index=False)
    data = [f"--dataset={tiny_dataset.name}", f"--data_path={tiny_dataset.data_path}"]
    columns = ["--user=who", "--item=what", "--score=points"]
    assert main(["import-teacher", str(path), *data, *columns, "--strict", f"--out={out}"]) == 2
    assert not out.exists()
    assert main(["import-teacher", str(path), *data, *columns, f"--out={out}"]) == 0
    assert "lists of 3 of" in (said := capsys.readouterr().out) and "1 of 7 rows name a user" in said
    assert main(["import-teacher", str(path), *data, *columns, f"--out={out}"]) == 2
    assert (out / SCORES).is_file()


def test_a_run_takes_a_table_and_reports_what_it_covers(
    tiny_dataset: TinyData, case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    users, items = ids_of(case)
    rows = [
        (user, items[(3 * u + 2 * place) % len(items)], place)
        for u, user in enumerate(users[:20])
        for place in range(5)
    ]
    path = tmp_path / "lists.csv"
    frame_of(rows, ("user_id", "item_id", "rank")).to_csv(path, index=False)
    keys = {
        "data_path": tiny_dataset.data_path, "load_col": case.config["load_col"], "teacher_path": str(path),
        "eval_args": case.config["eval_args"], "epochs": 1, "embedding_size": 4, "topk": [10],
        "valid_metric": "NDCG@10",
        "cache_dir": str(tmp_path / "cache"), "output_dir": str(tmp_path / "saved"), "show_progress": False,
        "kd_k": 8, "kd_n_samples": 4, "kd_candidates": 12, "state": "ERROR",
    }  # fmt: skip
    result = recbole_kd.run_recbole_kd("MF", None, "RCEKD", tiny_dataset.name, config_dict=keys)
    coverage = result["teacher"]["coverage"]
    assert (coverage["users"], coverage["of_users"]) == (20, 30)
    assert coverage["list_length"] == {"shortest": 5, "median": 5, "longest": 5}
    assert 0 <= result["teacher"]["test"]["ndcg@10"] <= 1 and set(result["teacher"]["test"]) == set(
        result["distilled"]["test"]
    )
    with pytest.raises(TeacherError, match="UnKD needs the teacher's score of every item"):
        recbole_kd.run_recbole_kd("MF", None, "UnKD", tiny_dataset.name, config_dict=of_method(keys))
    data = [f"--dataset={tiny_dataset.name}", f"--data_path={tiny_dataset.data_path}", "--topk=[10]", "--k=5", "--json"]
    data += ["--load_col={inter: [user_id, item_id, timestamp]}", "--valid_metric=NDCG@10"]
    capsys.readouterr()
    assert main(["inspect-teacher", str(path), *data]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["coverage"] == coverage and figures["store"] == "lists" and figures["popularity_ratio"] > 0
    assert figures["items_listed"] == coverage["items"] / 40 and 0 < figures["training_share"] < 1
    assert main(["inspect-teacher", str(path), *(word for word in data if word != "--json")]) == 0
    said = capsys.readouterr().out
    assert "covers 20 of 30 users" in said and "list length: shortest 5, median 5, longest 5" in said
    assert f"first 5 items of a user: {figures['popularity_ratio']:.2f} times as popular" in said
    assert f"test: recall@10 {figures['test']['recall@10']:.4f}" in said
    assert main(["inspect-teacher", str(path), *data[:-3], "--k=99", *data[-2:]]) == 2


def of_method(keys: dict[str, Any]) -> dict[str, Any]:
    """The keys without those of RCE-KD."""
    return {key: value for key, value in keys.items() if not key.startswith("kd_")}


def test_a_saved_teacher_is_measured_as_the_student_is(case: Case, tmp_path: Path) -> None:
    """A teacher of the vectors of a model has the model's own metrics, which RecBole's trainer computes."""
    torch.manual_seed(5)
    for parameter in case.model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    trainer = recbole_kd.KDTrainer(case.config, case.model)
    with Scorer(case.model).frozen():
        users, items = (table.detach().clone() for table in Scorer(case.model).tables())
    teacher = recbole_kd.teacher_from_vectors(users, items, case.loaders.train)
    found = teacher_metrics(case.config, case.splits, teacher)
    for phase in ("valid", "test"):
        expected = trainer.evaluate(getattr(case.loaders, phase), load_best_model=False)
        assert found[phase] == pytest.approx(dict(expected)) and any(found[phase].values())


def test_ids_that_the_data_set_does_not_know_are_counted(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    dataset = dataset_of(case.loaders.train)
    users, items = (
        [str(token) for token in dataset.field2id_token[name][1:]] for name in (dataset.uid_field, dataset.iid_field)
    )
    scores = torch.rand(len(users) + 1, len(items) + 2)
    recbole_kd.teacher_from_scores(
        scores, case.loaders.train, user_ids=[*users, "stranger"], item_ids=[*items, "new", "newer"]
    )
    assert f"1 of the teacher's {len(users) + 1} users are unknown" in caplog.text
    assert f"2 of the teacher's {len(items) + 2} items are unknown" in caplog.text


def test_a_file_of_vectors_is_a_teacher_path_if_it_holds_the_ids(case: Case, tmp_path: Path) -> None:
    users, items = ids_of(case)
    rng = np.random.default_rng(0)
    tables = {"user_vectors": rng.normal(size=(len(users), 3)), "item_vectors": rng.normal(size=(len(items), 3))}
    np.savez(tmp_path / "whole.npz", **tables, users=np.array(users), items=np.array(items))
    teacher = load_teacher(tmp_path / "whole.npz", case.loaders.train)
    assert (teacher.store, teacher.name, named_at(tmp_path / "whole.npz")) == ("factors", "factors", "factors")
    expected = tables["user_vectors"][0] @ tables["item_vectors"].T
    first = case.loaders.train._dataset.token2id("user_id", users[0])
    order = [case.loaders.train._dataset.token2id("item_id", item) for item in items]
    assert teacher.full(torch.tensor([first]))[0, order].tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    np.savez(tmp_path / "bare.npz", **tables)
    np.save(tmp_path / "users.npy", tables["user_vectors"])
    for name, said in (("bare.npz", "--user_ids=FILE"), ("users.npy", "--item_vectors=FILE.npy")):
        with pytest.raises(TeacherError, match="recbole-kd import-teacher") as error:
            load_teacher(tmp_path / name, case.loaders.train)
        assert said in str(error.value) and "\n" not in str(error.value)
    (tmp_path / "lists.csv").write_text("user,item,rank\n")
    assert named_at(tmp_path / "lists.csv") == "lists"
