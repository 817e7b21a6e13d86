"""BM3: equal to the public code on its weights, and a RecBole model like any other."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole.data import create_dataset
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_kd.data.item_features.aligned import ItemFeatures
from recbole_kd.data.item_features.text_encoders import ENCODERS
from recbole_kd.data.split_and_loaders import split_data
from recbole_kd.errors import DataError
from recbole_kd.model import bm3
from recbole_kd.model.bm3 import BM3
from recbole_kd.model.bm3_loss import View, bm3_loss
from recbole_kd.scoring.scorer import Scorer
from recbole_kd.training.training_job import TrainingFiles, TrainingJob
from tests.support import paths
from tests.support.helpers import Case, TinyData, build_config, build_model, write_tiny
from tests.support.multimodal import featured

REFERENCE = json.loads((paths.REFERENCE / "bm3.json").read_text())
CASES = range(len(REFERENCE["cases"]))


def write_data(folder: Path, features: dict[str, Any]) -> TinyData:
    """The fixture's pairs as an atomic file; tokens are its row numbers."""
    (folder / "pub").mkdir()
    rows = [f"{u}\t{i}\t{n}" for n, (u, i) in enumerate(REFERENCE["pairs"])]
    (folder / "pub" / "pub.inter").write_text(
        "\n".join(["user_id:token\titem_id:token\ttimestamp:float", *rows]) + "\n"
    )
    for name, values in features.items():
        np.save(folder / "pub" / f"{name}.npy", np.asarray(values, dtype=np.float32))
    return TinyData(str(folder), "pub")


def ids_of(dataset: Any, field: str, n: int) -> Tensor:
    """RecBole's id of each of the fixture's ids."""
    known = dataset.field2token_id[field]
    return torch.tensor([known[str(number)] for number in range(n)])


def from_reference(case: dict[str, Any], folder: Path, freeze: bool) -> tuple[BM3, Tensor, Tensor]:
    """Our model with the published weights, and our ids of its users and items."""
    names = {"visual": "image", "text": "text"}
    tables = {ours: case["weights"].get(f"{theirs}_embedding.weight") for ours, theirs in names.items()}
    tables = {name: values for name, values in tables.items() if values}
    data = write_data(folder, tables)
    settings = {key: case[key] for key in ("n_layers", "reg_weight", "cl_weight")}
    config = build_config(
        data, "BM3", **settings, dropout_prob=case["dropout"], embedding_size=4, freeze_features=freeze,
        item_features={name: f"{name}.npy" for name in tables},
        eval_args={"split": {"RS": [1.0, 0.0, 0.0]}, "order": "TO", "mode": "full"},
    )  # fmt: skip
    dataset = create_dataset(config)
    model = BM3(config, dataset)
    users, items = (
        ids_of(dataset, field, REFERENCE[n]) for field, n in (("user_id", "n_users"), ("item_id", "n_items"))
    )
    published = {name: torch.tensor(values) for name, values in case["weights"].items()}
    with torch.no_grad():
        model.user_embedding.weight[users] = published["user_embedding.weight"]
        model.item_embedding.weight[items] = published["item_id_embedding.weight"]
        model.predictor.load_state_dict({"weight": published["predictor.weight"], "bias": published["predictor.bias"]})
        for name in tables:
            prefix = names[name]
            linear = {key: published[f"{prefix}_trs.{key}"] for key in ("weight", "bias")}
            model.projections[f"of_{name}"].load_state_dict(linear)
    return model, users, items


class Masks:
    """Dropout by the masks that the published run drew.

    By the order of calls there, users and items, then text, then visual.
    """

    def __init__(self, case: dict[str, Any], model: BM3, users: Tensor, items: Tensor, batch_items: Tensor) -> None:
        masks = [torch.tensor(mask) for mask in case["masks"]]
        of_users = torch.zeros(model.n_users, 4).index_copy(0, users, masks[0])
        of_items = [torch.zeros(model.n_items, 4).index_copy(0, items, mask) for mask in masks[1:]]
        distinct = torch.unique(batch_items)
        in_order = ["text", "visual"] if len(masks) == 4 else list(model.modalities)
        of_modality = dict(zip(in_order, of_items[1:], strict=True))
        self.queue = [of_users, of_items[0], *(of_modality[name][distinct] for name in model.modalities)]

    def __call__(self, vectors: Tensor) -> Tensor:
        return vectors.detach() * self.queue.pop(0)


@pytest.mark.parametrize("freeze", [False, True])
@pytest.mark.parametrize("place", CASES)
def test_losses_propagation_scores_and_gradients_are_those_of_the_public_code(
    place: int, freeze: bool, tmp_path: Path, monkeypatch: Any
) -> None:
    case = REFERENCE["cases"][place]
    model, users, items = from_reference(case, tmp_path, freeze)
    batch_users, batch_items = users[torch.tensor(case["users"])], items[torch.tensor(case["items"])]
    monkeypatch.setattr(model, "_dropped", Masks(case, model, users, items, batch_items))
    model.train()
    loss = model.calculate_loss(Interaction({"user_id": batch_users, "item_id": batch_items}))
    assert float(loss.detach()) == pytest.approx(case["loss"], abs=1e-5)
    loss.backward()
    with torch.no_grad():
        hu, hi = model.forward()
        assert torch.allclose(hu[users], torch.tensor(case["propagated_users"]), atol=1e-5)
        assert torch.allclose(hi[items], torch.tensor(case["propagated_items"]), atol=1e-5)
        scores = model.full_sort_predict(Interaction({"user_id": users})).view(len(users), -1)[:, items]
    assert torch.allclose(scores, torch.tensor(case["scores"]), atol=1e-5)
    theirs = {
        "user_embedding.weight": (model.user_embedding.weight, users),
        "item_id_embedding.weight": (model.item_embedding.weight, items),
    }
    for name, (weight, rows) in theirs.items():
        assert weight.grad is not None
        assert torch.allclose(weight.grad[rows], torch.tensor(case["gradients"][name]), atol=1e-5), name
    assert torch.allclose(model.predictor.weight.grad, torch.tensor(case["gradients"]["predictor.weight"]), atol=1e-5)
    for ours, prefix in (("visual", "image"), ("text", "text")):
        if ours in model.modalities:
            assert torch.allclose(
                model.projections[f"of_{ours}"].weight.grad,
                torch.tensor(case["gradients"][f"{prefix}_trs.weight"]),
                atol=1e-5,
            )
            if not freeze:
                found = model.tables[f"of_{ours}"].grad[items]
                assert torch.allclose(found, torch.tensor(case["gradients"][f"{prefix}_embedding.weight"]), atol=1e-5)
    assert len(model.tables) == (0 if freeze else len(model.modalities))


@pytest.fixture
def own_dataset(tmp_path: Path) -> TinyData:
    """A data set of the test's own, whose folder it may fill."""
    return write_tiny(tmp_path, "own")


# -- as a RecBole model
# --------------------------------------------------------------------------------------------------


def test_scorer_predict_and_full_sort_agree(own_dataset: TinyData) -> None:
    case = featured(own_dataset)
    users = torch.arange(1, 6)
    scorer = Scorer(case.model)
    assert scorer.has_vectors
    full = scorer.full(users)
    assert torch.allclose(case.model.full_sort_predict(Interaction({"user_id": users})).view(5, -1), full, atol=1e-6)
    pairs = Interaction({"user_id": users, "item_id": torch.arange(3, 8)})
    assert torch.allclose(case.model.predict(pairs), full[torch.arange(5), torch.arange(3, 8)], atol=1e-6)
    assert torch.allclose(scorer.at(users, torch.arange(3, 8).expand(5, 5)), full[:, 3:8], atol=1e-6)


def test_the_loss_falls_and_features_are_trained_unless_frozen(own_dataset: TinyData, tmp_path: Path) -> None:
    for freeze in (False, True):
        case = featured(own_dataset, freeze_features=freeze, epochs=4)
        before = {name: table.detach().clone() for name, table in case.model.tables.items()}
        model, figures = TrainingJob(
            case.config, case.splits, TrainingFiles.in_folder(tmp_path / f"w{freeze}", tmp_path / f"s{freeze}")
        ).train()
        assert figures["epochs"] == 4 and 0 <= figures["test"]["ndcg@10"] <= 1
        names = set(model.state_dict())
        assert ("tables.of_visual" in names) is not freeze
        if not freeze:
            assert not torch.equal(model.tables["of_visual"].detach(), before["of_visual"])
        first, last = (float(build_loss(m, case)) for m in (build_model(case.config, case.splits), model))
        assert last < first


def build_loss(model: Any, case: Case) -> Tensor:
    batch = next(iter(case.loaders.train))
    model.eval()
    with torch.no_grad():
        return model.calculate_loss(batch)


def test_modality_vectors_are_means_of_the_training_items(own_dataset: TinyData) -> None:
    case = featured(own_dataset)
    model = case.model
    vectors = model.modality_vectors()
    assert list(vectors) == ["visual", "text"]
    users, items = vectors["text"]
    inter = case.splits.parts[0].inter_feat
    own = inter["item_id"][inter["user_id"] == 3]
    with torch.no_grad():
        expected = model.predictor(model.project("text", own).mean(dim=0))
        assert torch.allclose(users[3], expected, atol=1e-5)
        assert torch.allclose(items[own], model.predictor(model.project("text", own)), atol=1e-6)


def test_an_item_that_a_user_has_twice_counts_once(own_dataset: TinyData) -> None:
    case = featured(own_dataset)
    part = copy.copy(case.splits.parts[0])
    part.inter_feat = part.inter_feat[
        torch.cat([torch.arange(len(part.inter_feat)), torch.zeros(3, dtype=torch.int64)])
    ]
    doubled = BM3(case.config, part)
    doubled.load_state_dict(case.model.state_dict())
    torch.testing.assert_close(doubled.modality_vectors()["text"], case.model.modality_vectors()["text"])


def test_any_number_of_modalities_and_a_missing_one(own_dataset: TinyData) -> None:
    one = featured(own_dataset, item_features={"text": "text.npy"})
    assert one.model.modalities == ["text"]
    with pytest.raises(DataError, match=r"own\.item does not exist to make them from: give item_features="):
        featured(own_dataset, item_features=None)


# -- targets and features ----------------------------------------------------------------------------------------------


def views_of(case: Case, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, View], Interaction]:
    """What one batch hands the loss, by the name of the view; items come twice."""
    kept: dict[str, View] = {}

    def record(user: View, item: View, modalities: dict[str, View], cl_weight: float) -> Tensor:
        kept.update({"user": user, "item": item, **modalities})
        return bm3_loss(user, item, modalities, cl_weight)

    monkeypatch.setattr(bm3, "bm3_loss", record)
    batch = Interaction({"user_id": torch.arange(1, 29), "item_id": torch.arange(1, 15).repeat(2)})
    case.model.calculate_loss(batch)
    return kept, batch


def whole_vectors(model: BM3, batch: Interaction) -> dict[str, Tensor]:
    """The vectors of a batch before predictor and dropout."""
    with torch.no_grad():
        users, items = model.forward()
        own = {"user": users[batch["user_id"]], "item": items[batch["item_id"]]}
        return {**own, **{name: model.project(name, batch["item_id"]) for name in model.modalities}}


def test_dropout_falls_on_the_targets_alone_one_mask_an_entity(
    own_dataset: TinyData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An online vector is the predictor's of the whole one.

    A target is the whole one with a share of its numbers gone, the others scaled.
    """
    case = featured(own_dataset, dropout_prob=0.25, embedding_size=32)
    case.model.train()
    views, batch = views_of(case, monkeypatch)
    whole = whole_vectors(case.model, batch)
    assert list(views) == ["user", "item", "visual", "text"]
    for name, view in views.items():
        assert torch.allclose(view.online, case.model.predictor(whole[name]), atol=1e-6), name
        assert view.online.requires_grad and not view.target.requires_grad
        gone = view.target == 0
        assert torch.allclose(view.target, (whole[name] / 0.75).masked_fill(gone, 0.0), atol=1e-6), name
        assert 0.15 < float(gone[:14].float().mean()) < 0.35, name
        if name != "user":
            assert torch.equal(gone[:14], gone[14:]), name
    case.model.eval()
    views, batch = views_of(case, monkeypatch)
    assert all(torch.allclose(views[name].target, whole[name], atol=1e-6) for name in views)


def test_a_training_makes_and_reads_its_features_once(
    own_dataset: TinyData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of words, by an encoder; over three epochs, and not again for a second model."""
    items = "".join(f"i{item}\tword{item % 7} word{item % 5} word{item % 3}\n" for item in range(40))
    (Path(own_dataset.data_path) / "own" / "own.item").write_text("item_id:token\ttitle:token_seq\n" + items)
    calls = {"made": 0, "read": 0}
    encode, read = ENCODERS["tfidf"].encode, ItemFeatures.__init__

    def count_made(texts: Any) -> Any:
        calls["made"] += 1
        return encode(texts)

    def count_read(self: ItemFeatures, *args: Any) -> None:
        calls["read"] += 1
        read(self, *args)

    monkeypatch.setitem(ENCODERS, "tfidf", ENCODERS["tfidf"]._replace(encode=count_made))
    monkeypatch.setattr(ItemFeatures, "__init__", count_read)
    config = build_config(own_dataset, "BM3", epochs=3, freeze_features=True, cache_dir=str(tmp_path / "cache"))
    splits = split_data(config)
    for models in (1, 2):
        _, figures = TrainingJob(
            config, splits, TrainingFiles.in_folder(tmp_path / f"w{models}", tmp_path / f"s{models}")
        ).train()
        assert figures["epochs"] == 3 and calls == {"made": 1, "read": models}


def test_frozen_features_stay_in_their_file(own_dataset: TinyData) -> None:
    """What is written into the file later is what the model projects: it holds no copy."""
    model = featured(own_dataset, freeze_features=True).model
    path = Path(own_dataset.data_path) / own_dataset.name / "text.npy"
    before = model.project("text", torch.tensor([3])).detach()
    values = np.load(path, mmap_mode="r+")
    values += 1
    values.flush()
    expected = before + model.projections["of_text"].weight.detach().sum(dim=1)
    assert torch.allclose(model.project("text", torch.tensor([3])).detach(), expected, atol=1e-5)
