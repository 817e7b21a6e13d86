"""Tables and interactions of a training loop without RecBole."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from recbole_kd.ops.ragged import Ragged

N_USERS, N_ITEMS, WIDTH = 13, 31, 5


def interactions() -> Ragged:
    draw = np.random.default_rng(0)
    rows = np.repeat(np.arange(1, N_USERS), 4)
    return Ragged.from_pairs(rows, draw.integers(1, N_ITEMS, len(rows)), N_USERS)


def student() -> tuple[nn.Embedding, nn.Embedding]:
    torch.manual_seed(0)
    return nn.Embedding(N_USERS, WIDTH), nn.Embedding(N_ITEMS, WIDTH)


def batch() -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    queries = torch.randint(1, N_USERS, (20,), generator=draw)
    return queries, *(torch.randint(1, N_ITEMS, (20,), generator=draw) for _ in range(2))
