"""Random settings of a search space, to be tried one by one outside a study."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from recbole_kd.storage.digests import settings_digest
from recbole_kd.tuning.ray_space import domain_of
from recbole_kd.tuning.space import Parameter, Space

TRIES = 50
"""Draws per setting, at most: a small space may have fewer, and the data may refuse most of a large one."""


def draw_settings(
    space: Space, kd: str, count: int, seed: int, accepts: Callable[[Mapping[str, Any]], bool]
) -> list[dict[str, Any]]:
    """Return distinct settings of a method, drawn at random from a space.

    Args:
        space: a space that does not search the method.
        kd: the method.
        count: number of settings; fewer are returned if the space has no more.
        seed: seed of the draws.
        accepts: returns whether a run would accept these settings.
    """
    found: list[dict[str, Any]] = []
    for settings in _distinct(_draws(space.parameters, kd, count * TRIES, seed), space, kd):
        if len(found) == count:
            break
        if accepts(settings):
            found.append(settings)
    return found


def without_keys(space: Space, keys: Iterable[str]) -> Space:
    """Return a space that neither searches nor sets some keys."""
    left_out = set(keys)
    fixed = {key: value for key, value in space.fixed.items() if key not in left_out}
    return Space([parameter for parameter in space.parameters if parameter.key not in left_out], fixed)


def _draws(parameters: list[Parameter], kd: str, count: int, seed: int) -> Iterator[dict[str, Any]]:
    generator = np.random.default_rng(seed)
    domains = {p.name: domain_of(p) for p in parameters if p.method in (None, kd)}
    for _ in range(count):
        yield {name: domain.sample(random_state=generator) for name, domain in domains.items()}


def _distinct(draws: Iterable[Mapping[str, Any]], space: Space, kd: str) -> Iterator[dict[str, Any]]:
    """Settings of the draws, each once."""
    seen: set[str] = set()
    for drawn in draws:
        settings = space.settings(drawn, kd)
        digest = settings_digest(settings)
        if digest not in seen:
            seen.add(digest)
            yield settings
