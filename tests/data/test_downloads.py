"""`recbole-kd prepare NAME --download` and `run --download=True`, with a server on loopback for the publishers'."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import yaml

from recbole_kd.cli.program import main
from recbole_kd.config.property_layers import properties_dir
from recbole_kd.data.preparing import published_files, recbole_downloads
from recbole_kd.data.preparing.known_datasets import KNOWN_DATASETS
from recbole_kd.data.preparing.published_files import SOURCES, published
from recbole_kd.data.preparing.zip_archives import extract
from recbole_kd.errors import ConfigError, DataError, DownloadError
from recbole_kd.integration.safe_load import load_pickle
from recbole_kd.pipeline import dataset_files
from recbole_kd.pipeline.dataset_files import provide_dataset
from recbole_kd.storage import download as downloads
from tests.support.file_server import Served, file_server
from tests.support.helpers import write_tiny

TRAIN = "".join(f"{user} {' '.join(str((user * 3 + k) % 40) for k in range(18))}\n" for user in range(30)).encode()
TEST = "".join(f"{user} {' '.join(str((user * 3 + k) % 40) for k in range(18, 22))}\n" for user in range(30)).encode()


def known(content: bytes) -> dict[str, Any]:
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def zipped(members: dict[str, bytes]) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return memory.getvalue()


@contextmanager
def sources(
    monkeypatch: Any, tmp_path: Path, files: dict[str, Served], entry: dict[str, Any], name: str
) -> Iterator[Any]:
    """Let the addresses of a data set lead to the server; other data sets keep theirs."""
    with file_server(files) as address:
        folder = tmp_path / "properties"
        folder.mkdir(exist_ok=True)
        text = yaml.safe_dump({name: {"page": "https://example.org/page", "licence": "free", **entry}})
        (folder / SOURCES).write_text(text.replace("SERVER", address))
        monkeypatch.setattr(published_files, "properties_dir", lambda: folder)
        monkeypatch.setattr(downloads.time, "sleep", lambda _: None)
        yield address


@pytest.fixture
def gowalla(monkeypatch: Any, tmp_path: Path) -> Iterator[dict[str, Served]]:
    files = {"/train.txt": Served(TRAIN), "/test.txt": Served(TEST)}
    entry = {"base": "SERVER/", "files": {"train.txt": known(TRAIN), "test.txt": known(TEST)}}
    with sources(monkeypatch, tmp_path, files, entry, "gowalla"):
        monkeypatch.chdir(tmp_path)
        yield files


def test_prepare_downloads_checks_and_names_the_next_command(gowalla: dict[str, Served], capsys: Any) -> None:
    gowalla["/train.txt"].cuts = [1000]
    assert main(["prepare", "gowalla", "--download", "--expect=none"]) == 0
    said = capsys.readouterr().out
    assert "https://example.org/page (licence: free)" in said and "downloading train.txt from http://127.0.0.1" in said
    assert said.splitlines()[-1] == "next: recbole-kd run --model=MF --teacher=LightGCN --kd=RCEKD --dataset=gowalla"
    assert Path("dataset/gowalla/gowalla.inter").is_file()
    assert Path("dataset/raw/gowalla/train.txt").read_bytes() == TRAIN
    asked = [len(file.asked) for file in gowalla.values()]
    assert asked == [2, 1]
    assert main(["prepare", "gowalla", "--download", "--expect=none"]) == 0  # again: nothing is asked for
    assert [len(file.asked) for file in gowalla.values()] == asked


@pytest.mark.parametrize("fault", ["404", "digest", "size", "cut off"])
def test_a_failed_download_leaves_no_data_set(gowalla: dict[str, Served], fault: str, capsys: Any) -> None:
    bad = gowalla["/test.txt"]
    if fault == "404":
        bad.status = 404
    elif fault == "cut off":
        bad.cuts = [10] * 10
        bad.ranges = False
    else:
        bad.content = TEST.replace(b"0", b"1", 1) if fault == "digest" else TEST + b"\n"
    assert main(["prepare", "gowalla", "--download", "--expect=none"]) == 2
    said = capsys.readouterr().err
    words = {"404": "answers 404", "digest": "SHA-256", "size": "bytes instead of", "cut off": "broke off 5 times"}
    by_hand = "https://example.org/page in dataset/raw/gowalla, and run the same command again"
    assert words[fault] in said and by_hand in said and said.count("\n") == 1
    assert not Path("dataset/gowalla").exists() and not Path("dataset/raw/gowalla/test.txt").exists()


def test_a_run_prints_the_command_or_does_it(gowalla: dict[str, Served], capsys: Any) -> None:
    words = ["run", "--model=MF", "--teacher=LightGCN", "--kd=RCEKD", "--dataset=gowalla"]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "run `recbole-kd prepare gowalla --download`, or add --download=True to this command" in said
    with pytest.raises(DataError, match=r"gowalla has 30 users, but the published data has 29,858"):
        provide_dataset("gowalla", "dataset/", download=True)
    assert Path("dataset/raw/gowalla/train.txt").is_file() and not Path("dataset/gowalla").exists()
    with pytest.raises(DataError, match="prepare gowalla --download --out=elsewhere`"):
        provide_dataset("gowalla", "elsewhere")


def test_the_users_own_raw_file_stays(gowalla: dict[str, Served], capsys: Any) -> None:
    own = Path("mine/train.txt")
    own.parent.mkdir()
    own.write_text("1 2 3\n")
    assert main(["prepare", "gowalla", "--download", "--raw=mine"]) == 2
    assert own.read_text() == "1 2 3\n" and "is there, but it is not the published file" in capsys.readouterr().err


def test_an_archive_of_a_table_is_prepared_with_the_options_of_its_entry(
    monkeypatch: Any, tmp_path: Path, capsys: Any
) -> None:
    rows = [(user, (user + k) % 20, 3 + k % 3, 1000 + k) for user in range(20) for k in range(16)]
    table = "user_id:token\tbusiness_id:token\tstars:float\tdate:float\n"
    table += "".join(f"u{u}\ti{i}\t{stars}\t{when}\n" for u, i, stars, when in rows)
    archive = zipped({"yelp2018.inter": table.encode(), "../../evil.inter": b"evil"})
    entry = yaml.safe_load((properties_dir() / SOURCES).read_text())["yelp2018"]
    entry["archives"]["yelp2018.zip"]["address"] = "SERVER/yelp2018.zip"
    with sources(monkeypatch, tmp_path, {"/yelp2018.zip": Served(archive, cuts=[100])}, entry, "yelp2018"):
        assert main(["prepare", "yelp2018", "--download", f"--out={tmp_path / 'out'}"]) == 0
    manifest = json.loads((tmp_path / "out" / "yelp2018" / "prepared.json").read_text())
    assert manifest["counts"]["all"]["interactions"] == sum(stars >= 4 for *_, stars, _ in rows)
    assert {"train", "valid", "test"} < set(manifest["counts"])
    assert not list(tmp_path.rglob("evil.inter"))
    assert f"--dataset=yelp2018 --data_path={tmp_path / 'out'}" in capsys.readouterr().out


def test_pickled_matrices_become_lists_and_nothing_in_them_is_run(monkeypatch: Any, tmp_path: Path) -> None:
    files, entry = {}, {"base": "SERVER/", "files": {}, "matrices": {}}
    for name, target, shift in (("trn", "train", 0), ("val", "val", 4), ("tst", "test", 5)):
        users, items = np.arange(8).repeat(4 if name == "trn" else 1), np.arange(32 if name == "trn" else 8) % 10
        matrix = scipy.sparse.coo_matrix((np.ones(len(users)), (users, (items + shift + users) % 10)), shape=(8, 10))
        content = pickle.dumps(matrix)
        files[f"/{name}Mat.pkl"] = Served(content)
        entry["files"][f"{name}Mat.pkl"] = known(content)
        entry["matrices"][f"{name}Mat.pkl"] = f"{target}.json"
    memory = io.BytesIO()
    np.save(memory, np.random.default_rng(0).normal(size=(10, 3)))
    files["/image_feat.npy"] = Served(memory.getvalue())
    entry["files"]["image_feat.npy"] = known(memory.getvalue())
    with sources(monkeypatch, tmp_path, files, entry, "tiktok"):
        assert main(["prepare", "tiktok", "--download", f"--out={tmp_path / 'out'}"]) == 0
    lists = json.loads((tmp_path / "out/raw/tiktok/train.json").read_text())
    assert list(lists) == [str(user) for user in range(8)] and all(len(items) == 4 for items in lists.values())
    bomb = tmp_path / "bomb.pkl"
    bomb.write_bytes(b"cos\nsystem\n(S'touch " + bytes(tmp_path / "ran") + b"'\ntR.")
    with pytest.raises(DownloadError, match=r"asks for os\.system"):
        published_files.write_lists(bomb, tmp_path / "out.json", load_pickle)
    assert not (tmp_path / "ran").exists() and not (tmp_path / "out.json").exists()


def test_every_known_data_set_has_an_entry_and_every_file_a_digest() -> None:
    entries = {name: published(name) for name in KNOWN_DATASETS}
    for name, entry in entries.items():
        assert entry.page.startswith("https://") and entry.licence, name
        assert entry.by_hand != bool(entry.files or entry.archives), name
        for file in [*entry.files, *(archive for archive, _ in entry.archives)]:
            assert file.address.startswith("https://") and file.address.endswith(file.name)
        assert all(file.sha256 or file.git_sha1 for file in entry.files)
    assert {name for name, entry in entries.items() if entry.by_hand} == {
        "netflix", "electronics", "baby", "sports", "clothing",
    }  # fmt: skip


def test_a_shared_folder_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"open https://drive\S+, save baby\.inter, image_feat\.npy and text_feat"):
        provide_dataset("baby", str(tmp_path), download=True)
    with pytest.raises(DataError, match=r"run `recbole-kd prepare baby --raw=<folder with baby\.inter"):
        provide_dataset("baby", str(tmp_path))


@pytest.mark.parametrize("words", [["mine", "--form=table"], ["ml-100k"]])
def test_download_is_for_known_data_sets(words: list[str], capsys: Any) -> None:
    assert main(["prepare", *words, "--download"]) == 2
    assert "--download knows the addresses of citeulike" in capsys.readouterr().err


def test_an_entry_without_a_digest_is_refused(tmp_path: Path) -> None:
    path = tmp_path / SOURCES
    path.write_text("x: {page: p, licence: l, files: {a.bin: {size: 3}}}")
    with pytest.raises(ConfigError, match=r"a\.bin has no digest"):
        published("x", path)


# -- names that RecBole has addresses of ----------------------------------------------------------------------------


@pytest.fixture
def ml_1m(monkeypatch: Any, tmp_path: Path) -> Iterator[Served]:
    write_tiny(tmp_path, "tiny")
    inter = (tmp_path / "tiny" / "tiny.inter").read_bytes()
    served = Served(zipped({"ml-1m.inter": inter, "ml-1m.item": b"item_id:token\n1\n", "README.md": b"text"}))
    with file_server({"/x/ml-1m.zip": served}) as address:
        monkeypatch.setattr(downloads.time, "sleep", lambda _: None)
        table = {"ml-1m": f"{address}/x/ml-1m.zip", "ml-one": f"{address}/x/ml-1m.zip"}
        monkeypatch.setattr(dataset_files, "recbole_addresses", lambda: table)
        yield served


@pytest.mark.parametrize("name", ["ml-1m", "ml-one"])
def test_recboles_names_are_downloaded_as_recbole_does(name: str, ml_1m: Served, tmp_path: Path) -> None:
    ml_1m.cuts = [200, 200]
    provide_dataset(name, str(tmp_path / "data"))
    there = sorted(path.name for path in (tmp_path / "data" / name).iterdir())
    assert there == [f"{name}.inter", f"{name}.item"]
    assert [path.name for path in (tmp_path / "data").iterdir()] == [name]
    asked = len(ml_1m.asked)
    provide_dataset(name, str(tmp_path / "data"))  # there now
    assert len(ml_1m.asked) == asked


def test_a_broken_download_of_recboles_leaves_no_folder_and_continues(ml_1m: Served, tmp_path: Path) -> None:
    ml_1m.status, ml_1m.refusals = 404, 1
    with pytest.raises(DownloadError, match=r"answers 404 .* put RecBole's atomic file ml-1m\.inter into"):
        provide_dataset("ml-1m", str(tmp_path))
    assert not (tmp_path / "ml-1m").exists()
    whole, ml_1m.content = ml_1m.content, ml_1m.content[:-40]
    with pytest.raises(DownloadError, match="was not a complete zip archive"):
        provide_dataset("ml-1m", str(tmp_path))
    ml_1m.content = whole
    provide_dataset("ml-1m", str(tmp_path))
    assert (tmp_path / "ml-1m" / "ml-1m.inter").is_file()


def test_a_large_archive_needs_the_users_word(ml_1m: Served, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(recbole_downloads, "ASKS", 100)
    with pytest.raises(DownloadError, match=r"has 0\.0 GB\. Add --download=True to download it\."):
        provide_dataset("ml-1m", str(tmp_path))
    provide_dataset("ml-1m", str(tmp_path), download=True)
    assert (tmp_path / "ml-1m" / "ml-1m.inter").is_file()


def test_recboles_own_table_is_read() -> None:
    table = recbole_downloads.recbole_addresses()
    assert table["ml-1m"].endswith("/MovieLens/ml-1m.zip") and len(table) > 100


@pytest.mark.parametrize("path", ["../up.txt", "/abs.txt", "a/../../up.txt", "C:\\up.txt"])
def test_no_member_is_written_outside_the_folder(tmp_path: Path, path: str) -> None:
    archive = tmp_path / "a.zip"
    archive.write_bytes(zipped({path: b"evil", "good.txt": b"good"}))
    folder = tmp_path / "deep" / "folder"
    folder.mkdir(parents=True)
    extract(archive, {"good.txt": "good.txt", path: "evil.txt"}, folder)
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.txt")) == [
        "deep/folder/evil.txt", "deep/folder/good.txt",
    ]  # fmt: skip


def test_a_damaged_member_is_noticed_by_its_checksum(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    content = bytearray(zipped({"a.inter": b"abc" * 1000}))
    content[50] ^= 0xFF
    archive.write_bytes(bytes(content))
    with pytest.raises(DownloadError, match="is removed: run again"):
        extract(archive, {"a.inter": "a.inter"}, tmp_path)
    assert list(tmp_path.iterdir()) == []
