"""Revisions of our own code: a change of what a training comes to is written here, so that the cache does not serve what was before it."""

from __future__ import annotations

from recbole.model.general_recommender import LightGCN
from recbole.model.sequential_recommender import GRU4Rec, SASRec
from recbole.utils import get_trainer

from recbole_kd.model.bm3 import BM3
from recbole_kd.model.hstu import HSTU, HSTUGeneral
from recbole_kd.model.mf import MF

TRAINER = "KDTrainer"
"""The name under which :data:`REVISIONS` has the base training of KDTrainer: its loss, steps and loaders, of all models that it trains."""

REVISIONS: dict[str, int] = {
    MF.__name__: 1,
    HSTU.__name__: 1,
    HSTUGeneral.__name__: 1,
    BM3.__name__: 1,
    LightGCN.__name__: 1,
    SASRec.__name__: 1,
    GRU4Rec.__name__: 1,
    TRAINER: 1,
}
"""Raise a number when its code comes to other trained weights.

A line is a model of ours, one of RecBole's in which recbole_kd.acceleration replaces parts, or the trainer.
tests/pipeline/test_revisions.py has a
small training of each pinned, and fails until the number is raised."""


def revisions_of(kind: type) -> dict[str, int]:
    """Return the revisions that a training of a model class depends on, as far as they are above 1: name -> revision.

    The first revision is not named, so that models which were kept before revisions counted are still found. A class
    counts with all those of the table that it is derived from.
    """
    names = [part.__name__ for part in kind.__mro__ if part.__module__.partition(".")[0] in ("recbole", "recbole_kd")]
    if get_trainer(getattr(kind, "type", None), kind.__name__).__name__ == "Trainer":
        names.append(TRAINER)
    return {name: REVISIONS[name] for name in names if REVISIONS.get(name, 1) > 1}
