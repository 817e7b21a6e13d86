"""The same seed gives the same bits, on several threads too."""

from __future__ import annotations

from pathlib import Path

import torch

from recbole_kd.training.determinism import repeatable
from tests.support.fresh import python

# gradients of rows that are asked for over and over: added up atomically by several threads, unless told otherwise
PROBE = """
import hashlib, torch
from recbole_kd.training.determinism import repeatable
torch.set_num_threads(2)
generator = torch.Generator().manual_seed(0)
table = torch.randn(50, 128, generator=generator, requires_grad=True)
rows = torch.randint(0, 50, (20000,), generator=generator)
weights = torch.randn(20000, 128, generator=generator)
found = set()
for _ in range(10):
    table.grad = None
    with repeatable(True):
        (table[rows] * weights).sum().backward()
    found.add(hashlib.sha256(table.grad.numpy().tobytes()).hexdigest())
print(len(found))
"""


def test_gradients_of_indexed_rows_have_the_same_bits_each_time(tmp_path: Path) -> None:
    done = python("-c", PROBE, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "1"


def test_the_process_is_left_as_it_was() -> None:
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
        torch.is_anomaly_enabled(),
    )
    with repeatable(True):
        assert torch.are_deterministic_algorithms_enabled() and not torch.utils.deterministic.fill_uninitialized_memory
    with repeatable(False):
        assert torch.are_deterministic_algorithms_enabled() == before[0]
    after = (
        torch.are_deterministic_algorithms_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
        torch.is_anomaly_enabled(),
    )
    assert after == before
