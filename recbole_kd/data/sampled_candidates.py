"""Candidates of sampled evaluation (``uniN``, ``popN``), equal for all models and epochs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from recbole.sampler import RepeatableSampler, Sampler
from torch import Tensor

PHASES = ("train", "valid", "test")


@dataclass(frozen=True)
class CandidateRule:
    """The rule by which a run draws candidates, the same for all its models.

    Attributes:
        seed: seed of the draws, that of the split.
        repeatable: True excludes only a row's own item, False all items that the user has interacted with up to the
            phase. RecBole sets True for a sequential model; a run uses the value of its student for all models.
    """

    seed: int
    repeatable: bool

    @classmethod
    def of(cls, config: Any, seed: int) -> CandidateRule:
        """Return the rule of a run whose student has this Config."""
        return cls(int(seed), bool(config["repeatable"]))

    def sampler(self, config: Any, phase: str, dataset: Any, parts: Sequence[Any]) -> FixedCandidates | None:
        """Return the sampler of a phase, or None if the phase does not draw candidates.

        Args:
            config: Config of any model of the run. dataset: the data set before the split.
            parts: (train, valid, test) of the run, not of a model.
        """
        arguments = config[f"{phase}_neg_sample_args"]
        if arguments["distribution"] == "none" or arguments["sample_num"] == "none":
            return None
        kind: Any = RepeatableSampler if self.repeatable else Sampler
        plain = kind(list(PHASES), dataset if self.repeatable else list(parts), arguments["distribution"])
        return FixedCandidates(plain.set_phase(phase), self.seed)


def samples_candidates(eval_args: Mapping[str, Any]) -> bool:
    """Test whether validation or test ranks a sample of the items."""
    mode = eval_args["mode"]
    return any(
        str(word).startswith(("uni", "pop")) for word in (mode.values() if isinstance(mode, Mapping) else [mode])
    )


class FixedCandidates:
    """A RecBole sampler that always draws the same items for a user.

    Each user has an own generator. So the draws do not depend on the order or size of batches, nor on worker processes;
    the state of numpy's global generator is restored.
    """

    def __init__(self, plain: Any, seed: int) -> None:
        self.plain, self.seed = plain, seed

    def __getattr__(self, name: str) -> Any:
        if name == "plain":  # not set yet while an instance is unpickled
            raise AttributeError(name)
        return getattr(self.plain, name)

    def sample_by_user_ids(self, user_ids: Any, item_ids: Any, num: int) -> Tensor:
        """Return int64 ``[len(user_ids) * num]`` as RecBole's sampler does, one user at a time."""
        with _numpy_seeded([self.seed, PHASES.index(self.plain.phase), int(np.asarray(user_ids)[0])]):
            found: Tensor = self.plain.sample_by_user_ids(user_ids, item_ids, num)
        return found


@contextmanager
def _numpy_seeded(words: list[int]) -> Iterator[None]:
    before = np.random.get_state()
    np.random.seed(np.random.SeedSequence(words).generate_state(4))
    try:
        yield
    finally:
        np.random.set_state(before)
