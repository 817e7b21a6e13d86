"""RecBole's objective of a search, which reports validation metrics here."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_logger, init_seed

from recbole_kd.config.argument_kinds import KEYS, PATHS, YES_OR_NO, takes
from recbole_kd.integration.quick_start import report_by_name
from recbole_kd.integration.recbole_config import refusals_said


@takes(config_dict=KEYS.or_none(), config_file_list=PATHS.or_none(), saved=YES_OR_NO)
def objective_function(
    config_dict: Mapping[str, Any] | None = None, config_file_list: Sequence[str] | None = None, saved: bool = True
) -> dict[str, Any]:
    """Train and evaluate one configuration and report its validation metrics.

    It replaces RecBole's ``objective_function`` in HyperTuning, in ``ray.tune`` and in RecBole's run_hyper.py. It
    reports ``<metric>@<k>`` of the best epoch by validation to Ray Tune, and also ``test_<metric>@<k>``. RecBole's own
    function reports the test metrics under the first name. HyperTuning chooses by ``best_valid_score`` with either
    function.

    Args:
        config_dict: the keys of this trial.
        config_file_list: YAML files.
        saved: keep and evaluate the best epoch.

    Returns:
        ``model``, ``best_valid_score``, ``valid_score_bigger``, ``best_valid_result`` and ``test_result``.

    Raises:
        KDError: a wrong key or value. The message is one sentence.
    """
    from ray import tune

    with refusals_said("of this trial"):
        config = Config(config_dict=dict(config_dict or {}), config_file_list=config_file_list)
    init_seed(config["seed"], config["reproducibility"])
    logger = logging.getLogger()
    for handler in logger.handlers[:]:  # RecBole adds its own handler in each trial
        logger.removeHandler(handler)
    init_logger(config)
    dataset = create_dataset(config)
    train_data, valid_data, test_data = data_preparation(config, dataset)
    init_seed(config["seed"], config["reproducibility"])
    model = get_model(config["model"])(config, train_data._dataset).to(config["device"])
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    best_valid_score, best_valid_result = trainer.fit(train_data, valid_data, verbose=False, saved=saved)
    test_result = trainer.evaluate(test_data, load_best_model=saved)
    report_by_name(tune, {**best_valid_result, **{f"test_{name}": value for name, value in test_result.items()}})
    return {
        "model": config["model"],
        "best_valid_score": best_valid_score,
        "valid_score_bigger": config["valid_metric_bigger"],
        "best_valid_result": best_valid_result,
        "test_result": test_result,
    }
