"""Seeded nonsense as keys, files, words and arguments: a sentence or a run, never a traceback."""

from __future__ import annotations

import random
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import recbole_kd
from recbole_kd.cli.program import VERBS
from recbole_kd.training.build_distiller import known_kd_keys
from tests.support.campaign import Home, Record
from tests.support.scenarios import PLAIN

pytestmark = pytest.mark.campaign

SEED = 3
ODD = [
    "0", "-1", "1.5", "nan", "inf", "-inf", "1e400", "10000000000000000000000", "1e-400", "", " ", "None", "null",
    "True", "[]", "[1]", "[None]",
    "{}", "{a: 1}", "{a: {b: [1, {c: d}]}}", "abc", "'", '"', "[1, 2", "{a", "!!int x", "0x10", "1_000", "\u0661",
    "日本", "\x00x", "a\nb", "-", "--", "=",
    "1,2", "*", "&a", "*a", "%", "@", "`", "2020-01-01", ".5", "5.", "+5", "(1, 2)", "lambda: 1", "x" * 5000,
    "[" * 2000, "~", "~root", "/", "..",
]  # fmt: skip
"""Values that a user, or a script that went wrong, writes."""

RUN_KEYS = [
    "model", "teacher", "kd", "dataset", "seed", "epochs", "train_batch_size", "learning_rate", "topk", "metrics",
    "valid_metric", "eval_args",
    "eval_args.split", "eval_args.order", "eval_args.mode", "eval_args.group_by", "load_col", "embedding_size",
    "teacher.embedding_size",
    "teacher.epochs", "teacher.model", "teacher.seed", "teacher_store", "teacher_dtype", "teacher_svd",
    "teacher_config", "setting",
    "eval_protocol", "loss_reduction", "init_std", "max_minutes", "stopping_step", "eval_step", "eval_batch_size",
    "clip_grad_norm",
    "weight_decay", "learner", "train_neg_sample_args", "item_features", "text_encoder", "nproc", "gpu_id",
    "use_gpu", "resume", "config_files",
    "kd_compare", "kd_weight", "split_seed", "user_inter_num_interval", "val_interval",
    "filter_inter_by_user_or_item", "time_order",
    "benchmark_filename", "field_separator", "USER_ID_FIELD", "metric_decimal_place", "state", "log_wandb",
    "repeatable", "reproducibility",
]  # fmt: skip


def note(campaign: Record, kind: str, label: str, ending: Any, home: Home, must: bool = False) -> None:
    """Note an ending, which must be a refusal where ``must``."""
    problem = ending.problem() or home.lost()
    campaign.note(kind, label[:120], problem or ("accepted" if must and ending.code == 0 else None))


def without(given: list[str], key: str) -> list[str]:
    return [word for word in given if word.split("=")[0] != f"--{key}"]


def test_values_of_keys(campaign: Record, data: Path) -> None:
    draw = random.Random(SEED)
    home = Home(campaign.folder / "fuzz", data)
    given = home.words(epochs="1", teacher__epochs="1", kd_compare="False")
    for key in RUN_KEYS:
        for value in draw.sample(ODD, 4):
            note(
                campaign,
                "fuzz of keys",
                f"--{key}={value[:30]!r}",
                home.run([*without(given, key), f"--{key}={value}"]),
                home,
            )
    for method in sorted(recbole_kd.DISTILLERS):
        for key in sorted(known_kd_keys(method)):
            value = draw.choice(ODD)
            words = home.words(epochs="1", teacher__epochs="1", kd_compare="False", kd=method, kd_k=None, **PLAIN)
            note(
                campaign,
                "fuzz of keys",
                f"{method} --{key}={value[:30]!r}",
                home.run([*words, f"--{key}={value}"]),
                home,
            )
    campaign.check("fuzz of keys")


def test_names_of_keys(campaign: Record, data: Path) -> None:
    """A key that is misspelt is refused, whatever it is."""
    draw = random.Random(SEED)
    home = Home(campaign.folder / "fuzz", data)
    given = home.words(epochs="1", teacher__epochs="1", kd_compare="False")
    keys = [key for key in RUN_KEYS if "." not in key and len(key) > 4]
    for key in draw.sample(keys, 25):
        place = draw.randrange(1, len(key) - 1)
        wrong = draw.choice(
            [key[:place] + key[place + 1 :], key[:place] + "q" + key[place:], key + "s", key.upper() + "_", f"kd_{key}"]
        )
        if wrong in RUN_KEYS:
            continue
        note(campaign, "fuzz of keys", f"--{wrong}", home.run([*given, f"--{wrong}=1"]), home, must=True)
    for word in (
        "-",
        "--",
        "---",
        "--=",
        "--=1",
        "epochs=1",
        "-epochs=1",
        "--epochs",
        "--epochs 1",
        "--epochs==1",
        "\x00",
        "--é=1",
        "--a b=1",
        "--.=1",
        "--a.=1",
        "--.a=1",
        "--teacher.=1",
    ):
        note(campaign, "fuzz of keys", repr(word), home.run([*given, word]), home)
    campaign.check("fuzz of keys")


def garbled(text: bytes, draw: random.Random) -> bytes:
    """Return a text file with one of its lines, columns or bytes gone wrong."""
    lines = text.split(b"\n")
    place = draw.randrange(len(lines) - 1)
    line = lines[place]
    change = draw.randrange(12)
    if change == 0:
        lines[place] = line.replace(b"\t", b"", 1)
    elif change == 1:
        lines[place] = line + b"\textra"
    elif change == 2:
        lines[place] = line[: len(line) // 2]
    elif change == 3:
        lines[place] = b""
    elif change == 4:
        lines[place] = line.replace(b"\t", b" ")
    elif change == 5:
        lines[0] = lines[0].replace(b":token", b":tokn").replace(b":float", b":flot")
    elif change == 6:
        lines = lines[1:]
    elif change == 7:
        lines[place] = (
            line.rpartition(b"\t")[0] + b"\t" + draw.choice([b"nan", b"inf", b"x", b"1e999", b"--1", b"", b"0x1"])
        )
    elif change == 8:
        lines[place] = bytes(draw.randrange(256) for _ in range(20))
    elif change == 9:
        return b"\xef\xbb\xbf" + text
    elif change == 10:
        return text.replace(b"\n", b"\r\n")
    else:
        lines[place] = line.replace(b"u", b'"', 1)
    return b"\n".join(lines)


def test_data_files(campaign: Record, data: Path) -> None:
    draw = random.Random(SEED)
    whole = (data / "tiny" / "tiny.inter").read_bytes()
    words = (data / "worded" / "worded.item").read_bytes()
    home = Home(campaign.folder / "fuzz", data)
    for name, suffix, text, more in (
        ("tiny", "inter", whole, {}),
        ("worded", "item", words, {"teacher": "BM3"}),
    ):
        for number in range(40):
            place = campaign.folder / "garbled" / name
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{name}.inter").write_bytes(whole)
            (place / f"{name}.{suffix}").write_bytes(garbled(text, draw))
            given = home.words(
                data_path=str(place.parent), dataset=name, epochs="1", teacher__epochs="1", kd_compare="False", **more
            )
            note(campaign, "fuzz of files", f"{name}.{suffix} {number}", home.run(given), home)
    campaign.check("fuzz of files")


def test_feature_and_property_files(campaign: Record, data: Path) -> None:
    draw = random.Random(SEED)
    home = Home(campaign.folder / "fuzz", data)
    good = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    arrays: dict[str, Any] = {
        "as it should be": good, "of one dimension": good[0], "of three dimensions": good[None],
        "of no rows": good[:0], "of no columns": good[:, :0],
        "of text": good.astype(str), "of objects": good.astype(object), "of booleans": good > 0,
        "of complex numbers": good.astype(complex),
        "of NaN": good * np.nan, "of infinity": good * np.inf, "of other rows": good[:7], "of zeros": good * 0,
        "of int64": good.astype(np.int64),
    }  # fmt: skip
    for label, array in arrays.items():
        path = home.folder / "features.npy"
        np.save(path, array, allow_pickle=True)
        variants = {
            label: path.read_bytes(),
            f"{label}, cut": path.read_bytes()[:-7],
            f"{label}, header": path.read_bytes()[6:],
        }
        for name, content in variants.items():
            path.write_bytes(content)
            given = home.words(
                f"--item_features={{v: {path}}}", teacher="BM3", epochs="1", teacher__epochs="1", kd_compare="False"
            )
            note(campaign, "fuzz of files", f".npy {name}", home.run(given), home)
        if array.dtype.kind in "fib":
            path = home.folder / "features.safetensors"
            save_file({"v": np.ascontiguousarray(array)}, path)
            raw = path.read_bytes()
            for content in (raw, raw[:-3], draw.randbytes(8) + raw[8:]):
                path.write_bytes(content)
                given = home.words(
                    f"--item_features={{v: {path}}}", teacher="BM3", epochs="1", teacher__epochs="1", kd_compare="False"
                )
                note(campaign, "fuzz of files", f".safetensors {label}", home.run(given), home)
    texts = [
        f"{key}: {value}" for key, value in zip(draw.choices(RUN_KEYS, k=40), draw.choices(ODD, k=40), strict=True)
    ]
    texts += [
        "",
        "[1]",
        "5",
        "a: b: c",
        "\t",
        "- a\n- b",
        "? x",
        "a: *b",
        "a: &a [*a]",
        "<<: 5",
        "epochs: 1\nepochs: 2",
        "%YAML 9.9\n---\n",
        "a: !x y",
    ]
    for text in texts:
        path = home.folder / "keys.yaml"
        path.write_bytes(text.encode())
        given = home.words(f"--config_files={path}", epochs="1", teacher__epochs="1", kd_compare="False")
        note(campaign, "fuzz of files", f"property file {text[:40]!r}", home.run(given), home)
    campaign.check("fuzz of files")


# -- the programs
# ------------------------------------------------------------------------------------------------


def test_grids_spaces_and_results(campaign: Record, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(SEED)
    home = Home(campaign.folder / "fuzz", data)
    monkeypatch.setenv("RECBOLE_KD_CACHE", str(home.cache))
    config = "config: {dataset: tiny, model: MF, teacher: MF, kd: RCEKD}\n"
    file, results = home.folder / "grid.yaml", home.folder / "results"
    odd = [value for value in ODD if "\n" not in value and "\x00" not in value]
    parts = ["title", "seeds", "config", "runs", "reference", "metric", "published"]
    texts = [f"{config}runs: {{a: {{}}}}\n{key}: {value}" for key in parts for value in draw.sample(odd, 5)]
    texts += [
        f"{config}runs: {{{name}: {{{key}: {value}}}}}"
        for name, key, value in zip(
            draw.choices(odd, k=20), draw.choices(["from", *RUN_KEYS], k=20), draw.choices(odd, k=20), strict=True
        )
    ]
    for text in texts:
        file.write_text(text)
        words = [
            "reproduce",
            str(file),
            f"--results={results}",
            f"--data_path={data}",
            f"--output_dir={home.saved}",
            "--table",
        ]
        note(campaign, "fuzz of tools", f"grid {text[-50:]!r}", home.run(words), home)
    file.write_text(config + "runs: {a: {}}")
    (results / "grid").mkdir(parents=True, exist_ok=True)
    for text in [*draw.sample(odd, 12), '{"settings": {}}', '{"distilled": 1}', '{"versions": []}', "[" * 100_000]:
        (results / "grid" / "a-seed0.json").write_text(text)
        for words in (
            ["reproduce", str(file), f"--results={results}", "--table"],
            ["plot", str(file), f"--results={results}"],
        ):
            note(campaign, "fuzz of tools", f"{words[0]} of the result {text[:30]!r}", home.run(words), home)
    space = home.folder / "space.yaml"
    kinds = ["choice", "int", "uniform", "loguniform", "quniform", "nonsense"]
    texts = [
        f"{key}: {{{kind}: {value}}}"
        for key, kind, value in zip(
            draw.choices(RUN_KEYS, k=50),
            draw.choices(kinds, k=50),
            draw.choices([*odd, "[5, 1]", "[0, 1]", "[a, b]", "[.nan]", "[1, 2, 3]"], k=50),
            strict=True,
        )
    ]
    for number, text in enumerate(texts):
        space.write_text(text)
        key = text.split(":")[0]
        given = without(home.words(epochs="1", teacher__epochs="1", kd_compare="False"), key)
        more = [f"--params_file={space}", "--algo=random", "--max_evals=1", f"--study=s{number}"]
        note(campaign, "fuzz of tools", f"space {text[:60]}", home.run(["tune", *given, *more], timeout=90), home)
    campaign.check("fuzz of tools")


def test_words_of_every_program(campaign: Record, data: Path) -> None:
    draw = random.Random(SEED)
    home = Home(campaign.folder / "fuzz", data)
    assert home.run(home.words(kd_compare="False", epochs="1", teacher__epochs="1")).code == 0
    teacher = next(path for path in (home.cache / "teacher").iterdir() if path.is_dir())
    run_folder = next(path.parent for path in home.saved.glob("*/result.json"))
    out = home.folder / "out"
    (home.folder / "users.txt").write_text("u1\n")
    options: dict[str, Sequence[str]] = {
        "list": [], "plan": home.words(epochs="1"),
        "prepare": [
            "mine", "--form=table", f"--raw={data / 'tiny'}", "--file=tiny.inter", "--user=user_id:token",
            "--item=item_id:token", "--time=timestamp:float", "--core=2", "--split=ratio", "--seed=3", f"--out={out}",
        ],
        "export-lists": [str(teacher), f"--out={out}", "--k=5", "--first=1", "--queries=3", "--block=2"],
        "convert-teacher": [str(teacher), f"--out={out}", "--svd=2", "--dtype=fp16"],
        "recommend": [str(run_folder), f"--users={home.folder / 'users.txt'}", "--k=3", f"--out={out}.csv"],
        "cache": [
            "list", f"--cache_dir={home.cache}", "--kind=teacher", "--older_than=1", "--larger_than=1", "--damaged",
        ],
        "plot": ["grid.yaml", f"--results={out}"],
        "reproduce": ["grid.yaml", f"--results={out}", "--table", "--cpus_per_task=1"],
        "benchmark": ["--nonsense"],
    }  # fmt: skip
    assert set(options) | {"run", "tune"} == set(VERBS)
    for verb, words in options.items():
        for _ in range(12 if words else 3):
            given = list(words)
            for _ in range(draw.randrange(1, 3)):
                place = draw.randrange(len(given)) if given else 0
                change = draw.randrange(4)
                if change == 0 and given:
                    given.pop(place)
                elif change == 1 and given and "=" in given[place]:
                    given[place] = f"{given[place].split('=')[0]}={draw.choice(ODD)}"
                elif change == 2:
                    given.insert(place, draw.choice(ODD))
                else:
                    given.insert(place, f"--{''.join(draw.choices(string.ascii_lowercase, k=5))}={draw.choice(ODD)}")
            given = [word for word in given if word not in ("/", "..") and not word.endswith(("=/", "=.."))]
            note(campaign, "fuzz of tools", f"{verb} {given}", home.run([verb, *given]), home)
    campaign.check("fuzz of tools")
