"""Huge pages are asked for before the first large tensor is made.

The environment can say otherwise.
"""

from __future__ import annotations

import os

import pytest

NAME = "THP_MEM_ALLOC_ENABLE"


def test_a_run_asks_for_them_before_it_reads_data(monkeypatch: pytest.MonkeyPatch) -> None:
    from recbole_kd.pipeline import quick_start

    monkeypatch.delenv(NAME, raising=False)
    seen: list[str | None] = []

    def stop(_: object) -> None:
        seen.append(os.environ.get(NAME))
        raise KeyboardInterrupt

    monkeypatch.setattr(quick_start, "make_plan", stop)
    for entry in (quick_start.run_request, quick_start.make_teachers):
        monkeypatch.delenv(NAME, raising=False)
        with pytest.raises(KeyboardInterrupt):
            entry(None)  # type: ignore[arg-type]
    monkeypatch.setenv(NAME, "0")
    with pytest.raises(KeyboardInterrupt):
        quick_start.run_request(None)  # type: ignore[arg-type]
    assert seen == ["1", "1", "0"]
