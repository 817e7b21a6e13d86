"""What every method of the table keeps, whoever wrote it.

A method is found by its line, and needs no test of its own here.

Each runs with small options on a small data set with MF, LightGCN, NeuMF, HSTU (both faces) and SASRec as students; and
with MF, in every choice of its options, at the edges. A method that a student or a teacher cannot serve says so with a
ConfigError or TeacherError; MF and LightGCN serve all.
"""

from __future__ import annotations

import inspect
import typing
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from recbole.data import create_dataset
from recbole.utils import get_model, init_seed
from torch import Tensor

from recbole_kd.config.property_layers import layers, names_in
from recbole_kd.data.train_items import query_items
from recbole_kd.distiller.base import DistillBatch, Distiller
from recbole_kd.distiller.registry import distiller_class, distiller_options, resolve_options
from recbole_kd.errors import ConfigError, TeacherError
from recbole_kd.ops.ragged import Ragged
from recbole_kd.scoring.scorer import Scorer
from recbole_kd.teacher.stores.dense import DenseScores
from recbole_kd.training.teacher_loader import TeacherAwareLoader
from tests.support.helpers import Case, TinyData, build_case, build_config, scorer_of
from tests.support.method_cases import FURTHER_TEACHERS, METHODS, make_teacher, small_options

STUDENTS = ("MF", "LightGCN", "NeuMF", "HSTUGeneral", "HSTU", "SASRec")

OPTIONS_OF_TWO_ITEMS: dict[str, dict[str, Any]] = {
    "RCEKD": {"gamma_epochs": 3},
    "DCD": {"candidates": 2},
    "UnKD": {"candidates": 2},
    "RD": {"start_epoch": 0},
    "PCKD": {"candidates": 2, "n_samples": 2},
}
"""With a catalogue of 2 items, where a whole number of 1 does not work."""

FURTHER_OPTIONS: dict[str, list[dict[str, Any]]] = {
    "HetComp": [{"n_checkpoints": 1}, {"n_checkpoints": 3}, {"n_positives": 2}],  # fine and coarse
    "TARec": [{"teacher_share": 0.5}, {"n_negatives": 0}],
    "RankDistil": [{"tau": 0.0}],
    "DERRD": [{"lambda_de": 0.0}],
    "HTD": [{"alpha": 1.0}],
    "FreqD": [{"keep": 1.0, "dropout": 0.0}],
    "DE": [{"n_experts": 1}],
}
"""Settings that take another way through a method.

Its choices of words and of True and False are found without them.
"""


def choices(name: str) -> list[dict[str, Any]]:
    """Each choice of words, or of True and False, other than the default, one at a time; and the FURTHER_OPTIONS."""
    found: list[dict[str, Any]] = []
    for option, parameter in distiller_options(distiller_class(name)).items():
        kinds = (parameter.annotation, *typing.get_args(parameter.annotation))
        values = [
            value for kind in kinds if typing.get_origin(kind) is typing.Literal for value in typing.get_args(kind)
        ]
        values += [True, False] if bool in kinds else []
        found += [{option: value} for value in values if value != parameter.default]
    return found + FURTHER_OPTIONS.get(name, [])


SETTINGS = [
    pytest.param(name, options, id="-".join([name, *(f"{key}={value}" for key, value in options.items())]))
    for name in METHODS
    for options in [{}, *choices(name)]
]
"""(method, options) for the edges."""


def build(
    name: str, case: Case, *, seed: int = 0, scale: float = 1.0, **options: Any
) -> tuple[Distiller, list[Tensor]]:
    """The method for a student, checked as a run would be."""
    cls = distiller_class(name)
    scorer = Scorer(case.model) if case.splits is None else scorer_of(case)
    teacher, leaves = make_teacher(cls, scorer.n_queries, scorer.n_items, scale)
    resolved = {**small_options(name), **options}
    cls.check(scorer.n_queries - 1, scorer.n_items - 1, resolved)
    torch.manual_seed(seed)  # modules of its own
    return cls(scorer, teacher, seed=seed, **resolved), leaves


def one_step(distiller: Distiller, case: Case, epoch: int = 0) -> Tensor:
    """A KD loss as a training step makes it: item sets, teacher's scores, first batch, one shared encoding."""
    distiller.begin_training(query_items(case.loaders.train))
    distiller.begin_epoch(epoch)
    aware = TeacherAwareLoader(case.loaders.train, distiller, distiller.teacher_scores)
    aware.ask_teacher()
    torch.manual_seed(0)
    batch = next(iter(aware))
    case.model.train()
    with distiller.student_scorer.step(batch):
        return distiller(batch.kd)


def gradients(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def assert_finite(loss: Tensor, distiller: Distiller, case: Case) -> None:
    """The loss, and its gradient in the student and in the distiller's own modules."""
    assert torch.isfinite(loss)
    for module in (case.model, distiller):
        for name, gradient in gradients(module).items():
            assert torch.isfinite(gradient).all(), name


def small_batch(distiller: Distiller, aware: TeacherAwareLoader, order: list[int]) -> DistillBatch:
    """Four rows of three users in some order, as the loader hands them over."""
    users, positives, negatives = torch.tensor([[1, 2, 2, 5], [3, 4, 5, 4], [7, 8, 9, 10]])[:, order]
    items = {"positives": positives, "negatives": negatives} if distiller.needs_items else {}
    return aware.batch_of(users.repeat(getattr(aware.loader, "times", 1)), **items)


def sampling_state(distiller: Distiller) -> dict[str, Any]:
    return {
        key: value.clone() if isinstance(value, Tensor) else value for key, value in distiller.sampling_state().items()
    }


def refusal_of(name: str, case: Case) -> str | None:
    """Why the method cannot serve a student, or None."""
    try:
        distiller, _ = build(name, case)
        distiller.begin_training(query_items(case.loaders.train))
    except (ConfigError, TeacherError) as refusal:
        return str(refusal)
    return None


def serves(method: str, student: str) -> bool:
    """Methods of embeddings need a student whose score is a dot product, FreqD a table of its users.

    All others serve every student.
    """
    if method == "FreqD":
        return student in ("MF", "LightGCN")
    return student != "NeuMF" or "embeddings" not in distiller_class(method).requires


@pytest.fixture(
    params=[(method, student) for method in METHODS for student in STUDENTS if serves(method, student)], ids="-".join
)
def pair(request: pytest.FixtureRequest, tiny_dataset: TinyData) -> tuple[str, Case]:
    name, student = request.param
    return name, build_case(tiny_dataset, student)


# -- with models
# ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("student", STUDENTS)
@pytest.mark.parametrize("name", METHODS)
def test_who_is_refused_is_told_in_a_sentence_with_both_names(name: str, student: str, tiny_dataset: TinyData) -> None:
    refusal = refusal_of(name, build_case(tiny_dataset, student))
    assert (refusal is None) == serves(name, student), refusal
    if refusal is not None:
        assert name in refusal and student in refusal and "\n" not in refusal and ". " not in refusal


@pytest.mark.parametrize("name", METHODS)
def test_a_teacher_with_scores_alone_serves_or_is_refused_by_name(name: str, tiny_dataset: TinyData) -> None:
    cls, scorer = distiller_class(name), Scorer(build_case(tiny_dataset, "MF").model)
    teacher = DenseScores(torch.zeros(scorer.n_queries, scorer.n_items), {"model": "EASE"})
    if cls.requires <= {"scores", "full"}:  # a matrix of scores has them for every item
        assert cls(scorer, teacher, **small_options(name)).item_sets == {}
        return
    with pytest.raises(TeacherError, match=f"^{name} needs .* EASE [^\n]*$"):
        cls(scorer, teacher, **small_options(name))


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_loss_and_gradient_are_finite_and_reach_the_student_only(pair: tuple[str, Case], reduction: str) -> None:
    """The student, and modules that the method trains beside it: never the teacher."""
    name, case = pair
    distiller, leaves = build(name, case)
    distiller.reduction = reduction
    loss = one_step(distiller, case)
    assert loss.shape == () and loss.dtype == torch.float32 and torch.isfinite(loss)
    loss.backward()
    assert_finite(loss, distiller, case)
    assert any(float(g.abs().max()) > 0 for g in gradients(case.model).values()), "no gradient in the student"
    assert all(leaf.grad is None for leaf in leaves), "a gradient in the teacher"


def test_the_same_seed_gives_the_same_loss_and_sets(pair: tuple[str, Case], tiny_dataset: TinyData) -> None:
    name, case = pair
    losses, sets = [], []
    for _ in range(2):
        fresh = build_case(tiny_dataset, type(case.model).__name__)
        distiller, _ = build(name, fresh, seed=5)
        losses.append(float(one_step(distiller, fresh).detach()))
        sets.append(distiller.item_sets)
    assert losses[0] == losses[1]
    assert sets[0].keys() == sets[1].keys() and all(torch.equal(sets[0][key], sets[1][key]) for key in sets[0])


def test_sampling_uses_the_distillers_generator_alone(pair: tuple[str, Case]) -> None:
    """The base model's random numbers stay the same.

    A restored state gives the same sets and the same loss again.
    """
    name, case = pair
    distiller, _ = build(name, case)
    distiller.begin_training(query_items(case.loaders.train))
    distiller.begin_epoch(0)
    case.model.eval()
    aware = TeacherAwareLoader(case.loaders.train, distiller, distiller.teacher_scores)
    global_state, state = torch.get_rng_state(), sampling_state(distiller)
    losses, sets = [], []
    for _ in range(2):
        distiller.begin_epoch(1)
        aware.ask_teacher()
        losses.append(float(distiller(small_batch(distiller, aware, [0, 1, 2, 3])).detach()))
        sets.append({key: ids.clone() for key, ids in distiller.item_sets.items()})
        distiller.restore_sampling(state)
    assert torch.equal(torch.get_rng_state(), global_state)
    assert losses[0] == losses[1]
    assert all(torch.equal(ids, sets[1][key]) for key, ids in sets[0].items())


def test_sets_are_items_and_leave_out_what_they_should(pair: tuple[str, Case]) -> None:
    name, case = pair
    options = {"mask_train": True} if "mask_train" in distiller_options(distiller_class(name)) else {}
    distiller, _ = build(name, case, **options)
    train = query_items(case.loaders.train)
    distiller.begin_training(train)
    distiller.begin_epoch(0)
    mine = torch.repeat_interleave(torch.arange(len(train.counts())), train.counts()) * 10_000 + train.items
    assert distiller.mask_train or not options
    for key, ids in distiller.item_sets.items():
        assert ids.dtype in (torch.int32, torch.int64) and ids.shape[0] == distiller.student_scorer.n_queries
        assert int(ids.min()) >= 0 and int(ids.max()) < distiller.student_scorer.n_items
        if distiller.mask_train:
            listed = (torch.arange(len(ids)).unsqueeze(1) * 10_000 + ids)[ids > 0]
            assert not torch.isin(listed, mine).any(), f"training items in {key}"


def test_a_query_counts_alike_however_its_rows_come(pair: tuple[str, Case]) -> None:
    """The loss of a batch does not depend on the order of its rows; a mean is the sum over their number."""
    name, case = pair
    distiller, _ = build(name, case)
    distiller.begin_training(query_items(case.loaders.train))
    distiller.begin_epoch(0)
    aware = TeacherAwareLoader(case.loaders.train, distiller, distiller.teacher_scores)
    aware.ask_teacher()
    case.model.eval()
    losses, state = [], sampling_state(distiller)
    for reduction, order in (("sum", [0, 1, 2, 3]), ("sum", [1, 3, 0, 2]), ("mean", [2, 1, 3, 0])):
        distiller.reduction = reduction
        distiller.restore_sampling(state)
        losses.append(float(distiller(small_batch(distiller, aware, order)).detach()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6) and losses[0] == pytest.approx(4 * losses[2], rel=1e-6)


@pytest.mark.parametrize(("name", "options"), SETTINGS)
def test_scores_of_1e4_stay_finite(name: str, options: dict[str, Any], tiny_dataset: TinyData) -> None:
    case = build_case(tiny_dataset, "MF")
    with torch.no_grad():
        for parameter in case.model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 60)
    distiller, _ = build(name, case, scale=1e4, **options)
    with torch.no_grad():
        assert float(distiller.student_scorer.full(torch.arange(5)).abs().max()) > 1e4
    loss = one_step(distiller, case)
    loss.backward()
    assert_finite(loss, distiller, case)


# -- edges, on made data sets ------------------------------------------------------------------------------------------


def made_case(tmp_path: Any, n_users: int, n_items: int) -> Case:
    """MF on so many users and items; without splits, as tests at the edges bring training items of their own."""
    (tmp_path / "made").mkdir()
    lines = [f"u{user}\ti{item}\t{user + item}" for user in range(n_users) for item in range(n_items)]
    (tmp_path / "made" / "made.inter").write_text(
        "\n".join(["user_id:token\titem_id:token\ttimestamp:float", *lines]) + "\n"
    )
    config = build_config(TinyData(str(tmp_path), "made"), "MF")
    dataset = create_dataset(config)
    init_seed(0, True)
    model = get_model("MF")(config, dataset)
    assert (model.n_users, model.n_items) == (n_users + 1, n_items + 1)
    loader = SimpleNamespace(_dataset=dataset, times=1)
    return Case(config, None, SimpleNamespace(train=loader), model)  # type: ignore[arg-type]


def stepped(name: str, case: Case, train: Ragged, options: dict[str, Any]) -> tuple[Distiller, Tensor]:
    """As one_step, on training items of the test's own and all users at once."""
    distiller, _ = build(name, case, **options)
    distiller.begin_training(train)
    distiller.begin_epoch(0)
    aware = TeacherAwareLoader(case.loaders.train, distiller, distiller.teacher_scores)
    aware.ask_teacher()
    users = torch.arange(1, distiller.student_scorer.n_queries)
    items = {}
    if distiller.needs_items:
        items = {"positives": torch.ones_like(users), "negatives": torch.full_like(users, 2)}
    return distiller, distiller(aware.batch_of(users, **items))


@pytest.mark.parametrize(("name", "options"), SETTINGS)
def test_a_catalogue_of_two_items(name: str, options: dict[str, Any], tmp_path: Any) -> None:
    case = made_case(tmp_path, 4, 2)
    train = Ragged.from_pairs(np.array([1, 2]), np.array([1, 2]), 5)
    distiller, loss = stepped(name, case, train, {**small_options(name, 1, OPTIONS_OF_TWO_ITEMS), **options})
    loss.backward()
    assert_finite(loss, distiller, case)


@pytest.mark.parametrize(("name", "options"), SETTINGS)
def test_users_with_fewer_items_left_than_a_list_is_long(name: str, options: dict[str, Any], tmp_path: Any) -> None:
    """User u has u items left: 0, 1, 2 and so on."""
    case = made_case(tmp_path, 12, 12)
    users, items = np.nonzero(np.arange(1, 13)[:, None] + np.arange(12) < 13)
    train = Ragged.from_pairs(users + 1, items + 1, 13)
    masked = {"mask_train": True} if "mask_train" in distiller_options(distiller_class(name)) else {}
    distiller, loss = stepped(name, case, train, {**masked, **options})
    loss.backward()
    assert_finite(loss, distiller, case)
    if distiller.mask_train:
        for ids in distiller.item_sets.values():
            for user in range(1, 13):
                listed = {item for item in ids[user].tolist() if item}
                assert listed <= set(range(13 - user + 1, 13)), f"user {user} has {listed}"


# -- options -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_defaults_stand_in_the_property_file_and_pass_the_checks(name: str) -> None:
    """Each option is in properties/distiller/NAME.yaml, and nothing else is.

    All options are accepted at the size of MovieLens 100k.
    """
    cls = distiller_class(name)
    values, applied = layers(f"distiller/{name}")
    assert applied == [f"distiller/{name}"]
    assert set(values) == {"kd_weight", *(f"kd_{option}" for option in distiller_options(cls))}
    given = resolve_options(cls, {key[3:]: value for key, value in values.items() if key != "kd_weight"})
    assert given == resolve_options(cls, {})
    cls.check(943, 1682, given)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_says_what_it_is(name: str) -> None:
    cls = distiller_class(name)
    assert cls.__doc__ and len(cls.__doc__.strip().splitlines()[0]) < 120
    assert cls.requires <= {"scores", "embeddings", "full", *FURTHER_TEACHERS}
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in distiller_options(cls).values())


@pytest.mark.parametrize("path", sorted(name for name in names_in("distiller") if "-" in name))
def test_property_files_of_pairs_fit_their_method(path: str) -> None:
    kd = path.split("-")[0]
    cls = distiller_class(kd)
    values, _ = layers(f"distiller/{path}")
    options = {f"kd_{option}" for option in distiller_options(cls)}
    assert set(values) <= {"learning_rate", "weight_decay", "train_batch_size", "kd_weight", "kd_refresh", *options}
    resolve_options(cls, {key[3:]: value for key, value in values.items() if key in options})
    assert all(
        isinstance(values[key], float) for key in ("learning_rate", "weight_decay", "kd_weight") if key in values
    )
