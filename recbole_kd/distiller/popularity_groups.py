"""The popularity groups of UnKD."""

from __future__ import annotations

from torch import Tensor


def popularity_groups(popularity: Tensor, n_groups: int) -> list[Tensor]:
    """Cut the items, most popular first, into groups of about equal total popularity.

    A group is closed before it exceeds the average. An item above the average is a group by itself. The remaining items
    form one more group, or join the last group if their total is at most half the average. So there may be more or
    fewer groups than asked for. Items without interactions are in no group. Equally popular items are in the order of
    their ids (in the published code, of their first appearance).

    Args:
        popularity: int64 ``[n_items]``, training interactions of each item.
        n_groups: number of groups asked for.

    Returns:
        item ids of each group, int64.
    """
    ordered = popularity.sort(descending=True, stable=True)
    items, counts = ordered.indices[ordered.values > 0], ordered.values[ordered.values > 0]
    if not len(items):
        return []
    total, average = counts.cumsum(0), float(counts.sum()) / n_groups
    starts = [0]
    while True:
        before = int(total[starts[-1]] - counts[starts[-1]])
        end = max(int((total - before <= average).sum()), starts[-1] + 1)
        if end >= len(items):
            break
        starts.append(end)
    left = int(total[-1] - total[starts[-1]] + counts[starts[-1]])
    if len(starts) > 1 and left <= average / 2:
        starts.pop()
    return [items[start:end] for start, end in zip(starts, [*starts[1:], len(items)], strict=True)]


def group_sizes(popularity: list[Tensor], n: int, lamda: float) -> list[int]:
    """Return how many of n pairs each group gets.

    Let a_g be the mean popularity of group g. Its share is max a + min a - a_g, normalised, rounded to 2 digits, raised
    to at least 0.1, to the power of ``lamda``, and normalised again. Shares of n are rounded. The pairs that are then
    missing go to the first groups, one each.
    """
    means = [float(counts.double().mean()) for counts in popularity]
    raw = [max(means) + min(means) - mean for mean in means] if means else []
    powers = [max(round(share / sum(raw), 2), 0.1) ** lamda for share in raw]
    sizes = [round(power / sum(powers) * n) for power in powers]
    missing = n - sum(sizes)
    return [size + (place < missing) for place, size in enumerate(sizes)]
