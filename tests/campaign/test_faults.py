"""Full disks, little memory, odd places, closed streams, signals: a sentence, and the next run goes on."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.campaign import Home, Record, goes_on
from tests.support.scenarios import SCENARIOS

pytestmark = pytest.mark.campaign

SEED = 7
MIB = 1 << 20


@contextmanager
def mounted(place: Path, size: str) -> Iterator[None]:
    """Mount a file system of this size in memory; skip the test where that is not allowed."""
    place.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], capture_output=True)
    if done.returncode:
        pytest.skip("mounting a file system needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def remounted(place: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", str(place)], check=True)


@pytest.mark.parametrize("which", ["cache_dir", "output_dir"])
def test_full_disks(which: str, campaign: Record, data: Path) -> None:
    place = campaign.folder / "small disk"
    for name in ("RCEKD", "HetComp of two teachers") if which == "cache_dir" else ("RCEKD",):
        home = Home(campaign.folder / "disk", data)
        assert home.run(home.words(**SCENARIOS[name])).code == 0
        wanted = home.figures()
        for kib in (4, 8, 16, 24, 36, 48, 64, 96, 160):
            with mounted(place, f"{kib}k"):
                home = Home(campaign.folder / "disk", data)
                given = home.words(**SCENARIOS[name], **{which: str(place / "x")})
                ending = home.run(given)
                remounted(place, "size=64m")
                if which == "output_dir":
                    home.saved = place / "x"
                campaign.note("full disk", f"{which} of {kib} KiB, {name}", goes_on(home, given, ending, wanted))
    campaign.check("full disk")


def limit(kind: int, value: int) -> Callable[[], None]:
    """Return what sets a limit of the child's own process."""
    return lambda: resource.setrlimit(kind, (value, value))


def test_limits(campaign: Record, data: Path) -> None:
    """Files have a largest size, or memory, open files or processes a limit."""
    home = Home(campaign.folder / "limits", data)
    given = home.words(state="ERROR")  # the log goes to a file too, which must have room for the sentence
    assert home.run(given).code == 0
    wanted = home.figures()
    limits = {
        f"files of {size} bytes": (resource.RLIMIT_FSIZE, size) for size in (1000, 2000, 4000, 6000, 8000, 12000, 20000)
    }
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits |= {f"{mib} MiB more memory": (resource.RLIMIT_AS, used + mib * MIB) for mib in (0, 4, 16, 32, 64, 128, 512)}
    limits |= {f"{count} open files": (resource.RLIMIT_NOFILE, count) for count in (8, 12, 16, 24, 40)}
    limits |= {"no further process": (resource.RLIMIT_NPROC, 1)}
    for label, (kind, value) in limits.items():
        home = Home(campaign.folder / "limits", data)
        ending = home.run(given, before=limit(kind, value))
        campaign.note("limits", label, goes_on(home, given, ending, wanted))
    campaign.check("limits")


def test_places_that_cannot_be_used(campaign: Record, data: Path) -> None:
    odd = [
        "/proc/self/x", "/dev/null", "/dev/null/x", "/sys/x", str(data / "tiny" / "tiny.inter"), "~nobodyhere/x",
        "x" * 300, "a/" * 2000, "",
        " ", "-", "é/ü ñ", "a\tb", "'", "$(x)", "*", "日本",
    ]  # fmt: skip
    for key in ("cache_dir", "output_dir", "data_path", "teacher_path", "config_files"):
        for value in odd:
            home = Home(campaign.folder / "places", data)
            more = (
                {"teacher": None, "teacher__epochs": None, "teacher__embedding_size": None}
                if key == "teacher_path"
                else {}
            )
            given = [word for word in home.words(epochs="1", **more) if not word.startswith(f"--{key}=")]
            ending = home.run([*given, f"--{key}={value}"])
            campaign.note("odd places", f"{key}={value[:30]!r}", ending.problem() or home.lost())
    campaign.check("odd places")


def test_read_only_places(campaign: Record, data: Path) -> None:
    place = campaign.folder / "read only"
    for which in ("cache_dir", "output_dir"):
        with mounted(place, "16m"):
            home = Home(campaign.folder / "ro", data)
            assert home.run(home.words(**{which: str(place / "x")})).code == 0
            remounted(place, "ro")
            for folder in ("x", "y"):
                ending = home.run(home.words(**{which: str(place / folder)}))
                campaign.note("read-only places", f"{which} {folder}", ending.problem() or home.lost())
            if which == "cache_dir":
                teacher = next(path for path in (place / "x" / "teacher").iterdir() if path.is_dir())
                given = home.words(
                    f"--teacher_path={teacher}", teacher=None, teacher__epochs=None, teacher__embedding_size=None
                )
                ending = home.run(given)
                fine = None if ending.code == 0 else f"a teacher on a read-only disk is not read: {ending.errors}"
                campaign.note("read-only places", "teacher_path", ending.problem() or fine)
            ending = home.run(home.words(), before=lambda: os.chdir(place))
            problem = None if ending.code == 0 else f"needs the working folder: {ending.errors}"
            campaign.note("read-only places", "working folder", ending.problem() or problem)
    campaign.check("read-only places")


def test_surroundings(campaign: Record, data: Path) -> None:
    def gone() -> None:
        folder = Path(tempfile.mkdtemp())
        os.chdir(folder)
        folder.rmdir()

    def no_temporary_folder() -> None:
        os.environ["TMPDIR"] = "/nonexistent"
        tempfile.tempdir = None

    changes: dict[str, Callable[[], object]] = {
        "no HOME": lambda: os.environ.pop("HOME", None),
        "HOME is nowhere": lambda: os.environ.update(HOME="/nonexistent"),
        "no temporary folder": no_temporary_folder, "the working folder is gone": gone,
        "RECBOLE_KD_CACHE below a file": lambda: os.environ.update(RECBOLE_KD_CACHE="/etc/passwd/x"),
        "CUDA_VISIBLE_DEVICES=7": lambda: os.environ.update(CUDA_VISIBLE_DEVICES="7"),
        "no environment": lambda: os.environ.clear(),
    }  # fmt: skip
    places = {
        "absolute": {},
        "relative": {"cache_dir": "c", "output_dir": "o"},
        "default": {"cache_dir": None, "output_dir": None},
    }
    for label, change in changes.items():
        for kind, keys in places.items():
            home = Home(campaign.folder / "around", data)
            ending = home.run(home.words(epochs="1", teacher__epochs="1", **keys), before=change)
            campaign.note("surroundings", f"{label}, {kind} places", ending.problem() or home.lost())
    campaign.check("surroundings")


def _closed(*numbers: int) -> Callable[[], None]:
    def before() -> None:
        for number in numbers:
            os.close(number)
            setattr(sys, ("stdin", "stdout", "stderr")[number], None)  # as Python finds them when it starts

    return before


def _to(number: int, target: str) -> Callable[[], None]:
    def before() -> None:
        if target == "a pipe that nobody reads":
            reading, writing = os.pipe()
            os.close(reading)
        else:
            writing = os.open(target, os.O_WRONLY)
        os.dup2(writing, number)

    return before


def test_streams(campaign: Record, data: Path) -> None:
    streams: dict[str, Callable[[], None]] = {
        "stdin closed": _closed(0), "stdout closed": _closed(1), "stderr closed": _closed(2),
        "all closed": _closed(0, 1, 2),
    }  # fmt: skip
    for number, name in ((1, "stdout"), (2, "stderr")):
        for target in ("/dev/full", "/dev/null", "a pipe that nobody reads"):
            streams[f"{name} to {target}"] = _to(number, target)
    for label, before in streams.items():
        for words in (None, ["list"], ["--help"], ["nonsense"]):
            home = Home(campaign.folder / "streams", data)
            given = words or home.words(epochs="1", teacher__epochs="1")
            ending = home.run(given, before=before)
            said = 1 if "stderr" in label or "all" in label else 0  # the sentence cannot be read
            problem = ending.problem(*([2] if said else [])) or home.lost()
            if problem is None and words is None and home.figures() is None and ending.code == 0:
                problem = "no result"
            campaign.note("streams", f"{label}, {(words or ['run'])[0]}", problem)
    campaign.check("streams")
