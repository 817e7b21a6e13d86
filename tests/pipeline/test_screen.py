"""The screen of a run: stages and warnings on it, all else in the log; few lines where nobody watches."""

from __future__ import annotations

import io
import logging
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from recbole_kd.pipeline import screen as screen_module
from recbole_kd.pipeline.run_log import logging_to
from recbole_kd.pipeline.screen import Screen, ScreenHandler
from recbole_kd.storage.screen_log import SCREEN, show
from recbole_kd.training.progress import EpochReport
from tests.support.runs import run

REPORT = EpochReport(1, 30, 0.41, 3.25, 2.0, 6.5, "NDCG@10", 0.1291, True, 0, 5)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _a_terminal_is_no_dumb_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")


def shown(stream: io.StringIO, n_epochs: int, epochs: bool = True) -> list[str]:
    """Lines of a stage of so many epochs, each but the first below the best."""
    handler = ScreenHandler(stream)
    logger = logging.getLogger()
    before, level = logger.handlers[:], logger.level
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
    try:
        screen = Screen(handler, 3, epochs)
        with screen.alive():
            screen.begin("MF (20) + RCEKD")
            for number in range(n_epochs):
                screen.epoch(replace(REPORT, epoch=number + 1, is_best=number == 0, waited=number))
            screen.end("done")
    finally:
        logger.handlers[:] = before
        logger.setLevel(level)
    return stream.getvalue().splitlines()


def test_an_epoch_is_one_line_with_losses_ratio_score_and_patience() -> None:
    lines = shown(io.StringIO(), 1)
    assert lines[0] == "[1/3] MF (20) + RCEKD" and lines[2] == "      done"
    assert "epoch 1/30 | base 0.41 | KD 3.25 x 2 = 6.5 | grad ratio 6.5 | NDCG@10 .1291 best | patience 0/5" in lines[1]


def test_without_a_terminal_every_tenth_epoch_is_shown() -> None:
    lines = [line.split("|")[0].strip() for line in shown(io.StringIO(), 35) if "epoch" in line]
    assert lines == ["epoch 1/30", "epoch 10/30", "epoch 20/30", "epoch 30/30"]


def test_without_a_terminal_a_long_silence_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen_module, "QUIET_SECONDS", 0.0)
    assert len([line for line in shown(io.StringIO(), 5) if "epoch" in line]) == 5


def test_a_terminal_renews_one_line_and_leaves_the_last() -> None:
    stream = Terminal()
    shown(stream, 12)
    text = stream.getvalue()
    assert text.count("\r\x1b[2K") >= 11
    assert "epoch 12/30" in text.splitlines()[-2] and text.endswith("      done\n")


def test_show_progress_false_shows_no_epochs() -> None:
    assert shown(io.StringIO(), 20, epochs=False) == ["[1/3] MF (20) + RCEKD", "      done"]


def test_a_closed_stream_ends_nothing() -> None:
    stream = Terminal()
    stream.close()
    handler = ScreenHandler(stream)
    handler.emit(logging.LogRecord("root", logging.WARNING, "", 0, "text", None, None))
    handler.renew("line")


def test_warnings_are_one_line_and_all_else_is_in_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to(tmp_path / "run.log"):
        logging.getLogger().info("detail")
        logging.getLogger().warning("lower\nit")
        warnings.warn("of a library", UserWarning, stacklevel=1)
        show("shown")
    assert capsys.readouterr().err.splitlines() == ["warning: lower it", "shown"]
    log = (tmp_path / "run.log").read_text()
    assert all(words in log for words in ("detail", "of a library", "shown", "lower"))


def test_a_run_shows_its_stages_and_its_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(tmp_path)
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert lines[0].startswith("recbole_kd ") and "30 users" in lines[0] and "split 8:1:1" in lines[0]
    stages = [line for line in lines if line.startswith("[")]
    assert stages == ["[1/3] Teacher LightGCN (8)", "[2/3] MF (4) alone", "[3/3] MF (4) + RCEKD"]
    assert len([line for line in lines if line.startswith("      done: best epoch")]) == 3
    assert result["verdict"]["text"] in captured.out and "next: recbole-kd recommend" in captured.out
    history = result["distilled"]["history"]
    assert history["weighted_kd_loss"] == [result["kd_weight"] * loss for loss in history["kd_loss"]]
    assert all(ratio > 0 for ratio in history["grad_ratio"])
    assert "[2/3] MF (4) alone" in (Path(result["folder"]) / "run.log").read_text()


def test_a_closed_stream_shows_nothing_and_breaks_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Python sets ``sys.stderr`` to None where the stream is closed, and prints to None go to the standard output."""
    handler = ScreenHandler(None)
    handler.handle(logging.LogRecord(SCREEN, logging.INFO, "", 0, "a line", None, None))
    handler.renew("epoch 1")
    handler.keep()
    assert capsys.readouterr() == ("", "")
