"""Revisions of our code, so that the cache does not return models of older training code."""

from __future__ import annotations

from recbole.model.general_recommender import LightGCN
from recbole.model.sequential_recommender import GRU4Rec, SASRec
from recbole.utils import get_trainer

from recbole_kd.model.bm3 import BM3
from recbole_kd.model.hstu import HSTU, HSTUGeneral
from recbole_kd.model.mf import MF
from recbole_kd.training.pretraining import STAGES

TRAINER = "KDTrainer"
"""Name in :data:`REVISIONS` of KDTrainer's base training: its loss, steps and loaders, for all models that it
trains."""

STAGES_REVISION = 2
"""Revision of the training of models with pre-training stages (:mod:`recbole_kd.training.pretraining`).

Revision 1 ended with the first stage."""

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
"""Raise a number when its code leads to other trained weights.

An entry is a model of ours, a model of RecBole in which recbole_kd.acceleration replaces parts, or the trainer.
tests/pipeline/test_revisions.py pins a small training of each, and fails until the number is raised."""


def revisions_of(kind: type) -> dict[str, int]:
    """Return name -> revision for the revisions above 1 that a training depends on.

    Revision 1 is not named, so that models cached before there were revisions are still found. A model class also
    depends on the entries of its base classes.
    """
    names = [part.__name__ for part in kind.__mro__ if part.__module__.partition(".")[0] in ("recbole", "recbole_kd")]
    if get_trainer(getattr(kind, "type", None), kind.__name__).__name__ == "Trainer":
        names.append(TRAINER)
    found = {name: REVISIONS[name] for name in names if REVISIONS.get(name, 1) > 1}
    return {**found, "stages": STAGES_REVISION} if kind.__name__ in STAGES else found
