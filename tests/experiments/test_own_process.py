"""Jobs of the benchmark in processes of their own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from recbole_kd.errors import TrainingError
from recbole_kd.experiments.benchmarks.own_process import in_own_process


def test_a_process_that_was_ended_by_a_signal_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its output says nothing: the last line is that of a warning."""
    ended = tmp_path / "python"
    ended.write_text("#!/bin/sh\necho a warning >&2\nkill -9 $$\n")
    ended.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(ended))
    with pytest.raises(TrainingError, match="job 'peers' was ended by signal 9; Linux sends 9 where memory runs out"):
        in_own_process({"what": "peers"})
