"""The choice of ``kd_weight=auto`` on validation, by trial trainings.

The best trial becomes the training. The grid is centred where the ratio of gradient norms at the first batch is the
method's :attr:`~recbole_kd.distiller.base.Distiller.weight_ratio`; see :mod:`recbole_kd.training.weight_trials` for the
halving. Under a teacher that is no better than the student alone the smallest weight of the grid is taken without
trials, because every larger one can only cost.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from recbole_kd.distiller.registry import distiller_class
from recbole_kd.errors import ConfigError, DivergedError, KDError, LostProcessError, StorageError, TrainingError
from recbole_kd.pipeline.training_entries import RunContext
from recbole_kd.pipeline.verdict import short
from recbole_kd.pipeline.weight_checks import length_of, refused
from recbole_kd.storage.cache import WORK, remove_folder
from recbole_kd.storage.files import write_json
from recbole_kd.storage.json_files import read_json
from recbole_kd.storage.screen_log import show
from recbole_kd.teacher.base import TeacherScores
from recbole_kd.training.resume_state import StateFile
from recbole_kd.training.training_job import TrainingFiles, TrainingJob
from recbole_kd.training.weight_trials import Halving, Score, grid_of

RECORD = "search.json"
"""File of the scores measured so far, in the folder of the trials."""


@dataclass(frozen=True)
class Prospect:
    """The knowledge about the weight of the KD loss before its search.

    Attributes:
        worthwhile: False takes the smallest weight without trials.
        fallback: number to take if no centre of the grid can be measured; None raises the error.
    """

    worthwhile: bool = True
    fallback: float | None = None


class _NoCentreError(ConfigError):
    """The KD loss has no gradient at the first batch, or one that is not finite."""


def train_with_chosen_weight(
    job: TrainingJob, context: RunContext, teacher: TeacherScores, entry: Path, prospect: Prospect
) -> tuple[nn.Module, dict[str, Any]] | None:
    """Choose the weight by trials and continue the best one to the end.

    Args:
        job: the training with ``kd_weight=auto``. Its Config has the chosen weight afterwards.
        context: the run.
        teacher: the teacher's scores.
        entry: the cache entry of the distillation.
        prospect: what is known before.

    Returns:
        the model, and its metrics with ``kd_weight_search``. None if the number to fall back on is taken, with which
        nothing is trained yet.
    """
    try:
        with _trial_folder(entry, context.resume) as work:
            search, config, files = WeightSearch(job.config, context, teacher, work).choose(prospect.worthwhile)
            files = replace(files, checkpoint=job.files.checkpoint)
            model, figures = replace(job, config=config, files=files, resume=True).train()
    except _NoCentreError as error:
        if prospect.fallback is None:
            raise
        job.config["kd_weight"] = prospect.fallback
        show(f"      {error}; taking the general default, {prospect.fallback:g}")
        return None
    search["epochs"][search["grid"].index(search["choice"])] = figures["epochs"]
    job.config["kd_weight"] = search["choice"]
    return model, {**figures, "kd_weight_search": search}


@contextmanager
def _trial_folder(entry: Path, resume: bool) -> Iterator[Path]:
    """Yield the folder of the trials of a distillation.

    An interrupted run keeps it for ``resume``. A finished or failed one removes it.

    Args:
        entry: the cache entry of the distillation.
        resume: use what an interrupted run left.
    """
    work = entry.with_name(entry.name + WORK)
    if not resume:
        remove_folder(work)
    try:
        yield work
    except (LostProcessError, StorageError):
        raise
    except KDError:
        remove_folder(work)
        raise
    remove_folder(work)


@dataclass
class WeightSearch:
    """The trial trainings of one distillation.

    Attributes:
        config: Config of the student, with ``kd_weight=auto``. It is not changed.
        context: the run.
        teacher: the teacher's scores.
        work: folder of the trials, which :func:`train_with_chosen_weight` makes.
        measured: ratio, grid and scores so far, as in the record.
    """

    config: Any
    context: RunContext
    teacher: TeacherScores
    work: Path
    measured: dict[str, Any] = field(default_factory=dict)

    def choose(self, worthwhile: bool = True) -> tuple[dict[str, Any], Any, TrainingFiles]:
        """Train the trials and return the outcome, and Config and files of the one to continue.

        Args:
            worthwhile: False takes the smallest weight without trials.

        Raises:
            ConfigError: the ratio of gradient norms cannot be measured.
            DivergedError: every trial diverged.
            TrainingError: the record of an interrupted search is damaged.
        """
        self.measured = self._read_record()
        if not self.measured:
            self.measured = {**self._centre(), "scores": []}
            self.measured["grid"] = grid_of(self.measured["centre"])
            self._write_record()
        halving = Halving(length_of(self.config), bool(self.config["valid_metric_bigger"]))
        grid: list[float] = self.measured["grid"]
        about = (
            f"      kd_weight=auto: gradient ratio {self.measured['grad_ratio']:.2g} at weight 1, wanted "
            f"{self.measured['weight_ratio']:g}"
        )
        if not worthwhile:
            show(f"{about}; the teacher is not better by more than 1 %: taking the smallest weight, {grid[0]:g}")
            halving.going = [0]
        else:
            show(f"{about}; trying {self._listed(halving.going)}")
        rung = 0
        while halving.chosen is None:
            trials = list(halving.going)
            found = {place: self._score(rung, place, halving.target) for place in trials}
            epochs, rung = halving.target, rung + 1
            halving.report(found)
            if not halving.going:
                raise DivergedError(
                    f"Every trial of kd_weight=auto diverged ({self._listed(trials)}): lower learning_rate, or set "
                    "clip_grad_norm={'max_norm': 1.0}"
                )
            self._show_rung(epochs, found, halving.going)
            for place in set(trials) - set(halving.going):
                self._forget(place)
        best = halving.chosen
        return self._outcome(best, halving, worthwhile), self._config_of(grid[best]), self._files(best)

    def _outcome(self, best: int, halving: Halving, worthwhile: bool) -> dict[str, Any]:
        """Return ``kd_weight_search`` of result.json.

        A weight that was not tried has no score and no epochs. A trial that diverged has no score, and at most the
        epochs that are given.
        """
        grid = self.measured["grid"]
        last = {place: scores[-1] for place, scores in halving.scores.items()}
        tried = sorted(last) or list(range(len(grid)))
        return {
            "grid": grid,
            "scores": [None if (score := last.get(place)) is None else score.value for place in range(len(grid))],
            "epochs": [halving.epochs.get(place, 0) for place in range(len(grid))],
            "choice": grid[best],
            "at_end": best in (tried[0], tried[-1]),
            "worthwhile": worthwhile,
            **{key: self.measured[key] for key in ("grad_ratio", "weight_ratio")},
        }

    def _centre(self) -> dict[str, float]:
        """Return the measured ratio, the wanted one, and the weight that gives it (or _NoCentreError)."""
        files = TrainingFiles.in_folder(self.work / "measured", self.work / "measured" / "scalars")
        ratio = self._job(self._config_of(1.0), files).first_gradient_ratio()
        wanted = distiller_class(self.config["kd"]).weight_ratio
        if not (math.isfinite(ratio) and ratio > 0 and math.isfinite(wanted / ratio)):
            why = f"with kd={self.config['kd']} here: the ratio of gradient norms is {ratio:g}"
            raise _NoCentreError(str(refused(why, "tune it")))
        return {"grad_ratio": ratio, "weight_ratio": wanted, "centre": wanted / ratio}

    def _score(self, rung: int, place: int, epochs: int) -> Score | None:
        """Return the best validation score of a trial at the end of a rung, None if it diverged."""
        rungs: list[dict[str, list[Any] | None]] = self.measured["scores"]
        if len(rungs) <= rung:
            rungs.append({})
        if str(place) not in rungs[rung]:
            try:
                job = self._job(self._config_of(self.measured["grid"][place]), self._files(place))
                rungs[rung][str(place)] = list(job.advance(epochs))
            except DivergedError:
                rungs[rung][str(place)] = None
            self._write_record()
        found = rungs[rung][str(place)]
        return None if found is None else Score(*found)

    def _job(self, config: Any, files: TrainingFiles) -> TrainingJob:
        return TrainingJob(
            config,
            self.context.splits,
            files,
            resume=True,
            teacher=self.teacher,
            progress=self.context.progress,
            start=self.context.start,
        )

    def _config_of(self, weight: float) -> Any:
        config = copy.copy(self.config)  # a training writes into its Config
        config.final_config_dict = {**copy.deepcopy(self.config.final_config_dict), "kd_weight": weight}
        return config

    def _files(self, trial: int) -> TrainingFiles:
        weight = self.measured["grid"][trial]
        scalars = self.context.folder / "tensorboard" / f"kd_weight={weight:g}"
        return TrainingFiles(self.work / f"trial-{trial}.pth", scalars, self.work / f"trial-{trial}.pt")

    def _forget(self, trial: int) -> None:
        files = self._files(trial)
        StateFile(files.state).remove()
        files.checkpoint.unlink(missing_ok=True)

    def _show_rung(self, epochs: int, scores: Mapping[int, Score | None], going: list[int]) -> None:
        grid, metric = self.measured["grid"], self.config["valid_metric"]
        words = [f"{grid[t]:g} {'diverged' if score is None else short(score.value)}" for t, score in scores.items()]
        show(
            f"      kd_weight: valid {metric} after {epochs} epoch{'s' if epochs != 1 else ''}: {', '.join(words)}; "
            f"going on with {self._listed(going)}"
        )

    def _listed(self, places: list[int]) -> str:
        return ", ".join(f"{self.measured['grid'][place]:g}" for place in places)

    def _read_record(self) -> dict[str, Any]:
        """Return what an interrupted search measured; empty if there is none."""
        path = self.work / RECORD
        if not path.is_file():
            return {}
        try:
            record: dict[str, Any] = read_json(path)
            if not {"grad_ratio", "weight_ratio", "grid", "scores"} <= record.keys():
                raise ValueError("it lacks keys")
        except (ValueError, OSError, AttributeError) as error:
            raise TrainingError(
                f"{path} cannot be continued from ({error}): delete its folder, or run with --resume=False"
            ) from None
        return record

    def _write_record(self) -> None:
        self.work.mkdir(parents=True, exist_ok=True)
        write_json(self.work / RECORD, self.measured)
