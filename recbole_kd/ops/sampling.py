"""Random draws without loops over rows: ranks of a list, and items outside a set.

No RecBole import.

``R`` rows are queries. A draw takes every random number from its ``generator``, on the device of its tensors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from recbole_kd.ops import compiled
from recbole_kd.ops.ragged import Ragged
from recbole_kd.ops.threads import in_halves, n_threads

RANDOM_BITS = 24
"""A uniform float32 number is a multiple of 2**-24."""

KEYS_FOR_TWO = 2**18
"""A second thread pays from a choice among so many numbers."""

ROWS_AT_A_TIME = 2**13
"""Rows of large tables that are worked on at a time."""

LARGE = 2**62
"""Integers are drawn below this bound and reduced by a remainder: the bias is below 1e-13."""


def reach(tau: float) -> int:
    """Return a bound on :func:`draw_positions`: ranks beyond it have probability < 2**-24."""
    return math.ceil(tau * RANDOM_BITS * math.log(2)) + 1


def draw_positions(lengths: Tensor, n: int, tau: float, generator: torch.Generator) -> Tensor:
    r"""Draw ranks with replacement: :math:`P(k) \propto e^{-k/\tau}, k = 0..length-1`.

    It inverts the distribution function of the truncated geometric distribution, so every row may have its own length.

    Args:
        lengths: int64 ``[R]``, >= 1 if the ranks of the row are used. n: ranks a row.

    Returns:
        int64 ``[R, n]``.
    """
    uniform = torch.rand(len(lengths), n, generator=generator, device=lengths.device)
    last = (lengths - 1).clamp(min=0).unsqueeze(1)
    whole = -torch.expm1(-lengths.clamp(min=1).to(uniform.dtype) / tau).unsqueeze(1)
    return torch.minimum((-tau * torch.log1p(-uniform * whole)).long(), last)


def draw_unequal_positions(lengths: Tensor, n: int, tau: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw pairs of two different ranks, each as in :func:`draw_positions`.

    Pairs of equal ranks are drawn again.

    Args:
        lengths: int64 ``[R]``; a row shorter than 2 does not have a pair and gets zeros.

    Returns:
        the better (smaller) and the worse rank, int64 ``[R, n]`` each.
    """
    pairs = torch.zeros(2, len(lengths), n, dtype=torch.int64, device=lengths.device)
    equal = (lengths >= 2).unsqueeze(1).expand(-1, n).nonzero()
    while len(equal):
        row, column = equal.unbind(1)
        drawn = draw_positions(lengths[row], 2, tau, generator)
        pairs[:, row, column] = drawn.T
        equal = equal[drawn[:, 0] == drawn[:, 1]]
    return pairs.amin(0), pairs.amax(0)


def first_distinct(drawn: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Return the first n different values of each row, in their order.

    Args:
        drawn: int64 ``[R, m]``.

    Returns:
        int64 ``[R, n]``, -1 after the last value of a row with fewer, and the number found (at most n), int64 ``[R]``.
    """
    fast = compiled.first_distinct(drawn, n)
    if fast is not None:
        return fast
    ordered, places = drawn.sort(dim=1, stable=True)
    again = torch.zeros_like(drawn, dtype=torch.bool)
    again.scatter_(1, places[:, 1:], ordered[:, 1:] == ordered[:, :-1])
    number = (~again).cumsum(1)
    row, column = (~again & (number <= n)).nonzero().unbind(1)
    found = torch.full((len(drawn), n), -1, dtype=torch.int64, device=drawn.device)
    found[row, number[row, column] - 1] = drawn[row, column]
    return found, number[:, -1].clamp(max=n)


def log_weight_of_better(lengths: Tensor, width: int, tau: float) -> Tensor:
    """Return the log-probability that a rank is the better of two draws, float ``[R, width]``.

    The draws are those of :func:`draw_positions`; the logs are exact up to a constant. With q = exp(-1/tau) and m ranks
    from k to the end they are log(q^(2k) (1 + q - 2 q^m)); -inf beyond the length of a row.
    """
    place = torch.arange(width, device=lengths.device)
    left = (lengths.unsqueeze(1) - place).clamp(min=1).to(torch.float32)
    weight = -torch.expm1(-left / tau) - math.exp(-1 / tau) * torch.expm1(-(left - 1) / tau)
    logs = weight.log() - 2 * place / tau
    return logs.masked_fill_(place >= lengths.unsqueeze(1), -torch.inf)


def draw_better_positions(lengths: Tensor, n: int, tau: float, generator: torch.Generator) -> Tensor:
    """Draw n different ranks a row, each the better of two draws (sampling of CD).

    The draws are those of :func:`draw_positions`. A few more than n are made; if they hold fewer than n different
    ranks, Gumbel noise completes the row. The distribution is the same: the next rank is chosen in proportion to its
    weight among the ranks that are not taken.

    Args:
        lengths: int64 ``[R]``.

    Returns:
        int64 ``[R, n]``, -1 if a list is shorter than n.
    """
    n_drawn = 2 * n + 2
    drawn = draw_positions(lengths, 2 * n_drawn, tau, generator).view(len(lengths), n_drawn, 2).amin(2)
    found, count = first_distinct(drawn, n)
    found[lengths == 0] = -1
    short = (count < torch.clamp(lengths, max=n)).nonzero().squeeze(1)
    width = int(lengths[short].max()) if len(short) else 0
    for rows in short.split(max(1, 2**22 // max(width, 1))):
        weights = log_weight_of_better(lengths[rows], max(width, n), tau)
        known = found[rows]
        row, column = (known >= 0).nonzero().unbind(1)
        weights[row, known[row, column]] = torch.inf  # Gumbel noise cannot change these: they stay chosen
        chosen = sample_without_replacement(weights, n, generator)
        found[rows] = chosen.masked_fill(weights.gather(1, chosen) == -torch.inf, -1)
    return found


def distinct_below(limits: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Draw n different integers a row, uniform in [0, limit), without replacement.

    Args:
        limits: int64 ``[R]``.

    Returns:
        int64 ``[R, n]``, -1 if the limit is smaller than n.
    """
    found = torch.full((len(limits), n), -1, dtype=torch.int64, device=limits.device)
    if n == 0:
        return found
    narrow = limits < 4 * n
    few = narrow.nonzero().squeeze(1)
    if len(few):
        noise = torch.rand(len(few), 4 * n, generator=generator, device=limits.device)
        noise.masked_fill_(torch.arange(4 * n, device=limits.device) >= limits[few].unsqueeze(1), 2.0)
        values, places = noise.topk(n, dim=1, largest=False)
        found[few] = places.masked_fill_(values == 2.0, -1)
    todo = (~narrow).nonzero().squeeze(1)
    while len(todo):
        n_drawn = n + 16 + n * n // int(limits[todo].min())
        drawn = torch.randint(LARGE, (len(todo), n_drawn), generator=generator, device=limits.device)
        drawn.remainder_(limits[todo].unsqueeze(1))
        numbers, count = first_distinct(drawn, n)
        done = count == n  # by symmetry, drawing a row again does not favour any number
        found[todo[done]] = numbers[done]
        todo = todo[~done]
    return found


class Outside:
    """The items outside a query's set, numbered by id: uniform draws without rejection.

    No mask is needed. The r-th item outside a sorted set e_0 < e_1 < ... is r + #{j: e_j - j <= r}: one binary search
    in the numbers e_j - j of the query, which are kept as int32.

    Args:
        excluded: the sets, by query. n_items: the size of the catalogue with the pad item, which is never drawn.
        listed: integers ``[n_queries, n]``, ids that are added to the sets, 0 for none.
    """

    def __init__(self, excluded: Ragged, n_items: int, listed: Tensor | None = None) -> None:
        counts, most = excluded.counts(), len(excluded.items) + (0 if listed is None else listed.numel())
        self.keys = torch.zeros(most + 1, dtype=torch.int32, device=excluded.items.device)  # one behind the last set
        at = 0
        for rows in _row_blocks(len(counts), counts.device):
            position, items = excluded.pairs(rows)
            if listed is not None:
                position, items = _with_listed(position, items, listed[rows], n_items)
                counts[rows] = torch.bincount(position, minlength=len(rows))
            own = counts[rows]
            place = torch.arange(len(items), device=items.device) - (own.cumsum(0) - own)[position]
            self.keys[at : at + len(items)] = items - 1 - place
            at += len(items)
        self.starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        self.keys = self.keys[: at + 1]
        self._steps = int(counts.max()).bit_length() if len(counts) else 0
        self.room = (n_items - 1) - counts
        """Number of items outside, int64 ``[n_queries]``."""

    def item(self, queries: Tensor, numbers: Tensor) -> Tensor:
        """Return the ids of the given numbers; 0 for a negative number.

        Args:
            queries: int64 ``[R]``. numbers: int64 ``[R, n]``.

        Returns:
            int64 ``[R, n]``.
        """
        found = compiled.items_outside(self.keys, self.starts, queries, numbers)
        if found is not None:
            return found
        first = self.starts[queries].unsqueeze(1)
        low, high = first.expand_as(numbers), self.starts[queries + 1].unsqueeze(1).expand_as(numbers)
        for _ in range(self._steps):  # a fixed number of steps, because asking for the end would wait for a device
            middle = (low + high) // 2
            above = (low < high) & (self.keys[middle] <= numbers)
            low, high = torch.where(above, middle + 1, low), torch.where(above, high, middle)
        return (numbers + 1 + low - first).masked_fill_(numbers < 0, 0)

    def draw(self, queries: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """Draw n uniform items a query, with replacement.

        Returns:
            int64 ``[R, n]``; 0 for a query without any item outside.
        """
        room = self.room[queries].unsqueeze(1)
        numbers = torch.randint(LARGE, (len(queries), n), generator=generator, device=queries.device).remainder_(
            room.clamp(min=1)
        )
        return self.item(queries, numbers.masked_fill_(room == 0, -1))

    def draw_distinct(self, queries: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """Draw n different uniform items a query.

        Returns:
            int64 ``[R, n]``; 0 fills a row if fewer items are outside.
        """
        return self.item(queries, distinct_below(self.room[queries], n, generator))


def _with_listed(position: Tensor, items: Tensor, listed: Tensor, n_items: int) -> tuple[Tensor, Tensor]:
    """Return the distinct (row, item) pairs of some sets and a table, sorted: two int64 ``[n]``.

    Args:
        position, items: int64 ``[m]``, the pairs of the sets. listed: integers ``[R, n]``, 0 for none.
    """
    place, column = (listed > 0).nonzero().unbind(1)
    keys = torch.unique(torch.cat([position * n_items + items, place * n_items + listed[place, column]]))
    return keys // n_items, keys % n_items


def _row_blocks(n: int, device: torch.device) -> Iterator[Tensor]:
    """Yield the numbers of the rows of each block, int64."""
    for first in range(0, n, ROWS_AT_A_TIME):
        yield torch.arange(first, min(first + ROWS_AT_A_TIME, n), device=device)


def sample_without_replacement(log_weights: Tensor, n: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw n distinct columns a row with probability proportional to ``exp(log_weights)``.

    Gumbel top-n: add independent Gumbel noise to the log-weights and keep the n largest. This is exactly successive
    sampling without replacement, in log space.

    Args:
        log_weights: float ``[B, m]``; ``-inf`` means never.
        n: columns a row, at most m.
        generator: source of randomness, on the tensor's device.

    Returns:
        int64 ``[B, n]`` column indices in the order of drawing.
    """
    keys = torch.empty_like(log_weights).exponential_(generator=generator).log_().neg_().add_(log_weights)
    if keys.device.type != "cpu" or n_threads() == 1 or keys.numel() < KEYS_FOR_TWO:
        return _highest(keys, n)
    found = torch.empty(len(keys), n, dtype=torch.int64)

    def choose(rows: slice) -> None:
        found[rows] = _highest(keys[rows], n)

    in_halves(choose, len(keys), True)
    return found


def _highest(keys: Tensor, n: int) -> Tensor:
    """Return the columns of the n highest keys of each row, int64 ``[B, n]``."""
    found = compiled.top_k(keys, n)
    return keys.topk(n, dim=-1).indices if found is None else found[0]
