"""A benchmark job in a separate process, with its own memory and caches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole_kd.errors import TrainingError

CHECKOUT = Path(__file__).resolve().parents[3]
"""Folder that contains the package, so that the process finds it if it is not installed."""


def in_own_process(job: Mapping[str, Any], minutes: float | None = None) -> Any:
    """Run one job in a new process and return its JSON answer.

    See :func:`recbole_kd.experiments.benchmarks.job.run_job`.

    Args:
        job: the job.
        minutes: its limit, after which the process is ended.

    Raises:
        TrainingError: the job failed or took too long. The message has the last line of its output, or the signal.
    """
    command = [sys.executable, "-m", "recbole_kd.experiments.benchmarks.job", json.dumps(job)]
    path = os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH")]))
    environment, limit = {**os.environ, "PYTHONPATH": path}, None if minutes is None else 60 * minutes
    with tempfile.TemporaryDirectory() as work:
        try:
            done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, timeout=limit)
        except subprocess.TimeoutExpired:
            raise TrainingError(f"The benchmark's job {job['what']!r} took more than {minutes:g} minutes") from None
    if done.returncode < 0:
        raise TrainingError(
            f"The benchmark's job {job['what']!r} was ended by signal {-done.returncode}; Linux sends 9 where memory "
            "runs out"
        )
    if done.returncode:
        words = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise TrainingError(f"The benchmark's job {job['what']!r} failed: {words[:500]}")
    return json.loads(done.stdout.strip().splitlines()[-1])
