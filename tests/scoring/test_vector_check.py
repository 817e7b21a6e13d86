"""Every model that is said to score by dot products does so; vectors that do not give the scores are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from recbole.model.general_recommender import BPR
from recbole.utils import init_seed

import recbole_kd
from recbole_kd.data.histories.sequence_dataset import universe_of
from recbole_kd.errors import ConfigError
from recbole_kd.scoring.scorer import Scorer
from recbole_kd.scoring.vector_check import check_vectors
from recbole_kd.scoring.vector_models import ENCODERS, vectors
from tests.support.helpers import TinyData, build_case, scorer_of, write_tiny

GENERAL = ("DGCF", "ENMF", "LINE", "LightGCN", "MF", "NCEPLRec", "NCL", "NGCF", "SGL", "SimpleX", "SpectralCF")
SEQUENTIAL = tuple(sorted(kind.__name__ for kind in ENCODERS if kind.__name__ not in ("HSTUGeneral", "SimpleX")))
ITEMS = {"load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "class"]}}
OF_MODEL: dict[str, dict[str, Any]] = {
    **{name: {**ITEMS, "selected_features": ["class"]} for name in ("FDSA", "GRU4RecF", "SASRecF")},
    "S3Rec": {**ITEMS, "item_attribute": "class"},
    "NCL": {"num_clusters": 5},
    "DGCF": {"train_batch_size": 32},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TinyData:
    """The tiny data set with a column of item classes."""
    made = write_tiny(tmp_path_factory.mktemp("classes"), "tiny")
    lines = "".join(f"i{item}\tc{item % 3} c{item % 4}\n" for item in range(40))
    (Path(made.data_path) / "tiny" / "tiny.item").write_text("item_id:token\tclass:token_seq\n" + lines)
    return made


@pytest.mark.parametrize("name", [*GENERAL, *SEQUENTIAL])
def test_the_dot_products_are_the_scores(data: TinyData, name: str) -> None:
    if name == "NCL":
        pytest.importorskip("faiss")
    case = build_case(data, name, **OF_MODEL.get(name, {}))
    with torch.no_grad():
        for parameter in case.model.parameters():  # scores of the size that training gives them
            parameter.mul_(3)
    scorer = Scorer(case.model, universe_of(case.loaders.train))
    assert scorer.has_vectors
    check_vectors(scorer)


def test_every_registered_model_is_tested() -> None:
    registered = {kind.__name__ for kind in vectors.registry if kind is not object}
    assert registered - {"BPR", "BM3"} <= {*GENERAL, "HSTU"} and registered > {"DGCF", "NCL"}


def test_vectors_that_are_not_the_scores_are_refused(data: TinyData, own_models: None) -> None:
    class Halved(BPR):
        """Scores half of what its vectors say."""

        def full_sort_predict(self, interaction: Any) -> torch.Tensor:
            return super().full_sort_predict(interaction) / 2

    recbole_kd.register_model(Halved, vectors=lambda model: (model.user_embedding.weight, model.item_embedding.weight))
    case = build_case(data, "Halved")
    with pytest.raises(ConfigError, match="The scores of Halved are not the dot products of its vectors"):
        check_vectors(Scorer(case.model))


@pytest.mark.parametrize("name", ["FEARec", "SASRec", "CORE"])
def test_a_loss_that_encodes_twice_is_the_models_own_in_a_step(data: TinyData, name: str) -> None:
    """FEARec's contrastive loss compares two encodings of the same rows with different dropout."""
    case = build_case(data, name, **({"n_layers": 2} if name == "FEARec" else {}))
    scorer = scorer_of(case)
    batch = next(iter(case.loaders.train))
    found = []
    for within in (False, True):
        init_seed(11, True)
        case.model.train()
        if within:
            with scorer.step(batch):
                found.append(case.model.calculate_loss(batch))
        else:
            found.append(case.model.calculate_loss(batch))
    assert torch.equal(found[0], found[1])


def test_a_score_that_is_nan_on_one_side_alone_is_a_difference(data: TinyData) -> None:
    case = build_case(data, "MF")
    plain = case.model.full_sort_predict

    def with_nan(interaction: Any) -> Any:
        scores = plain(interaction).clone()
        scores[3] = torch.nan
        return scores

    case.model.full_sort_predict = with_nan
    with pytest.raises(ConfigError, match="differ by up to inf"):
        check_vectors(Scorer(case.model))
