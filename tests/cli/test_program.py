"""The program recbole-kd: verbs, help, and the exit code of whatever can end a command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from recbole_kd.cli import boundary, interrupts
from recbole_kd.cli.boundary import answer
from recbole_kd.cli.program import VERBS, main, run_verb
from recbole_kd.errors import ConfigError, DataError
from recbole_kd.pipeline import quick_start
from tests.support import paths
from tests.support.fresh import python
from tests.support.runs import words

ROOT = paths.ROOT

Capture = pytest.CaptureFixture[str]


def _raise(error: BaseException) -> Callable[[list[str]], int]:
    def job(_: list[str]) -> int:
        raise error

    return job


# -- verbs and help
# -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_help_with_an_example(verb: str, capsys: Capture) -> None:
    assert main([verb, "--help"]) == 0
    out, err = capsys.readouterr()
    assert "example" in out and f"  recbole-kd {verb} " in f"{out} ".replace("\n", " \n") and not err


def test_the_overview_names_every_verb(capsys: Capture) -> None:
    for given in ([], ["--help"], ["-h"]):
        assert main(given) == 0
        out = capsys.readouterr().out
        assert all(f"  {verb} " in out for verb in VERBS) and "  recbole-kd run --model=" in out


def test_an_unknown_verb_gets_the_nearest_one(capsys: Capture) -> None:
    for wrong, right in (("prpare", "prepare"), ("export_lists", "export-lists"), ("benchmarks", "benchmark")):
        assert main([wrong, "x"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: '{wrong}' is not a verb") and f"`recbole-kd {right}`" in line
    assert main(["zzzz"]) == 2
    assert "Did you mean" not in capsys.readouterr().err


def test_words_without_a_verb_are_those_of_a_run(tmp_path: Path, capsys: Capture) -> None:
    assert main(words(tmp_path, kd="RCKD")) == 2
    said = capsys.readouterr().err
    assert main(["run", *words(tmp_path, kd="RCKD")]) == 2
    assert capsys.readouterr().err == said and "RCEKD" in said


def test_list_and_its_flag_print_the_same(capsys: Capture) -> None:
    assert main(["list"]) == 0
    listed = capsys.readouterr().out
    assert main(["--list"]) == 0
    assert capsys.readouterr().out == listed and "RCEKD" in listed


def test_scripts_and_the_module_are_the_same_program(tmp_path: Path) -> None:
    scripts = {
        "run_recbole_kd.py": "run", "scripts/prepare_dataset.py": "prepare", "scripts/run_hyper_kd.py": "tune",
        "scripts/reproduce.py": "reproduce", "scripts/plot_results.py": "plot",
        "scripts/export_lists.py": "export-lists",
        "scripts/convert_teacher.py": "convert-teacher", "scripts/benchmark.py": "benchmark",
        "scripts/benchmarks/benchmark.py": "benchmark", "scripts/new_users.py": "new-users",
    }  # fmt: skip
    code = (
        "import runpy, sys\n"
        f"for name in {list(scripts)!r}:\n"
        "    sys.argv = [name, '--help']\n"
        "    print('#', name)\n"
        "    try:\n"
        f"        runpy.run_path({str(ROOT)!r} + '/' + name, run_name='__main__')\n"
        "    except SystemExit as end:\n"
        "        print('exit', end.code)\n"
        "sys.argv = ['recbole-kd', 'prpare']\n"
        "runpy.run_module('recbole_kd', run_name='__main__')\n"
    )
    done = python("-c", code, cwd=tmp_path)
    parts = done.stdout.split("# ")[1:]
    assert [part.splitlines()[0] for part in parts] == list(scripts)
    for part, verb in zip(parts, scripts.values(), strict=True):
        assert f"recbole-kd {verb} " in part and part.rstrip().endswith("exit 0"), part
    assert done.returncode == 2 and "recbole-kd prepare" in done.stderr


# -- exit codes
# -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "words_of_it"),
    [
        (ConfigError("kd_k=0 is wrong"), "error: kd_k=0 is wrong"),
        (DataError("two\nlines"), "error: two lines"),
        (PermissionError(13, "Permission denied", "/a/b"), "error: '/a/b' cannot be used: Permission denied."),
        (OSError(28, "No space left on device"), "error: The system refused something: No space left on device."),
        (MemoryError(), "error: There is not enough memory"),
        (BrokenPipeError(32, "Broken pipe"), "error: The output was closed before everything was printed"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "error: There is not enough memory ("),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "error: There is not enough memory ("),
        (RuntimeError("can't start new thread"), "error: There is not enough memory ("),
    ],
)
def test_what_can_be_expected_is_one_sentence(error: Exception, words_of_it: str, capsys: Capture) -> None:
    assert answer(_raise(error), []) == boundary.BAD_INPUT
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(words_of_it)


def test_an_internal_error_asks_for_a_report_and_keeps_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(boundary.tempfile, "tempdir", str(tmp_path))
    for error in (ZeroDivisionError("a reason"), OSError("without a number"), RuntimeError("a shape")):
        assert answer(_raise(error), []) == boundary.INTERNAL_ERROR
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"internal error: {type(error).__name__}: {error} (") and line.endswith(
            "; please report it"
        )
        (log,) = tmp_path.glob("*.log")
        assert str(log) in line and log.read_text().count("Traceback (most recent call last)") == 1
        log.unlink()
        assert answer(_raise(error), ["--debug"]) == boundary.INTERNAL_ERROR
        assert "Traceback (most recent call last)" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_debug_is_no_word_of_the_verb(capsys: Capture) -> None:
    given: list[list[str]] = []
    assert answer(lambda own: given.append(own) or 7, ["--a=1", "--debug"]) == 7
    assert given == [["--a=1"]]
    assert main(["list", "--debug"]) == 0


def test_a_run_that_meets_an_internal_error_keeps_it_in_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("in the middle of it")

    monkeypatch.setattr(quick_start, "_train", broken)
    assert run_verb("run", words(tmp_path)) == boundary.INTERNAL_ERROR
    err = capsys.readouterr().err
    (log,) = (tmp_path / "saved").glob("*/run.log")
    assert f"the traceback is in {log}); please report it" in err and "Traceback" not in err
    assert "Traceback (most recent call last)" in log.read_text() and "in the middle of it" in log.read_text()


# -- interrupts
# -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_is_one_line_and_its_exit_code(signum: signal.Signals, code: int, capsys: Capture) -> None:
    before = signal.getsignal(signum)

    def job(_: list[str]) -> int:
        os.kill(os.getpid(), signum)
        time.sleep(30)
        return 0

    assert answer(job, [], "--resume=True continues") == code
    assert capsys.readouterr().err == "interrupted; --resume=True continues\n"
    assert signal.getsignal(signum) is before


def test_an_interrupt_that_is_swallowed_comes_again(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr(interrupts, "INSIST_SECONDS", 0.02)

    class Careless:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)

    swallowed: list[int] = []

    def job(_: list[str]) -> int:
        for _ in range(3):
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.01)
            except BaseException:
                swallowed.append(1)
        thing = Careless()
        del thing
        time.sleep(30)
        return 0

    started = time.monotonic()
    assert answer(job, []) == 143
    assert swallowed and time.monotonic() - started < 5
    assert capsys.readouterr().err == "interrupted\n"


def test_cleaning_up_after_an_interrupt_is_left_alone(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr(interrupts, "INSIST_SECONDS", 0.02)
    cleaned: list[int] = []

    def job(_: list[str]) -> int:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(30)
        finally:
            try:
                raise KeyError("of the cleaning up")
            except KeyError:
                time.sleep(0.2)
            cleaned.append(1)
        return 0

    assert answer(job, []) == 130
    assert cleaned and capsys.readouterr().err == "interrupted\n"


def test_an_interrupt_that_a_finished_job_swallowed_is_said(capsys: Capture) -> None:
    def job(_: list[str]) -> int:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(30)
        except BaseException:
            return 0
        return 0

    assert answer(job, []) == 130


def test_an_interrupt_of_the_caller_is_passed_on() -> None:
    with pytest.raises(KeyboardInterrupt):
        answer(_raise(KeyboardInterrupt()), [])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads what signals a process hears from /proc")
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_while_modules_are_imported_is_one_line(signum: signal.Signals, code: int) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen(
        [sys.executable, "-m", "recbole_kd", "list"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    heard, status = 1 << (signal.SIGTERM - 1), Path(f"/proc/{child.pid}/status")
    deadline = time.monotonic() + 60
    while child.poll() is None and time.monotonic() < deadline:
        if int(status.read_text().split("SigCgt:")[1].split()[0], 16) & heard:
            break
        time.sleep(0.005)
    child.send_signal(signum)
    out, err = child.communicate(timeout=60)
    assert child.returncode == code and err == "interrupted\n" and not out


def test_another_program_keeps_its_signals() -> None:
    before = signal.getsignal(signal.SIGINT)
    interrupts.end_at_interrupts_of_imports()  # pytest is another program
    assert signal.getsignal(signal.SIGINT) is before
