#!/usr/bin/env python
"""Train HSTU on Beauty under one setting and print validation NDCG@10 by epoch.

It makes the trials of results/hstu-beauty.md. The last item of each user, which is the test, is never read. All other
items are ranked, the history too, as in the sequential setting of `recbole-kd run`.

Example: `python scripts/hstu_beauty.py Beauty.txt --loss=full_softmax --input_dropout=0.5 --linear_dropout=0.5`
"""

from __future__ import annotations

import argparse
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm
from torch.nn.utils.rnn import pad_sequence

# The script also runs from a checkout that is not installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from recbole_kd.model.full_softmax import full_softmax
from recbole_kd.model.hstu_encoder import NORM_EPS, HSTUEncoder, HSTUSizes
from recbole_kd.model.sampled_softmax import UniformNegatives, sampled_softmax

TOP = 10
USERS_PER_BLOCK = 512
MAX_LENGTH = 50


@dataclass(frozen=True)
class Histories:
    """Histories with the item after each.

    Attributes:
        items: int64 ``[U, L + 1]``, right padded: the history, then the target.
        lengths: int64 ``[U]``, of the history.
    """

    items: Tensor
    lengths: Tensor

    @classmethod
    def of(cls, sequences: list[list[int]], without: int) -> Histories:
        """Take all but the ``without`` latest items of each user, of which the last is the target."""
        kept = [sequence[: len(sequence) - without][-(MAX_LENGTH + 1) :] for sequence in sequences]
        items = pad_sequence([torch.tensor(row) for row in kept], batch_first=True)
        return cls(items, torch.tensor([len(row) - 1 for row in kept]))

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return histories ``[B, W]``, lengths ``[B]`` and ``[B, W + 1]`` with the targets, all int64."""
        lengths = self.lengths[rows]
        with_target = self.items[rows, : int(lengths.max()) + 1]
        row = torch.arange(len(rows))
        history = with_target.index_put((row, lengths), torch.tensor(0))
        return history[:, :-1], lengths, with_target


class Model(nn.Module):
    """The encoder with one of two scores.

    They are a cosine, or a dot product of a normalised query and the item's own vector.

    Args:
        n_items: number of items with the pad.
        given: arguments of the command line.
    """

    def __init__(self, n_items: int, given: argparse.Namespace) -> None:
        super().__init__()
        width = given.embedding_size // given.n_heads
        dropouts = (given.input_dropout, given.linear_dropout)
        sizes = HSTUSizes(MAX_LENGTH, given.embedding_size, given.n_layers, given.n_heads, width, width, *dropouts)
        self.encoder, self.given = HSTUEncoder(n_items, sizes), given

    def vectors(self) -> Tensor:
        """Return item vectors, float ``[n_items, d]``."""
        return self.encoder.item_vectors() if self.given.score == "cosine" else self.encoder.item_embedding.weight

    def query(self, positions: Tensor) -> Tensor:
        """Return the query of each position's unit vector, float ``[P, d]``."""
        return positions if self.given.score == "cosine" else layer_norm(positions, positions.shape[-1:], eps=NORM_EPS)

    def loss(self, histories: Tensor, lengths: Tensor, with_target: Tensor) -> Tensor:
        """Return the mean loss over the positions, float ``[]``."""
        encoded = self.encoder(histories, lengths)
        following = with_target[encoded.layout.row, encoded.layout.column + 1]
        queries, items, temperature = self.query(encoded.positions), self.vectors(), self.given.temperature
        if self.given.loss == "full_softmax":
            return full_softmax(queries, items, following, temperature)
        drawn = UniformNegatives(len(items), self.given.n_negatives, items.device)
        return sampled_softmax(queries, items, following, drawn, temperature)


@torch.no_grad()
def ndcg(model: Model, data: Histories) -> float:
    """Return NDCG@10 with all items ranked."""
    model.eval()
    items, total = model.vectors(), 0.0
    for rows in torch.arange(len(data.lengths)).split(USERS_PER_BLOCK):
        histories, lengths, with_target = data.batch(rows)
        scores = model.query(model.encoder(histories, lengths).last()) @ items.T
        scores[:, 0] = -torch.inf
        target = with_target.gather(1, lengths.unsqueeze(1))
        ranks = (scores > scores.gather(1, target)).sum(1)
        total += float((1 / torch.log2(ranks[ranks < TOP] + 2.0)).sum())
    return total / len(data.lengths)


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser, with the defaults of properties/model/HSTU.yaml."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("file", type=Path, help="Beauty.txt: a user and the items in order on each line")
    made.add_argument("--loss", choices=("full_softmax", "sampled_softmax"), default="full_softmax")
    made.add_argument("--score", choices=("cosine", "dot"), default="cosine")
    for name, value in (("n_negatives", 128), ("embedding_size", 64), ("n_layers", 2), ("n_heads", 2)):
        made.add_argument(f"--{name}", type=int, default=value)
    for name, value in (("train_batch_size", 128), ("epochs", 40), ("every", 2), ("seed", 0)):
        made.add_argument(f"--{name}", type=int, default=value)
    for name, number in (("temperature", 0.05), ("input_dropout", 0.2), ("linear_dropout", 0.2)):
        made.add_argument(f"--{name}", type=float, default=number)
    for name, number in (("learning_rate", 1e-3), ("weight_decay", 0.0)):
        made.add_argument(f"--{name}", type=float, default=number)
    return made


def main() -> int:
    """Train and print a line an epoch."""
    given = parser().parse_args()
    np.random.seed(given.seed)
    torch.manual_seed(given.seed)
    lines = given.file.read_text(encoding="utf-8").splitlines()
    sequences = [[int(item) for item in line.split()[1:]] for line in lines]
    model = Model(max(map(max, sequences)) + 1, given)
    train, valid = Histories.of(sequences, without=2), Histories.of(sequences, without=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=given.learning_rate, weight_decay=given.weight_decay)
    for epoch in range(1, given.epochs + 1):
        model.train()
        losses = []
        for rows in torch.randperm(len(sequences)).split(given.train_batch_size):
            optimizer.zero_grad()
            loss = model.loss(*train.batch(rows))
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        found = f"{ndcg(model, valid):.4f}" if epoch % given.every == 0 or epoch == given.epochs else ""
        used = resource.getrusage(resource.RUSAGE_SELF)
        minutes = (used.ru_utime + used.ru_stime) / 60
        print(f"epoch {epoch} loss {np.mean(losses):.4f} valid {found} CPU minutes {minutes:.1f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
