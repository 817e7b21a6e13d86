"""One warmed process for all campaigns, with its data and its record."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from recbole_kd.cli.program import VERBS, main
from tests.support.campaign import Home, Record, write_data


@pytest.fixture(scope="session")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Record]:
    """Return the record of this session, whose process has done a whole run before its children begin."""
    folder = tmp_path_factory.mktemp("campaign")
    write_data(folder / "data")
    warm = Home(folder / "warm", folder / "data")
    for verb in VERBS.values():
        import_module(f"recbole_kd.cli.{verb.module}")
    assert main(warm.words(epochs="1", teacher__epochs="1")) == 0
    for _ in range(
        200
    ):  # a child of a process with threads can wait for ever for a lock that none of its threads holds
        if len(os.listdir("/proc/self/task")) == 1:
            break
        time.sleep(0.05)
    record = Record(folder)
    yield record
    record.write()


@pytest.fixture(scope="session")
def data(campaign: Record) -> Path:
    """Folder of the data sets."""
    return campaign.folder / "data"
