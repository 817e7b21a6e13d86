"""The choice of ``kd_weight=auto`` on validation, by trial trainings.

The best trial becomes the training. The grid is centred where the ratio of gradient norms at the first batch is the
method's
:attr:`~recbole_kd.distiller.base.Distiller.weight_ratio`; see :mod:`recbole_kd.training.weight_trials` for the halving.
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

from recbole_kd.config.schema import AUTO_WEIGHT
from recbole_kd.distiller.registry import distiller_class
from recbole_kd.errors import ConfigError, DivergedError, KDError, LostProcessError, StorageError, TrainingError
from recbole_kd.pipeline.training_entries import RunContext
from recbole_kd.pipeline.verdict import short
from recbole_kd.storage.cache import WORK, remove_folder
from recbole_kd.storage.files import write_json
from recbole_kd.storage.json_files import read_json
from recbole_kd.storage.screen_log import show
from recbole_kd.teacher.base import TeacherScores
from recbole_kd.training.pretraining import stages_of
from recbole_kd.training.resume_state import StateFile
from recbole_kd.training.training_job import TrainingFiles, TrainingJob
from recbole_kd.training.weight_trials import FEWEST_UNITS, Ladder, grid_of, ladder, ranked, shortest

RECORD = "search.json"
"""File of the scores measured so far, in the folder of the trials."""


def check_auto_weight(config: Any, assistant: Any | None) -> None:
    """Refuse ``kd_weight=auto`` where no trial trainings are possible, before anything is trained.

    Args:
        config: Config of the distilled student.
        assistant: Config of its assistant, if the method has one.

    Raises:
        ConfigError: one sentence with the reason.
    """
    if config["kd_weight"] != AUTO_WEIGHT:
        return
    if int(config["nproc"] or 1) > 1:
        raise _refused(f"with nproc={config['nproc']}", "take nproc=1")
    if config["max_minutes"] is not None:
        raise _refused(f"with max_minutes={config['max_minutes']}, which may end the training early", "set epochs")
    if len(stages_of(config)) > 1:
        raise _refused(f"with {config['model']}, which every trial would train in advance", "take another student")
    if assistant is not None and assistant["kd_weight"] == AUTO_WEIGHT:
        raise _refused(f"with kd={config['kd']}, whose assistant has this weight too", "set kd_assistant_weight")
    _ladder_of(config)


def _refused(why: str, fix: str) -> ConfigError:
    return ConfigError(f"kd_weight={AUTO_WEIGHT} is not possible {why}: {fix}, or give a number")


def _ladder_of(config: Any) -> Ladder:
    """Return the trials of a Config.

    Raises:
        ConfigError: its training is too short for them.
    """
    epochs, patience = int(config["epochs"]), int(config["stopping_step"])
    every = min(int(config["eval_step"]), epochs)
    if every < 1:
        raise _refused("without validation", "set epochs and eval_step to at least 1")
    unit = math.lcm(every, int(config["kd_refresh"]))
    found = ladder(shortest(epochs, patience, every), unit)
    if found is None:
        raise _refused(
            f"with epochs={epochs}, stopping_step={patience}, eval_step={config['eval_step']} and "
            f"kd_refresh={config['kd_refresh']}, too few epochs for trial trainings",
            f"raise epochs and stopping_step until min(epochs, (stopping_step + 2) * eval_step) is at least "
            f"{2 * FEWEST_UNITS * unit}",
        )
    return found


def train_with_chosen_weight(
    job: TrainingJob, context: RunContext, teacher: TeacherScores, entry: Path
) -> tuple[nn.Module, dict[str, Any]]:
    """Choose the weight by trials and continue the best one to the end.

    Args:
        job: the training with ``kd_weight=auto``. Its Config has the chosen weight afterwards.
        context: the run.
        teacher: the teacher's scores.
        entry: the cache entry of the distillation.

    Returns:
        the model, and its metrics with ``kd_weight_search``.
    """
    with _trial_folder(entry, context.resume) as work:
        search, config, files = WeightSearch(job.config, context, teacher, work).choose()
        files = replace(files, checkpoint=job.files.checkpoint)
        model, figures = replace(job, config=config, files=files, resume=True).train()
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

    def choose(self) -> tuple[dict[str, Any], Any, TrainingFiles]:
        """Train the trials and return the outcome, and Config and files of the one to continue.

        Raises:
            ConfigError: the ratio of gradient norms cannot be measured.
            DivergedError: every trial diverged.
            TrainingError: the record of an interrupted search is damaged.
        """
        plan, bigger = _ladder_of(self.config), bool(self.config["valid_metric_bigger"])
        self.measured = self._read_record()
        if not self.measured:
            self.measured = {**self._centre(), "scores": []}
            self.measured["grid"] = grid_of(self.measured["centre"], plan.factors)
            self._write_record()
        grid: list[float] = self.measured["grid"]
        show(
            f"      kd_weight=auto: gradient ratio {self.measured['grad_ratio']:.2g} at weight 1, wanted "
            f"{self.measured['weight_ratio']:g}; trying {_listed(grid)}"
        )
        going = list(range(len(grid)))
        last: dict[int, tuple[float | None, int]] = {}
        for number, rung in enumerate(plan.rungs):
            scores = {trial: self._score(number, trial, rung.epochs) for trial in going}
            last |= {trial: (score, rung.epochs) for trial, score in scores.items()}
            alive = [trial for trial in ranked(scores, plan.factors, bigger) if scores[trial] is not None]
            if not alive:
                raise DivergedError(
                    f"Every trial of kd_weight=auto diverged ({_listed(grid)}): lower learning_rate, or set "
                    "clip_grad_norm={'max_norm': 1.0}"
                )
            going = sorted(alive[: rung.kept])
            self._show_rung(rung.epochs, scores, going)
            for trial in scores.keys() - set(going):
                self._forget(trial)
        (best,) = going
        return self._outcome(best, last), self._config_of(grid[best]), self._files(best)

    def _outcome(self, best: int, last: Mapping[int, tuple[float | None, int]]) -> dict[str, Any]:
        """Return ``kd_weight_search`` of result.json.

        A trial that diverged has no score, and at most the epochs that are given.
        """
        grid = self.measured["grid"]
        return {
            "grid": grid,
            "scores": [last[trial][0] for trial in range(len(grid))],
            "epochs": [last[trial][1] for trial in range(len(grid))],
            "choice": grid[best],
            "at_end": best in (0, len(grid) - 1),
            **{key: self.measured[key] for key in ("grad_ratio", "weight_ratio")},
        }

    def _centre(self) -> dict[str, float]:
        """Return the measured ratio, the wanted one, and the weight that gives it."""
        files = TrainingFiles.in_folder(self.work / "measured", self.work / "measured" / "scalars")
        ratio = self._job(self._config_of(1.0), files).first_gradient_ratio()
        wanted = distiller_class(self.config["kd"]).weight_ratio
        if not (math.isfinite(ratio) and ratio > 0 and math.isfinite(wanted / ratio)):
            raise _refused(f"with kd={self.config['kd']} here: the ratio of gradient norms is {ratio:g}", "tune it")
        return {"grad_ratio": ratio, "weight_ratio": wanted, "centre": wanted / ratio}

    def _score(self, rung: int, trial: int, epochs: int) -> float | None:
        """Return the best validation score of a trial at the end of a rung, None if it diverged."""
        scores: list[dict[str, float | None]] = self.measured["scores"]
        if len(scores) <= rung:
            scores.append({})
        if str(trial) not in scores[rung]:
            try:
                job = self._job(self._config_of(self.measured["grid"][trial]), self._files(trial))
                scores[rung][str(trial)] = job.advance(epochs)
            except DivergedError:
                scores[rung][str(trial)] = None
            self._write_record()
        return scores[rung][str(trial)]

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

    def _show_rung(self, epochs: int, scores: Mapping[int, float | None], going: list[int]) -> None:
        grid, metric = self.measured["grid"], self.config["valid_metric"]
        words = [f"{grid[t]:g} {'diverged' if score is None else short(score)}" for t, score in scores.items()]
        show(
            f"      kd_weight: valid {metric} after {epochs} epoch{'s' if epochs != 1 else ''}: {', '.join(words)}; "
            f"going on with {_listed([grid[trial] for trial in going])}"
        )

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


def _listed(weights: list[float]) -> str:
    return ", ".join(f"{weight:g}" for weight in weights)
