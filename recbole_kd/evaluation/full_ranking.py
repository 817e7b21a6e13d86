"""Full-ranking evaluation with RecBole's metrics, under RecBole's protocol or the paper's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.utils import EvaluatorType, set_color
from torch import Tensor
from tqdm import tqdm

from recbole_kd.config.property_layers import public_name
from recbole_kd.data.paper_protocol import FULL_ONLY
from recbole_kd.distributed.row_sharding import Sharing
from recbole_kd.errors import ConfigError
from recbole_kd.evaluation.loader_items import items_of_rows, items_of_users, over_all_users, rows_of
from recbole_kd.integration.safe_load import load_checkpoint
from recbole_kd.ops.topk import DotProducts, top_k_in_blocks
from recbole_kd.scoring.finite_scores import check_products, check_scores, not_finite
from recbole_kd.scoring.own_scores import (
    OwnScores,
    catalogue_size,
    ranks_whole_catalogue,
    rows_as_given,
    scored_in_calls,
)
from recbole_kd.scoring.row_costs import RowCost
from recbole_kd.scoring.scorer import Scorer
from recbole_kd.scoring.vector_models import has_vectors
from recbole_kd.storage.screen_log import show

USER_MEANS = frozenset({"recall", "ndcg", "hit", "mrr", "precision", "map"})
"""Metrics of RecBole that are means over users, so that they can be rescaled to a mean over all users."""

LONG_EVALUATION = 60
"""An evaluation that takes more seconds is announced."""

QUERIES_PER_TICK = 4096
"""Users between two updates of the progress bar."""


def check_protocol(config: Any) -> None:
    """Refuse evaluation settings that ``eval_protocol: paper`` does not define (ConfigError).

    These are sampled catalogues and metrics that are not means over users.
    """
    if config["eval_protocol"] != "paper":
        return
    if any(mode != "full" for mode in _modes(config["eval_args"]["mode"])):
        raise ConfigError(FULL_ONLY)
    for name in config["metrics"]:
        if name.lower() not in USER_MEANS:
            raise ConfigError(
                f"eval_protocol=paper has no mean over all users for {name}: choose metrics among {sorted(USER_MEANS)}"
            )


def _modes(mode: Any) -> list[str]:
    """Return RecBole's evaluation modes, which are given as one word or one per phase."""
    return [str(word) for word in mode.values()] if isinstance(mode, dict) else [str(mode)]


Evaluate = Callable[[Any, bool, str | None, bool], Any]
"""``evaluate`` of a RecBole trainer: (loader, load_best_model, model_file, show_progress) -> metrics."""


class FullRanking:
    """The evaluation of a RecBole trainer's model.

    The trainer calls it and passes RecBole's own method for what is not done here. Models whose score is a dot product
    are ranked in blocks that stay in the cache (RecBole uses one matrix per batch, a mask of the same size and a sort).
    All others are ranked by RecBole's own loop. The metrics are RecBole's in both cases. ``eval_protocol: paper``
    averages over all users and counts only a strictly better validation score as an improvement. RecBole also counts a
    tie.

    Args:
        trainer: RecBole's Trainer, or a subclass.
        sharing: how ranks that train together divide the users. None ranks all of them here.
    """

    def __init__(self, trainer: Any, sharing: Sharing | None = None) -> None:
        self.trainer, self.sharing = trainer, sharing
        self._n_queries, self._time_is_said = 0, False

    @property
    def config(self) -> Any:
        """The trainer's Config."""
        return self.trainer.config

    @property
    def model(self) -> Any:
        """The model that is evaluated."""
        return self.trainer.model

    def evaluate(
        self,
        recboles: Evaluate,
        eval_data: Any,
        load_best_model: bool = True,
        model_file: str | None = None,
        show_progress: bool = False,
    ) -> Any:
        """Return the metrics of a loader, like the trainer's ``evaluate``.

        Args:
            recboles: RecBole's own ``evaluate`` of the trainer.
            eval_data, load_best_model, model_file, show_progress: see there.

        Raises:
            ConfigError: the loader does not follow ``eval_protocol``.
        """
        self._check_protocol(eval_data)
        self._n_queries = (
            len(eval_data._dataset) if eval_data.is_sequential else len(getattr(eval_data, "uid_list", ()))
        )
        if not self.ranks_vectors(eval_data):
            return self._over_all_users(recboles(eval_data, load_best_model, model_file, show_progress), eval_data)
        if load_best_model:
            self._load_best(model_file or self.trainer.saved_model_file)
        self.model.eval()
        self._rank(eval_data, show_progress)
        result = self._over_all_users(
            self.trainer.evaluator.evaluate(self.trainer.eval_collector.get_data_struct()), eval_data
        )
        self.trainer.wandblogger.log_eval_metrics(result, head="eval")
        return result

    def valid_epoch(
        self, recboles: Callable[..., Any], valid_data: Any, show_progress: bool = False
    ) -> tuple[float, Any]:
        """Return score and metrics of a validation, like the trainer's ``_valid_epoch``.

        Under the paper's protocol a tie is made slightly worse, so that it is not an improvement.
        """
        score, result = recboles(valid_data, show_progress)
        if self.config["eval_protocol"] == "paper" and score == self.trainer.best_valid_score:
            score = float(np.nextafter(score, -np.inf if self.trainer.valid_metric_bigger else np.inf))
        return score, result

    def _check_protocol(self, eval_data: Any) -> None:
        if self.config["eval_protocol"] == "paper" and eval_data and not hasattr(eval_data, "all_users"):
            raise ConfigError(
                "eval_protocol=paper needs loaders that leave out training items only: make them with "
                "recbole_kd.data.split_and_loaders.make_loaders, or set eval_protocol=recbole"
            )

    def _over_all_users(self, result: Any, eval_data: Any) -> Any:
        """Rescale means over the loader's users to means over all users, if it is marked so."""
        if getattr(eval_data, "all_users", None) is not None and result is not None:
            check_protocol(self.config)
        return over_all_users(result, eval_data)

    # -- scores that are not finite -----------------------------------------------------------------------------------

    def full_sort_batch(self, recboles: Callable[[Any], Any], batched_data: Any) -> Any:
        """Return a batch's scores at all items, refused if they are not finite.

        This wraps the trainer's ``_full_sort_batch_eval``.
        """
        if not ranks_whole_catalogue(type(self.model)):
            self._say_how_long(batched_data[0])
        with scored_in_calls(self.model):
            found = recboles(batched_data)
        history = batched_data[1]
        check_scores(found[1], [] if history is None else [history], self._name())
        return found

    def sampled_batch(self, recboles: Callable[[Any], Any], batched_data: Any) -> Any:
        """Return a batch's scores at sampled items, refused if they are not finite.

        This wraps the trainer's ``_neg_sample_batch_eval``.
        """
        cost = self._pair_cost(batched_data[0])
        self.trainer.test_batch_size = min(self.trainer.test_batch_size, cost.rows_per_call(differentiable=False))
        found = recboles(batched_data)
        rows, scores = batched_data[1], found[1]
        if self.config["eval_type"] == EvaluatorType.RANKING:
            scores = scores[rows, found[0][self.config["ITEM_ID_FIELD"]]]
        if not bool(torch.isfinite(scores).all()):
            raise not_finite(self._name(), "ranked")
        return found

    def _pair_cost(self, rows: Any) -> RowCost:
        """Return what one pair of these rows and items costs the model."""
        on_device = rows.to(self.trainer.device)
        queries = torch.arange(len(rows), device=self.trainer.device)
        return OwnScores(self.model, None, rows_as_given(on_device)).cost("pairs", queries)

    def _say_how_long(self, rows: Any) -> None:
        """Log once how long an evaluation of a model takes that scores pair by pair, if it is long."""
        if self._time_is_said:
            return
        self._time_is_said = True
        n_items = catalogue_size(self.model)
        seconds = self._pair_cost(rows).seconds * n_items * self._n_queries
        if seconds > LONG_EVALUATION:
            show(
                f"{self._name()} scores one pair of a user and an item at a time: an evaluation of {self._n_queries} "
                f"users and {n_items} items takes about {seconds / 60:.0f} minutes. eval_step=5 evaluates in every "
                "fifth epoch only"
            )

    def _name(self) -> str:
        return public_name(type(self.model).__name__)

    # -- dot-product models -------------------------------------------------------------------------------------------

    def ranks_vectors(self, eval_data: Any) -> bool:
        """Return whether this loader is ranked here, in blocks of dot products."""
        if not isinstance(eval_data, FullSortEvalDataLoader) or not self.config["single_spec"]:
            return False
        if eval_data.is_sequential and rows_of(eval_data) is None:
            return False
        needs = {
            key
            for key, value in vars(self.trainer.eval_collector.register).items()
            if key.startswith(("rec.", "data.")) and value
        }
        return needs == {"rec.topk"} and has_vectors(type(self.model))

    def _load_best(self, path: str) -> None:
        # Mapped, because most of the file is the optimiser's moments, which are not read.
        checkpoint = load_checkpoint(path, self.trainer.device, mmap=True)
        self.model.load_state_dict(checkpoint["state_dict"])
        other = checkpoint.get("other_parameter") or {}
        self.model.load_other_parameter(
            {key: value.clone() if torch.is_tensor(value) else value for key, value in other.items()}
        )
        self.trainer.logger.info(f"Loading model structure and parameters from {path}")

    def _rank(self, eval_data: Any, show_progress: bool) -> None:
        """Rank every user or row of the loader and fill RecBole's metric collector."""
        rows, k = rows_of(eval_data), max(self.config["topk"])
        users = eval_data.uid_list if rows is None else torch.arange(len(rows))
        names, device = ("uid2history_item", "uid2positive_item"), self.trainer.device
        history, positives = (
            items_of_rows(eval_data, rows, device)
            if rows
            else tuple(items_of_users(eval_data, name, device) for name in names)
        )
        scorer, found = Scorer(self.model, rows), []
        with scorer.frozen():
            own_users = users if self.sharing is None else users[self.sharing.slice_of(len(users))]
            queries, items = scorer.tables_for(own_users.to(self.trainer.device))
            check_products(queries[own_users.to(self.trainer.device)], items[1:], self._name())
            full = DotProducts(queries, items)
            for some in _in_turns(own_users, show_progress):
                at = some.to(self.trainer.device)
                ids, _ = top_k_in_blocks(full, at, scorer.n_items, k, history)
                hits = positives.contains(at, ids).int()
                counts = positives.counts()[at].int().unsqueeze(1)
                found.append(torch.cat([hits, counts], dim=1))
        own = torch.cat(found) if found else torch.empty(0, k + 1, dtype=torch.int32, device=self.trainer.device)
        found_of_all = own if self.sharing is None else self.sharing.gather(own, len(users))
        self.trainer.eval_collector.data_struct.update_tensor("rec.topk", found_of_all)


def evaluate_by_full_ranking(trainer: Any) -> None:
    """Make one of RecBole's own trainer instances evaluate by a :class:`FullRanking`."""
    ranking = FullRanking(trainer)
    for name, ours in (
        ("evaluate", ranking.evaluate),
        ("_valid_epoch", ranking.valid_epoch),
        ("_full_sort_batch_eval", ranking.full_sort_batch),
        ("_neg_sample_batch_eval", ranking.sampled_batch),
    ):
        setattr(trainer, name, partial(ours, getattr(trainer, name)))


def _in_turns(users: Tensor, show_progress: bool) -> Iterator[Tensor]:
    turns = users.split(QUERIES_PER_TICK)
    yield from (
        tqdm(turns, ncols=100, desc=set_color("Evaluate   ", "pink")) if show_progress and len(turns) > 1 else turns
    )
