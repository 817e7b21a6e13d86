"""The initial weights of a run's student (``init_from``), with and without a teacher."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from recbole_kd.data.histories.sequence_dataset import stage_parts
from recbole_kd.data.split_and_loaders import Splits
from recbole_kd.model.build_model import fresh_model
from recbole_kd.serving.earlier_student import EarlierStudent, read_earlier_student

DIGEST = "init_from_digest"
"""Key of a Config with the digest of the initial weights, which distinguishes trainings."""


@dataclass(frozen=True)
class StudentStart:
    """An earlier student and its overlap with this run's data.

    Attributes:
        earlier: the student.
        matches: path, digest, and counts of known and new users and items.
    """

    earlier: EarlierStudent
    matches: dict[str, Any]

    def __call__(self, model: nn.Module, dataset: Any) -> None:
        """Load the initial weights into a new model on the data set."""
        self.earlier.give(model, *_ids(dataset))


def _ids(dataset: Any) -> tuple[Sequence[object], Sequence[object]]:
    return dataset.field2id_token[dataset.uid_field], dataset.field2id_token[dataset.iid_field]


def student_start(path: str | None, splits: Splits, configs: Sequence[Any]) -> StudentStart | None:
    """Return the checked initial weights and record their digest in the students' Configs.

    Without a path, return None.

    Raises:
        StudentError: there is no student, or it is damaged.
        ConfigError: it does not fit the run's student.
    """
    if path is None:
        return None
    earlier = read_earlier_student(path)
    start = StudentStart(earlier, earlier.matches(*_ids(splits.dataset)))
    for config in configs:
        trial = copy.copy(config)  # building a model writes into its Config
        trial.final_config_dict = copy.deepcopy(config.final_config_dict)
        model = fresh_model(trial, stage_parts(trial, splits.parts)[0])
        earlier.check(model, config.final_config_dict)
        start(model, splits.dataset)
        config[DIGEST] = earlier.digest
    return start
