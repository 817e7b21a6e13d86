"""One warmed process for all campaigns, with its data and its record; several processes add their records up."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from recbole_kd.cli.program import VERBS, main
from recbole_kd.training import resume_state
from tests.support.campaign import REPORT, Home, Record, merged, write_data, write_summary

STARTED = time.monotonic()
RECORDS: list[dict[str, dict[str, Any]]] = []
"""Kinds of trials, of each process that has ended."""


@pytest.fixture(scope="session")
def campaign(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Record]:
    """Return the record of this session, whose process has done a whole run before its children begin."""
    folder = tmp_path_factory.mktemp("campaign")
    resume_state.SHARE_OF_TIME = 1e9  # a state after every epoch, however busy the machine
    write_data(folder / "data")
    warm = Home(folder / "warm", folder / "data")
    for verb in VERBS.values():
        import_module(f"recbole_kd.cli.{verb.module}")
    assert main(warm.words(epochs="1", teacher__epochs="1")) == 0
    for _ in range(
        100
    ):  # a child of a process with threads can wait for ever for a lock that none of its threads holds
        if len(os.listdir("/proc/self/task")) == 1 or "PYTEST_XDIST_WORKER" in os.environ:
            break
        time.sleep(0.05)
    record = Record(folder)
    yield record
    output = getattr(request.config, "workeroutput", None)  # of a process of pytest-xdist
    if output is None:
        RECORDS.append(record.kinds)
    else:
        output["campaign"] = record.kinds


@pytest.fixture(scope="session")
def data(campaign: Record) -> Path:
    """Folder of the data sets."""
    return campaign.folder / "data"


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take the record of a process that has ended."""
    found = getattr(node, "workeroutput", {}).get("campaign")
    if found:
        RECORDS.append(found)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what was tried and held, and write it where the environment asks for it."""
    kinds = merged(RECORDS)
    if not kinds:
        return
    seconds = time.monotonic() - STARTED
    terminalreporter.section("campaign")
    for kind, found in kinds.items():
        held = found["tried"] - len(found["not_held"])
        terminalreporter.write_line(f"{kind}: tried {found['tried']}, held {held}, {found['cpu_seconds']:.0f} s of CPU")
        for line in found["not_held"]:
            terminalreporter.write_line(f"    {line}")
    tried, lost = (sum(n) for n in zip(*((f["tried"], len(f["not_held"])) for f in kinds.values()), strict=True))
    terminalreporter.write_line(f"all: tried {tried}, held {tried - lost}, {seconds:.0f} s")
    if os.environ.get(REPORT):
        write_summary(Path(os.environ[REPORT]), kinds, seconds)
