"""RecBole's models as the KD literature trains them: sums, initialisation, and the decay that belongs to each."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from recbole_kd.config.property_layers import distiller_layers, names_in, student_layers, teacher_layers
from recbole_kd.data.split_and_loaders import make_loaders
from recbole_kd.distiller.rcekd import RCEKD
from recbole_kd.distiller.registry import check_options, distiller_class, distiller_options
from recbole_kd.errors import ConfigError
from recbole_kd.model.loss_reduction import initialise, reduction_note, reduction_of, with_decay_for_mean
from recbole_kd.training.trainer import KDTrainer
from tests.support.helpers import TinyData, build_case, build_config, build_model


@pytest.mark.parametrize("negatives", [1, 3])
@pytest.mark.parametrize("model", ["BPR", "LightGCN"])
def test_a_summed_loss_is_the_mean_times_the_positives(tiny_dataset: TinyData, model: str, negatives: int) -> None:
    sampled = {"distribution": "uniform", "sample_num": negatives, "alpha": 1.0, "dynamic": False, "candidate_num": 0}
    given = {"train_neg_sample_args": sampled, "train_batch_size": 96}
    case = build_case(tiny_dataset, model, **given, loss_reduction="sum")
    trainer = KDTrainer(case.config, case.model)
    trainer._base_loss.negatives_times = case.loaders.train.times
    for batch in case.loaders.train:
        assert len(batch) % negatives == 0
        mean, found = case.model.calculate_loss(batch).item(), trainer._base_loss(batch).item()
        assert found == pytest.approx(mean * len(batch) / negatives, rel=1e-6)


def test_mf_sums_by_itself_and_is_not_multiplied_twice(tiny_dataset: TinyData) -> None:
    case = build_case(tiny_dataset, "MF", loss_reduction="sum")
    batch = next(iter(case.loaders.train))
    assert KDTrainer(case.config, case.model)._base_loss(batch).item() == pytest.approx(
        case.model.calculate_loss(batch).item()
    )
    assert reduction_of(case.model, None) == "sum"


def test_a_decay_turned_for_the_mean_trains_as_the_sum_does(tiny_dataset: TinyData) -> None:
    """Adam on the sum with w equals Adam on the mean with w / B, but for eps; on the mean with w it does not."""
    tables = {}
    for name, given in {
        "sum": {"loss_reduction": "sum", "weight_decay": 0.5},
        "mean": {
            "loss_reduction": "mean",
            **with_decay_for_mean(
                {"loss_reduction": "sum", "weight_decay": 0.5}, {"loss_reduction": "mean", "train_batch_size": 50}
            ),
        },
        "unturned": {"loss_reduction": "mean", "weight_decay": 0.5},
    }.items():
        values = {**given, "loss_reduction": name if name in ("sum", "mean") else "mean"}
        case = build_case(tiny_dataset, "MF", **values, train_batch_size=50, init_std=1.0)
        config = case.config
        optimizer = torch.optim.Adam(case.model.parameters(), lr=0.01, weight_decay=config["weight_decay"], eps=1e-30)
        for step, batch in enumerate(make_loaders(config, case.splits).train):
            if step == 3 or len(batch) != 50:
                break
            optimizer.zero_grad()
            case.model.calculate_loss(batch).backward()
            optimizer.step()
        tables[name] = case.model.user_embedding.weight.detach()
    torch.testing.assert_close(tables["mean"], tables["sum"], rtol=1e-3, atol=1e-4)
    assert float((tables["unturned"] - tables["sum"]).abs().max()) > 1e-2


def test_what_the_user_sets_stands() -> None:
    files = {"loss_reduction": "sum", "weight_decay": 0.4, "train_batch_size": 4}
    assert with_decay_for_mean(files, {}) == files
    assert with_decay_for_mean(files, {"loss_reduction": "mean"})["weight_decay"] == pytest.approx(0.1)
    assert with_decay_for_mean(files, {"loss_reduction": "mean", "weight_decay": 0.4})["weight_decay"] == 0.4


def test_initialisation(tiny_dataset: TinyData) -> None:
    case = build_case(tiny_dataset, "LightGCN", embedding_size=64)
    initialise(case.model, 0.5)
    assert float(case.model.item_embedding.weight.std()) == pytest.approx(0.5, rel=0.1)
    before = case.model.item_embedding.weight.clone()
    initialise(case.model, None)
    assert torch.equal(before, case.model.item_embedding.weight)
    mf = build_case(tiny_dataset, "MF", embedding_size=64).model
    before = mf.item_embedding.weight.clone()
    initialise(mf, 0.5)
    assert torch.equal(before, mf.item_embedding.weight) and float(before.std()) == pytest.approx(0.01, rel=0.1)


def test_the_log_names_the_reduction_and_its_decay(tiny_dataset: TinyData) -> None:
    for model, given, words in (
        ("MF", {}, "MF: its own sum (loss_reduction=sum), with weight_decay 0.001"),
        (
            "LightGCN",
            {"loss_reduction": "sum", "weight_decay": 1e-7},
            "LightGCN: RecBole's mean times the rows of the batch",
        ),
        ("LightGCN", {}, "LightGCN: mean over the rows of a batch, weight_decay 0 unchanged"),
        ("HSTUGeneral", {}, "HSTUGeneral (loss=full_softmax): mean over"),
    ):
        config = build_config(tiny_dataset, model, **given)
        assert words in reduction_note(build_model(config, build_case(tiny_dataset, model).splits), config)


PUBLISHED: dict[
    str, tuple[Any, ...]
] = {  # methods, section 2.8: batch, lambda, softmax temperature, K, L, candidates, beta, decay
    "citeulike-MF-MF": (2048, 500, 1, 50, 50, 200, 3, 1e-5),
    "citeulike-MF-LightGCN": (2048, 100, 10, 50, 50, 200, 5, 1e-7),
    "citeulike-HSTU-HSTU": (512, 5, 1, 100, 100, 200, 3, 1e-5),
    "gowalla-MF-HSTU": (2048, 100000, 1, 100, 50, 200, 1, 1e-5),
    "gowalla-LightGCN-LightGCN": (2048, 50, 1, 100, 100, 200, 15, 1e-5),
    "yelp2018-MF-HSTU": (2048, 500, 1, 100, 100, 500, 0.5, 1e-5),
    "yelp2018-HSTU-HSTU": (400, 1, 1, 100, 100, 200, 5, 1e-5),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_values_of_a_pair(name: str) -> None:
    dataset, student, teacher = name.split("-")
    values, files = distiller_layers("RCEKD", dataset, student, teacher)
    assert f"distiller/RCEKD-{name}" in files
    keys = (
        "train_batch_size",
        "kd_weight",
        "kd_temperature",
        "kd_k",
        "kd_n_samples",
        "kd_code_candidates",
        "kd_beta",
        "weight_decay",
    )
    batch, weight, *rest = PUBLISHED[name]
    # HSTU's own loss is a mean, where the published KD loss is a sum over the users of a batch
    assert tuple(values[key] for key in keys) == (batch, weight * batch if student == "HSTU" else weight, *rest)
    assert values["learning_rate"] == 0.001 and values["kd_tau"] == 10


PUBLISHED_FOR_HSTU: dict[str, tuple[int, float, float]] = {  # batch, the code's lambda, decay
    "CD-citeulike": (512, 0.5, 1e-8),
    "DCD-citeulike": (512, 0.01, 1e-5),
    "RRD-citeulike": (512, 1e-4, 1e-5),
    "RRD-gowalla": (128, 1e-4, 1e-5),
    "RRD-yelp2018": (128, 1e-4, 1e-5),
}


@pytest.mark.parametrize("name", PUBLISHED_FOR_HSTU)
def test_published_values_of_other_methods_for_hstu(name: str) -> None:
    """The published KD loss, a sum over a batch's users, is a mean here: lambda is multiplied by the batch."""
    kd, dataset = name.split("-")
    values, files = distiller_layers(kd, dataset, "HSTU", "HSTU")
    batch, weight, decay = PUBLISHED_FOR_HSTU[name]
    assert f"distiller/{name}-HSTU-HSTU" in files
    assert (values["train_batch_size"], values["weight_decay"]) == (batch, decay)
    assert values["kd_weight"] == pytest.approx(weight * batch, rel=1e-6)
    own = {key[3:]: value for key, value in values.items() if key[3:] in distiller_options(distiller_class(kd))}
    check_options(distiller_class(kd), own, 5219, 25181)


def test_the_published_candidates_are_those_of_the_code_alone() -> None:
    values = distiller_layers("RCEKD", "gowalla", "MF", "MF")[0]
    given = {key[3:]: value for key, value in values.items() if key[3:] in distiller_options(RCEKD)}
    assert given["candidates"] is None and given["code_candidates"] == 100
    sampled = {**given, "n_samples": 101}
    check_options(RCEKD, {**sampled, "faithful": "paper"}, 30, 40981)
    with pytest.raises(ConfigError, match=r"kd_n_samples=101.*at most 100"):
        check_options(RCEKD, sampled, 30, 40981)


def test_every_published_pair_has_its_file() -> None:
    pairs = [
        f"RCEKD-{d}-{s}-{t}"
        for d in ("citeulike", "gowalla", "yelp2018")
        for s, t in (("MF", "MF"), ("MF", "LightGCN"), ("MF", "HSTU"), ("LightGCN", "LightGCN"), ("HSTU", "HSTU"))
    ]
    assert set(pairs) <= set(names_in("distiller"))


def test_sizes_and_decays_of_the_models() -> None:
    sizes = {
        ("MF", "citeulike"): (400, 1e-3, 1e-3),
        ("MF", "gowalla"): (300, 1e-4, 1e-3),
        ("LightGCN", "citeulike"): (2000, 1e-7, 1e-3),
    }
    sizes |= {("LightGCN", "gowalla"): (2000, 1e-6, 1e-7), ("LightGCN", "yelp2018"): (1000, 1e-7, 1e-4)}
    for (model, dataset), (width, teacher_decay, student_decay) in sizes.items():
        teacher, student = teacher_layers(model, dataset)[0], student_layers(model, dataset)[0]
        assert (teacher["embedding_size"], teacher["weight_decay"]) == (width, teacher_decay)
        assert (student["embedding_size"], student["weight_decay"], student["loss_reduction"]) == (
            20,
            student_decay,
            "sum",
        )


def test_sizes_of_sasrec() -> None:
    """Table 11: blocks and heads of teacher and student."""
    sizes = {"citeulike": ((4, 2), (1, 1)), "gowalla": ((2, 4), (1, 1)), "yelp2018": ((8, 4), (1, 2))}
    for dataset, expected in sizes.items():
        found = [layer("SASRec", dataset, setting="sequential")[0] for layer in (teacher_layers, student_layers)]
        assert tuple((values["n_layers"], values["n_heads"]) for values in found) == expected


def test_the_paper_protocol_brings_its_stopping_rule() -> None:
    values, files = student_layers("MF", "citeulike", "paper")
    assert "protocol/paper" in files
    assert (values["valid_metric"], values["stopping_step"], values["epochs"]) == ("NDCG@20", 29, 1000)
    assert student_layers("MF", "citeulike")[0]["valid_metric"] == "NDCG@10"
