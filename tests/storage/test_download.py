"""Downloads from a server on loopback that is slow, breaks off, or has another file than was published."""

from __future__ import annotations

import hashlib
import socket
from pathlib import Path
from typing import Any

import pytest

from recbole_kd.errors import DownloadError
from recbole_kd.storage.download import RemoteFile, download
from tests.support.file_server import Served, file_server

CONTENT = bytes(range(256)) * 1200
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0%b" % (len(content), content)).hexdigest()


def fetch(folder: Path, served: Served, known: dict[str, Any], **options: Any) -> Path:
    """Download /a.bin into a folder, without waiting between attempts."""
    with file_server({"/a.bin": served}) as address:
        return download(RemoteFile("a.bin", f"{address}/a.bin", **known), folder, print, pause=0.0, **options)


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


@pytest.mark.parametrize(
    "known",
    [{"size": len(CONTENT), "sha256": SHA256}, {"git_sha1": git_sha1(CONTENT)}, {}],
    ids=["size and SHA-256", "Git SHA-1", "nothing known"],
)
@pytest.mark.parametrize(
    "served",
    [
        Served(CONTENT),
        Served(CONTENT, cuts=[100_000, 50_000, 1]),
        Served(CONTENT, cuts=[100_000], ranges=False),
        Served(CONTENT, cuts=[70_000], stall=2.0),
        Served(CONTENT, status=503, refusals=2),
    ],
    ids=["whole", "cut off", "cut off, no ranges", "slow", "busy"],
)
def test_the_file_arrives_whole(tmp_path: Path, served: Served, known: dict[str, Any]) -> None:
    served = Served(served.content, list(served.cuts), served.stall, served.ranges, served.status, served.refusals)
    assert fetch(tmp_path, served, known, read_seconds=0.2).read_bytes() == CONTENT
    assert visible(tmp_path) == ["a.bin"] and not list(tmp_path.glob("*.part"))


def test_a_later_call_continues_where_an_earlier_one_broke_off(tmp_path: Path) -> None:
    known = {"size": len(CONTENT), "sha256": SHA256}
    first = Served(CONTENT, cuts=[100_000, 0, 0, 0, 0, 0, 0])
    second = Served(CONTENT)
    with file_server({"/a.bin": first}) as address:
        file = RemoteFile("a.bin", f"{address}/a.bin", **known)
        with pytest.raises(DownloadError, match=r"broke off 5 times \(the connection ended early\).* byte 98,304\."):
            download(file, tmp_path, print, pause=0.0)
        assert visible(tmp_path) == []
        first.cuts.clear()
        first.asked.clear()
        assert download(file, tmp_path, print, pause=0.0).read_bytes() == second.content
        assert first.asked == ["bytes=98304-"]


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ({"size": len(CONTENT) - 1, "sha256": SHA256}, "it has 307,200 bytes instead of 307,199"),
        ({"size": len(CONTENT) + 1}, "it has 307,200 bytes instead of 307,201"),
        ({"size": len(CONTENT), "sha256": "0" * 64}, f"its SHA-256 is {SHA256} instead of 0000"),
        ({"git_sha1": "0" * 40}, f"its Git SHA-1 is {git_sha1(CONTENT)} instead of 0000"),
    ],
    ids=["too long", "too short", "SHA-256", "Git SHA-1"],
)
def test_another_file_than_published_is_refused_and_not_kept(tmp_path: Path, known: dict[str, Any], said: str) -> None:
    with pytest.raises(DownloadError, match="is not the file that was published") as refused:
        fetch(tmp_path, Served(CONTENT), known)
    assert said in str(refused.value) and visible(tmp_path) == []
    assert not list(tmp_path.glob(".*.part"))


@pytest.mark.parametrize(("status", "reason"), [(404, "Not Found"), (403, "Forbidden")])
def test_a_missing_page_is_one_sentence(tmp_path: Path, status: int, reason: str) -> None:
    served = Served(CONTENT, status=status)
    with pytest.raises(DownloadError, match=f"the server answers {status} {reason}"):
        fetch(tmp_path, served, {})
    assert len(served.asked) == 1 and visible(tmp_path) == []


def test_without_a_server_it_is_one_sentence_at_once(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(DownloadError, match=rf"There is no connection to 127\.0\.0\.1:{port} \(.*refused"):
        download(RemoteFile("a.bin", f"http://127.0.0.1:{port}/a.bin"), tmp_path, print)
    assert visible(tmp_path) == []


def test_a_file_that_is_there_is_checked_and_never_replaced(tmp_path: Path, capsys: Any) -> None:
    target = tmp_path / "a.bin"
    target.write_bytes(b"mine")
    served = Served(CONTENT)
    with pytest.raises(DownloadError, match="is there, but it is not the published file"):
        fetch(tmp_path, served, {"size": len(CONTENT), "sha256": SHA256})
    assert target.read_bytes() == b"mine" and served.asked == []
    target.write_bytes(CONTENT)
    assert fetch(tmp_path, served, {"size": len(CONTENT), "sha256": SHA256}) == target
    assert served.asked == [] and "is already there" in capsys.readouterr().out


def test_a_link_is_not_followed_to_the_users_file(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.bin").symlink_to(tmp_path / "missing")
    with pytest.raises(DownloadError, match="it is not a file"):
        fetch(tmp_path / "raw", Served(CONTENT), {})
    assert not (tmp_path / "missing").exists()


def test_a_wrong_part_is_thrown_away(tmp_path: Path) -> None:
    """What an interrupted run left may belong to an older version of the file."""
    known = {"size": len(CONTENT), "sha256": SHA256}
    with file_server({"/a.bin": Served(CONTENT)}) as address:
        file = RemoteFile("a.bin", f"{address}/a.bin", **known)
        name = f".a.bin.{hashlib.sha256(file.address.encode()).hexdigest()[:8]}.part"
        for wrong in (b"x" * 1000, b"x" * (len(CONTENT) + 1)):
            (tmp_path / name).write_bytes(wrong)
            with pytest.raises(DownloadError, match="Nothing was kept"):
                download(file, tmp_path, print, pause=0.0)
        assert download(file, tmp_path, print, pause=0.0).read_bytes() == CONTENT


def test_an_answer_over_the_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"a\.bin has 0\.0 GB"):
        fetch(tmp_path, Served(CONTENT), {}, limit=1000)
    assert visible(tmp_path) == []
