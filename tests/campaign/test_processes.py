"""Signals and runs at once: a sentence or the same figures, and the next run goes on."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recbole_kd.cli.program import main
from tests.support.campaign import Home, Record, figures_of, goes_on
from tests.support.scenarios import SCENARIOS

pytestmark = pytest.mark.campaign

SEED = 7


@pytest.mark.parametrize("name", ["RCEKD", "HetComp of two teachers", "SASRec, sequential"])
def test_signals(name: str, campaign: Record, data: Path) -> None:
    draw = random.Random(f"{SEED} {name}")
    home = Home(campaign.folder / "signals", data)
    given = home.words(**SCENARIOS[name])
    whole = home.run(given)
    assert whole.code == 0
    wanted = home.figures()
    for number in range(12):
        signum = (signal.SIGINT, signal.SIGTERM)[number % 2]
        moment = draw.uniform(0.05, 0.9 * whole.seconds)
        home = Home(campaign.folder / "signals", data)
        ending = home.run(given, signal_after=(moment, signum))
        problem = goes_on(home, given, ending, wanted, 128 + signum)
        said = ending.err.splitlines()[-1:] == ["interrupted; --resume=True continues"]
        if problem is None and ending.code and not said:
            problem = f"code {ending.code} and says {ending.err.splitlines()[-1:]}"
        campaign.note("signals", f"{name}, {signum.name} after {moment:.2f} s", problem)
    campaign.check("signals")


@pytest.mark.parametrize("killed", [False, True])
def test_runs_at_once(killed: bool, campaign: Record, data: Path) -> None:
    """Three equal runs share an empty cache: one teacher is trained, and all have the same figures."""
    draw = random.Random(SEED)
    home = Home(campaign.folder / "together", data)
    whole = home.run(home.words())
    wanted = home.figures()
    for number in range(4):
        home = Home(campaign.folder / "together", data)
        given = home.words("--resume=True")
        children = []
        for place in range(3):
            log = home.folder / f"log{place}"
            pid = os.fork()
            if pid == 0:
                os.setsid()
                for stream in (1, 2):
                    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
                sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1) for stream in (1, 2))
                os._exit(main(given))
            children.append(pid)
        if killed:
            time.sleep(draw.uniform(0.2, 2 * whole.seconds))
            os.kill(children[0], signal.SIGKILL)
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
        logs = [(home.folder / f"log{place}").read_text() for place in range(3)]
        results = [_figures(path) for path in home.saved.glob("*/result.json")]
        trained = sum(log.count("Training the teacher") for log in logs)
        problem = home.lost()
        if any(codes[1:]) or (not killed and codes[0]):
            problem = f"codes {codes}"
        elif any(figures != wanted for figures in results) or len(results) < 2 + (not killed):
            problem = "other figures"
        elif trained > 1 + killed:
            problem = f"{trained} teachers were trained"
        campaign.note("runs at once", f"round {number}{', one killed' if killed else ''}", problem)
    campaign.check("runs at once")


def _figures(path: Path) -> object:
    return figures_of(json.loads(path.read_text()))


def test_an_interrupt_while_the_program_starts(campaign: Record, data: Path) -> None:
    """Ctrl-C and SIGTERM while modules are imported are one line."""
    home = Home(campaign.folder / "starting", data)
    for signum in (signal.SIGINT, signal.SIGTERM):
        for seconds in (0.0, 0.5, 1.5):
            child = subprocess.Popen(
                [sys.executable, "-m", "recbole_kd", *home.words()],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            status = Path(f"/proc/{child.pid}/status")
            while child.poll() is None and not int(status.read_text().split("SigCgt:")[1].split()[0], 16) & 1 << (
                signal.SIGTERM - 1
            ):
                time.sleep(0.005)
            time.sleep(seconds)
            child.send_signal(signum)
            _, err = child.communicate(timeout=60)
            lines = ["interrupted", "interrupted; --resume=True continues"]  # before and after the words are read
            fine = child.returncode == 128 + signum and err.splitlines() in [[line] for line in lines]
            campaign.note(
                "signals",
                f"{signum.name} {seconds} s into the imports",
                None if fine else f"code {child.returncode}: {err[-300:]}",
            )
    campaign.check("signals")
