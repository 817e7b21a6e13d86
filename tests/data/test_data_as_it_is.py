"""Data are read as they stand in the files, or refused in one sentence with file and line, in every way of loading."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recbole_kd.config.merging import merge_sources
from recbole_kd.config.parsing import parse_arguments
from recbole_kd.data.label_checks import check_labels
from recbole_kd.data.split_and_loaders import Splits, split_data
from recbole_kd.data.split_words import describe_split
from recbole_kd.data.time_order import RAW_TIME
from recbole_kd.errors import ConfigError, DataError
from recbole_kd.pipeline.request import make_request

HEADER = ("user_id:token", "item_id:token", "rating:float", "timestamp:float")
PARTS = ("train", "valid", "test")
ALL_COLUMNS = "--load_col={inter: [user_id, item_id, rating, timestamp]}"
LEAVE_ONE_OUT = "--eval_args={split: {LS: valid_and_test}, order: TO, group_by: user, mode: full}"


def made_rows(n_users: int = 6, n_items: int = 8) -> list[list[str]]:
    """Rows of user, item, rating and time; users' times descend through the file."""
    rows = []
    for user in range(n_users):
        for step in range(6):
            rows.append(
                [
                    f"u{user}",
                    f"i{(3 * step + user) % n_items}",
                    str(1 + (step + user) % 5),
                    str(1_600_000_000 + 60 * user - step),
                ]
            )
    return rows


def write(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]], separator: str = "\t") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [separator.join(header), *(separator.join(row) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def written(folder: Path, rows: Sequence[Sequence[str]], header: Sequence[str] = HEADER, way: str = "inter") -> str:
    """Write rows as one file, or in every part of a published split; return the name of the file in which row 5 is."""
    if way == "inter":
        write(folder / "made" / "made.inter", header, rows)
        return "made.inter"
    for part in PARTS:
        write(
            folder / "made" / f"made.{part}.inter",
            header,
            rows if part == way else made_rows() if len(header) == 4 else rows,
        )
    return f"made.{way}.inter"


def split(folder: Path, *more: str, model: str = "MF", setting: str = "general") -> Splits:
    words = [
        f"--model={model}",
        "--teacher=MF",
        "--kd=CE",
        "--dataset=made",
        f"--data_path={folder}",
        f"--setting={setting}",
        *more,
    ]
    return split_data(make_request(merge_sources(None, None, parse_arguments(words))).student_config()[0])


def refused(folder: Path, *more: str, **keys: str) -> str:
    with pytest.raises((DataError, ConfigError)) as error:
        split(folder, *more, **keys)
    said = str(error.value)
    assert "\n" not in said and "Traceback" not in said
    return said


def pairs_in(splits: Splits) -> list[list[tuple[str, str]]]:
    data, found = splits.dataset, []
    for part in splits.parts:
        users, items = (np.asarray(part.inter_feat[field]) for field in (data.uid_field, data.iid_field))
        found.append(
            list(
                zip(
                    data.id2token(data.uid_field, users).tolist(),
                    data.id2token(data.iid_field, items).tolist(),
                    strict=True,
                )
            )
        )
    return found


def benchmark(way: str) -> tuple[str, ...]:
    return () if way == "inter" else (f"--benchmark_filename=[{', '.join(PARTS)}]",)


# -- ids
# -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("way", "empty"), [("inter", ""), ("inter", "  "), ("train", ""), ("valid", ""), ("test", "")])
@pytest.mark.parametrize(("column", "name"), [(0, "user_id"), (1, "item_id")])
def test_rows_without_an_id_are_refused_by_line(way: str, column: int, name: str, empty: str, tmp_path: Path) -> None:
    rows = made_rows()
    rows[5][column] = rows[20][column] = empty
    file = written(tmp_path, rows, way=way)
    assert f"{file}:7: {name} is empty: complete or delete the row (2 such rows)" in refused(
        tmp_path, ALL_COLUMNS, *benchmark(way)
    )


@pytest.mark.parametrize("source", ["user", "item"])
def test_features_without_an_id_are_refused_by_line(source: str, tmp_path: Path) -> None:
    written(tmp_path, made_rows())
    write(
        tmp_path / "made" / f"made.{source}", (f"{source}_id:token", "kind:token"), [(f"{source[0]}0", "a"), ("", "b")]
    )
    more = f"--load_col={{inter: [user_id, item_id, timestamp], {source}: [{source}_id, kind]}}"
    assert f"made.{source}:3: {source}_id is empty" in refused(tmp_path, more)


MISSING = ["NA", "N/A", "NaN", "nan", "-nan", "null", "NULL", "None", "n/a", "#N/A", "<NA>", "#NA"]


@pytest.mark.parametrize("way", ["inter", "train"])
def test_ids_that_look_like_missing_values_are_ids(way: str, tmp_path: Path) -> None:
    rows = made_rows(n_users=len(MISSING), n_items=len(MISSING))
    for row in rows:
        row[0], row[1] = MISSING[int(row[0][1:])], MISSING[int(row[1][1:])]
    written(tmp_path, rows, way=way)
    splits = split(tmp_path, ALL_COLUMNS, *benchmark(way))
    data = splits.dataset
    assert set(MISSING) <= set(data.field2id_token["user_id"]) and set(MISSING) <= set(data.field2id_token["item_id"])
    found = pairs_in(splits)
    assert sorted(found[0] if way == "train" else [pair for part in found for pair in part]) == sorted(
        (row[0], row[1]) for row in rows
    )
    assert all(int((part.inter_feat["item_id"] == 0).sum()) == 0 for part in splits.parts)


def test_the_name_of_the_padding_is_no_id(tmp_path: Path) -> None:
    rows = made_rows()
    rows[3][1] = "[PAD]"
    written(tmp_path, rows)
    assert "made.inter:5: item_id is [PAD], which is RecBole's padding" in refused(tmp_path)


def test_features_of_items_that_look_missing_are_theirs(tmp_path: Path) -> None:
    rows = made_rows()
    for row in rows:
        row[1] = {"i0": "NA", "i1": "null"}.get(row[1], row[1])
    written(tmp_path, rows)
    items = [("NA", "NA", "1"), ("null", "", "2"), *((f"i{n}", "plain", "3") for n in range(2, 8))]
    write(tmp_path / "made" / "made.item", ("item_id:token", "kind:token", "price:float"), items)
    data = split(tmp_path, "--load_col={inter: [user_id, item_id], item: [item_id, kind, price]}").dataset
    kinds = data.item_feat["kind"][data.token2id("item_id", ["NA", "null", "i3"])]
    assert data.id2token("kind", kinds.numpy()).tolist() == ["NA", "[PAD]", "plain"]


# -- widths and numbers
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["inter", "test"])
@pytest.mark.parametrize(
    ("wrong", "line", "found"),
    [("all-wider", 2, 5), ("one-wider", 7, 5), ("one-narrower", 7, 3), ("trailing", 2, 5), ("one-column", 7, 1)],
)
def test_rows_of_another_width_than_the_header(way: str, wrong: str, line: int, found: int, tmp_path: Path) -> None:
    rows = made_rows()
    for number, row in enumerate(rows):
        if wrong in ("all-wider", "trailing") or (wrong == "one-wider" and number == 5):
            row.append("" if wrong == "trailing" else "7")
    if wrong in ("one-narrower", "one-column"):
        rows[5] = rows[5][:found]
    file = written(tmp_path, rows, way=way)
    plural = "column" if found == 1 else "columns"
    assert f"{file}:{line}: {found} {plural}, but the header names 4" in refused(tmp_path, ALL_COLUMNS, *benchmark(way))


@pytest.mark.parametrize("quoted", [False, True])
@pytest.mark.parametrize("separator", ["\t", ",", "::"])
def test_widths_are_counted_whatever_the_separator(separator: str, quoted: bool, tmp_path: Path) -> None:
    rows = made_rows()
    if quoted and separator != "::":
        rows[1][1] = f'"a{separator}b"'
    write(tmp_path / "made" / "made.inter", HEADER, rows, separator)
    splits = split(tmp_path, f"--field_separator={separator}")
    assert sum(map(len, splits.parts)) == 0 or sum(len(part.inter_feat) for part in splits.parts) == len(rows)
    if quoted and separator != "::":
        assert f"a{separator}b" in splits.dataset.field2id_token["item_id"]
    rows[8].append("x")
    write(tmp_path / "made" / "made.inter", HEADER, rows, separator)
    assert "made.inter:10: 5 columns, but the header names 4" in refused(tmp_path, f"--field_separator={separator}")


def test_a_double_quote_that_does_not_close_swallows_no_rows(tmp_path: Path) -> None:
    rows = made_rows()
    rows[4][1] = '"i3'
    written(tmp_path, rows)
    assert "made.inter:6: a double quote opens here" in refused(tmp_path)


@pytest.mark.parametrize("ends", ["\r\n", "\r", "\n\n"])
def test_ends_of_lines_and_blank_lines_do_not_matter(ends: str, tmp_path: Path) -> None:
    expected = pairs_in(split((written(tmp_path / "plain", made_rows()), tmp_path / "plain")[1]))
    path = tmp_path / "made" / "made.inter"
    path.parent.mkdir()
    plain = (tmp_path / "plain" / "made" / "made.inter").read_text()
    path.write_bytes(plain.replace("\n", ends).encode())
    assert pairs_in(split(tmp_path)) == expected


@pytest.mark.parametrize("text", ["abc", "4,5", "2020-01-01", "True", "1_000", "inf", "1e999"])
def test_a_number_that_is_not_one_is_refused_by_line(text: str, tmp_path: Path) -> None:
    rows = made_rows()
    rows[7][2] = text
    written(tmp_path, rows)
    assert "made.inter:9: rating is" in refused(tmp_path, ALL_COLUMNS)


def test_a_missing_rating_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = made_rows()
    rows[7][2] = rows[9][2] = ""
    written(tmp_path, rows)
    split(tmp_path, ALL_COLUMNS, "--state=WARNING")
    assert "2 rows of" in caplog.text and "have no rating" in caplog.text


@pytest.mark.parametrize("way", ["inter", "valid"])
@pytest.mark.parametrize(
    "text", ["", "NaN", "inf", "-inf", "1e300", "99999999999999999999", "2020-01-01T00:00:00", "noon"]
)
def test_rows_without_a_time_are_refused_by_line(way: str, text: str, tmp_path: Path) -> None:
    rows = made_rows()
    rows[5][3] = text
    file = written(tmp_path, rows, way=way)
    said = refused(tmp_path, ALL_COLUMNS, *benchmark(way))
    assert f"{file}:7: timestamp is" in said


def test_times_of_another_type_are_refused(tmp_path: Path) -> None:
    written(tmp_path, made_rows(), header=(*HEADER[:3], "timestamp:token"))
    said = refused(tmp_path)
    assert "timestamp are of type token" in said and "recbole-kd prepare NAME" in said


@pytest.mark.parametrize(
    ("header", "said"), [("item_id:float", "type float"), ("user_id:token", "twice"), (":token", "name:type")]
)
def test_headers_that_cannot_be_meant(header: str, said: str, tmp_path: Path) -> None:
    written(tmp_path, made_rows(), header=(HEADER[0], header, *HEADER[2:]))
    assert said in refused(tmp_path)


# -- histories that rows bring
# -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [(), ("--load_col={inter: [user_id, item_id, item_id_list]}",)])
@pytest.mark.parametrize(("model", "setting"), [("HSTU", "sequential"), ("MF", "general"), ("SASRec", "sequential")])
def test_ready_made_histories_are_refused(model: str, setting: str, more: tuple[str, ...], tmp_path: Path) -> None:
    rows = [[row[0], row[1], "i1 i2"] for row in made_rows()]
    for part in PARTS:
        write(
            tmp_path / "made" / f"made.{part}.inter", ("user_id:token", "item_id:token", "item_id_list:token_seq"), rows
        )
    said = refused(tmp_path, *benchmark("train"), *more, model=model, setting=setting)
    assert "made.train.inter: the column item_id_list holds ready-made histories, which are not read" in said
    assert "--load_col='{inter: [user_id, item_id]}'" in said


# -- keys without an effect
# ----------------------------------------------------------------------------------------------

FILTERS = {
    "--val_interval={rating: '[4,inf)'}": "val_interval",
    "--user_inter_num_interval=[100,inf)": "user_inter_num_interval",
    "--item_inter_num_interval=[2,inf)": "item_inter_num_interval",
    "--rm_dup_inter=first": "rm_dup_inter",
    "--eval_args={order: TO, split: {RS: [0.7, 0.2, 0.1]}}": "eval_args.split",
    "--eval_args.group_by=none": "eval_args.group_by",
    "--split_seed=3": "split_seed",
}


@pytest.mark.parametrize("filtered", FILTERS)
def test_filters_and_splits_beside_prepared_files_are_refused(filtered: str, tmp_path: Path) -> None:
    for part in PARTS:
        written(tmp_path, made_rows(), way=part)
    said = refused(tmp_path, ALL_COLUMNS, *benchmark("train"), filtered)
    assert said.startswith(f"{FILTERS[filtered]} has no effect with benchmark_filename=")
    assert len(split(tmp_path, ALL_COLUMNS, *benchmark("train"), "--eval_args.mode=uni3").parts[0].inter_feat) == 36


@pytest.mark.parametrize("value", ["4", "'[4'", "'4-5'", "'>=4'", "'4,5'", "[4, 5]", "'[5,4]'", "'[4,inf);x'", "''"])
def test_an_interval_that_is_none(value: str, tmp_path: Path) -> None:
    written(tmp_path, made_rows())
    assert "expected an interval for the numbers of rating" in refused(
        tmp_path, ALL_COLUMNS, f"--val_interval={{rating: {value}}}"
    )


@pytest.mark.parametrize(
    ("value", "n"), [("'[4,inf)'", (4, 5)), ("'(1,4)'", (2, 3)), ("'[1,1];[5,5]'", (1, 5)), ("'(-inf, 2]'", (1, 2))]
)
def test_intervals_filter(value: str, n: tuple[int, ...], tmp_path: Path) -> None:
    written(tmp_path, made_rows(n_users=20))
    splits = split(tmp_path, ALL_COLUMNS, f"--val_interval={{rating: {value}}}")
    kept = sum(len(part.inter_feat) for part in splits.parts)
    assert kept == sum(int(row[2]) in n for row in made_rows(n_users=20))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("--val_interval={user_id: u1}", "expected a list of the tokens of user_id"),
        ("--val_interval={user_id: [1, 2]}", "each as text"),
        ("--val_interval={colour: ['red']}", "val_interval names colour, which is not read"),
        ("--unused_col={inter: [colour]}", "unused_col names colour"),
        ("--unused_col={item: [item_id]}", "unused_col names item_id"),
        ("--unused_col={inter: [user_id]}", "which every training needs"),
        ("--seq_len={colour: 3}", "seq_len names colour"),
        ("--seq_len={rating: 3}", "of type float"),
        ("--load_col={inter: [user_id, item_id, rating, timestamp], item: [item_id, kind]}", "there is no file"),
        (
            "--eval_args={split: {TS: [0.8, 0.1, 0.1]}, order: RO}",
            "order=RO is not possible with eval_args.split={TS: ...}",
        ),
    ],
)
def test_keys_of_columns_that_are_not_there(more: str, said: str, tmp_path: Path) -> None:
    written(tmp_path, made_rows())
    given = (more,) if more.startswith("--load_col") else (ALL_COLUMNS, more)
    assert said in refused(tmp_path, *given)


@pytest.mark.parametrize("arguments", ["--eval_args.order=TO", "--eval_args={split: {TS: [0.8, 0.1, 0.1]}, order: TO}"])
def test_an_order_in_time_needs_times(arguments: str, tmp_path: Path) -> None:
    written(tmp_path, [row[:2] for row in made_rows()], header=HEADER[:2])
    assert "has no column timestamp: name its column of times with --TIME_FIELD" in refused(tmp_path, arguments)
    written(tmp_path, made_rows())
    said = refused(tmp_path, arguments, "--load_col={inter: [user_id, item_id]}")
    assert "add it, --load_col='{inter: [user_id, item_id, timestamp]}'" in said


# -- labels
# --------------------------------------------------------------------------------------------------------------


def checked(folder: Path, *more: str) -> None:
    splits = split(folder, *more)
    check_labels(splits.dataset.config, splits.dataset)


@pytest.mark.parametrize("mode", ["full", "uni2", "pop2"])
def test_a_threshold_that_nothing_reads(mode: str, tmp_path: Path) -> None:
    written(tmp_path, made_rows())
    with pytest.raises(
        ConfigError, match=rf"threshold=.* has no effect with eval_args.mode={mode}.*val_interval=.*\[4,inf\)"
    ):
        checked(tmp_path, ALL_COLUMNS, "--threshold={rating: 4}", f"--eval_args.mode={mode}")


@pytest.mark.parametrize("name", ["label", "click"])
def test_a_column_of_labels_that_nothing_reads(name: str, tmp_path: Path) -> None:
    rows = [[row[0], row[1], str(int(int(row[2]) > 2)), row[3]] for row in made_rows(n_users=20)]
    written(tmp_path, rows, header=(*HEADER[:2], f"{name}:float", HEADER[3]))
    own = () if name == "label" else (f"--LABEL_FIELD={name}",)
    with pytest.raises(DataError, match=f"has labels in the column {name}"):
        checked(tmp_path, *own)
    read = f"--load_col={{inter: [user_id, item_id, {name}, timestamp]}}"
    disliked = sum(row[2] == "0" for row in rows)
    with pytest.raises(DataError, match=f"{disliked} rows of made have {name} 0"):
        checked(tmp_path, read, *own)
    checked(tmp_path, read, *own, f"--val_interval={{{name}: '[1,inf)'}}")
    checked(tmp_path, "--load_col={inter: [user_id, item_id, timestamp]}", *own)


def test_labels_that_a_model_and_its_metrics_read(tmp_path: Path) -> None:
    written(tmp_path, made_rows())
    labelled = (
        "--threshold={rating: 4}",
        "--eval_args.mode=labeled",
        "--metrics=[AUC]",
        "--valid_metric=AUC",
        "--train_neg_sample_args=~",
    )
    for model, reads in (("NeuMF", True), ("BPR", False)):
        splits = split(tmp_path, ALL_COLUMNS, *labelled, model=model)
        if reads:
            check_labels(splits.dataset.config, splits.dataset)
        else:
            with pytest.raises(ConfigError, match="on BPR, which is not trained on them"):
                check_labels(splits.dataset.config, splits.dataset)


# -- one's own data
# ------------------------------------------------------------------------------------------------------


def test_times_are_read_and_decide_without_naming_them(tmp_path: Path) -> None:
    written(tmp_path, made_rows())
    splits = split(tmp_path)
    assert RAW_TIME in splits.parts[0].inter_feat and splits.dataset.has_times
    last = {f"u{user}": f"i{user % 8}" for user in range(6)}  # the newest is the first in the file
    assert dict(pairs_in(splits)[2]) == last
    assert describe_split(splits.dataset).startswith("Split: 8:1:1 by time within each user; in the order of timestamp")
    assert "at random within each user, seed 2020" in describe_split(split(tmp_path, "--eval_args.order=RO").dataset)


def test_data_without_times_are_split_at_random(tmp_path: Path) -> None:
    written(tmp_path, [row[:2] for row in made_rows()], header=HEADER[:2])
    splits = split(tmp_path)
    assert "at random within each user, seed 2020" in describe_split(splits.dataset)
    assert "order is that of the file" in describe_split(split(tmp_path, LEAVE_ONE_OUT).dataset)


def test_columns_of_other_names_are_read(tmp_path: Path) -> None:
    written(tmp_path, made_rows(), header=("uid:token", "sku:token", "stars:float", "ts:float"))
    splits = split(tmp_path, "--USER_ID_FIELD=uid", "--ITEM_ID_FIELD=sku", "--TIME_FIELD=ts")
    assert "in the order of ts" in describe_split(splits.dataset)


def test_a_published_split_is_used_or_the_log_says_that_it_is_not(tmp_path: Path) -> None:
    rows = made_rows(n_users=10)
    written(tmp_path, rows)
    for number, part in enumerate(PARTS):
        write(
            tmp_path / "made" / f"made.{part}.inter",
            HEADER,
            [row for place, row in enumerate(rows) if place % 3 == number],
        )
    published = split(tmp_path)
    assert [len(part.inter_feat) for part in published.parts] == [20, 20, 20]
    assert "as published, by the files made.train.inter" in describe_split(published.dataset)
    for anew in ("--benchmark_filename=~", "--eval_args.order=RO"):
        words = describe_split(split(tmp_path, anew).dataset)
        assert "the published split beside it, made.train.inter and so on, is not used" in words


def test_a_known_name_prepared_in_another_form(tmp_path: Path) -> None:
    """Of sports our property file expects a published split with times."""
    for header, words in ((HEADER, "by time within each user"), (HEADER[:2], "at random within each user")):
        write(tmp_path / "sports" / "sports.inter", header, [row[: len(header)] for row in made_rows()])
        given = ["--model=MF", "--teacher=MF", "--kd=CE", "--dataset=sports", f"--data_path={tmp_path}"]
        config = make_request(merge_sources(None, None, parse_arguments(given))).student_config()[0]
        assert words in describe_split(split_data(config).dataset)


def test_a_file_of_a_split_that_is_not_there(tmp_path: Path) -> None:
    written(tmp_path, made_rows())
    assert "--benchmark_filename=~ to split made.inter" in refused(tmp_path, *benchmark("train"))


def test_other_encodings_are_read(tmp_path: Path) -> None:
    rows: list[list[Any]] = made_rows()
    for row in rows:
        row[1] = row[1].replace("i", "\u00e9")
    (tmp_path / "made").mkdir()
    text = "\n".join(["\t".join(HEADER), *("\t".join(row) for row in rows)]) + "\n"
    (tmp_path / "made" / "made.inter").write_bytes(text.encode("latin-1"))
    assert "\u00e91" in split(tmp_path, "--encoding=latin-1").dataset.field2id_token["item_id"]
    assert "encoding" in refused(tmp_path)
