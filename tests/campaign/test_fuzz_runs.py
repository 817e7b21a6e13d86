"""Seeded nonsense as keys and files of a run: a sentence or a run, never a traceback."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import recbole_kd
from recbole_kd.training.build_distiller import known_kd_keys
from tests.support.campaign import Home, Record
from tests.support.odd_values import ODD, RUN_KEYS
from tests.support.scenarios import PLAIN

pytestmark = pytest.mark.campaign

SEED = 3


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
        for value in draw.sample(ODD, 2):
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
        for number in range(25):
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
