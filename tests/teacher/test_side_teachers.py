"""Knowledge-aware and context-aware models as teachers: the run's data, RecBole's scores."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from recbole.data.interaction import Interaction
from recbole.utils import init_seed

from recbole_kd.config.merging import merge_sources
from recbole_kd.config.optional_packages import check_packages
from recbole_kd.data.histories.sequence_dataset import stage_parts
from recbole_kd.data.knowledge_graph import graph_digest
from recbole_kd.data.split_and_loaders import Splits, split_data
from recbole_kd.errors import ConfigError, DataError, KDError, TeacherError
from recbole_kd.model.build_model import fresh_model
from recbole_kd.pipeline.plan import make_plan
from recbole_kd.pipeline.request import Request, make_request
from recbole_kd.pipeline.stages import ensure_teachers
from recbole_kd.pipeline.training_entries import RunContext
from recbole_kd.scoring.scorer import Scorer
from recbole_kd.teacher.load import load_teacher
from tests.support.side_data import LINKED, write_sides


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("sides")
    write_sides(made / "data")
    return made


def request_for(folder: Path, teacher: str, **more: Any) -> Request:
    """The request of MF under a teacher on the data in a folder."""
    values = {
        "model": "MF",
        "teacher": teacher,
        "kd": "CE",
        "kd_k": 5,
        "dataset": "tiny",
        "data_path": str(folder / "data"),
        "cache_dir": str(folder / "cache"),
        "output_dir": str(folder / "saved"),
        "embedding_size": 4,
        "teacher.embedding_size": 8,
        "teacher.epochs": 1,
        **more,
    }
    return make_request(merge_sources(None, None, {key: value for key, value in values.items() if value is not None}))


def model_of(folder: Path, teacher: str, **more: Any) -> tuple[Any, Splits, Any]:
    """A new model of a teacher, the split, and the model's training part."""
    request = request_for(folder, teacher, **more)
    splits = split_data(request.student_config()[0])
    (config,) = request.teacher_configs()[0]
    init_seed(1, True)
    part = stage_parts(config, splits.parts)[0]
    model = fresh_model(config, part)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return model, splits, part


def test_a_graph_is_read_over_the_split(folder: Path) -> None:
    model, splits, part = model_of(folder, "CKE")
    plain = splits.parts[0]
    field = part.iid_field
    assert list(part.field2id_token[field]) == list(plain.field2id_token[field])
    assert torch.equal(part.inter_feat[field], plain.inter_feat[field])
    entities, relations = part.field2id_token["entity_id"], part.field2id_token["relation_id"]
    for item in range(40):  # an item's entity has its id; one without an entity keeps its own name
        number = part.field2token_id[field][f"i{item}"]
        assert entities[number] == (f"e{item}" if item < LINKED else f"i{item}")
    triples = {
        (entities[h], relations[r], entities[t])
        for h, r, t in zip(part.head_entities, part.relations, part.tail_entities, strict=True)
    }
    wanted = {("c0", "is", "thing")} | {(f"e{i}", "colour", f"c{i % 2}") for i in range(LINKED)}
    assert triples == wanted | {(f"e{i}", "kind", f"k{i % 5}") for i in range(LINKED)}
    assert part.entity_num == len(entities) == 1 + 40 + 2 + 5 + 1
    assert list(relations) == ["[PAD]", "colour", "kind", "is", "[UI-Relation]"]
    scores = Scorer(model).full(torch.tensor([3]))[0, 1:]
    known = Interaction({"user_id": torch.full((40,), 3), "item_id": torch.arange(1, 41)})
    assert torch.allclose(scores, model.predict(known), atol=1e-6)


def test_columns_reach_a_context_aware_model(folder: Path) -> None:
    model, splits, part = model_of(folder, "DeepFM")
    assert model.token_field_names == ["user_id", "item_id", "group", "year"]
    assert model.token_seq_field_names == ["class"] and model.float_field_names == []
    scorer = Scorer(model)
    scores = scorer.full(torch.tensor([2, 5]))
    rows = splits.dataset.join(Interaction({"user_id": torch.tensor([2, 5]), "item_id": torch.tensor([7, 9])}))
    with scorer.frozen():
        assert torch.allclose(scorer.at(torch.tensor([2, 5]), torch.tensor([[7], [9]]))[:, 0], model.predict(rows))
        before = scorer.full(torch.tensor([2, 5]))
        part.item_feat["year"][7] = part.item_feat["year"][8]
        model.side_columns = type(model.side_columns)(part, "cpu")
        changed = (scorer.full(torch.tensor([2, 5])) != before).any(0)
    assert np.flatnonzero(changed).tolist() == [7] and scores.shape == (2, 41)


def test_numbers_reach_it_if_they_are_named(folder: Path) -> None:
    model = model_of(folder, "FM", numerical_features=["age"])[0]
    assert model.float_field_names == ["age"] and "age" not in model_of(folder, "FM")[0].float_field_names


@pytest.mark.parametrize("teacher", ["CFKG", "FM"])
def test_its_scores_are_kept_with_the_data_of_the_run(teacher: str, folder: Path, tmp_path: Path) -> None:
    plan = make_plan(request_for(folder, teacher))
    context = RunContext(plan.splits, tmp_path / "cache", tmp_path, resume=False)
    scores, figures = ensure_teachers(plan.teachers, context)
    assert scores.store == "dense" and figures["valid"]["ndcg@10"] > 0 and not figures["cached"]
    assert ensure_teachers(plan.teachers, context)[1]["cached"]
    again = load_teacher(figures["path"], plan.splits.parts[0])
    assert torch.equal(again.full(torch.arange(1, 31)), scores.full(torch.arange(1, 31)))
    other = request_for(folder, "FM", split_seed=1, eval_args={"order": "RO"}).student_config()[0]
    with pytest.raises(TeacherError, match="the split differs"):
        load_teacher(figures["path"], split_data(other).parts[0])


def test_another_graph_is_another_teacher(tmp_path: Path) -> None:
    data = write_sides(tmp_path / "data")
    splits = split_data(request_for(tmp_path, "CKE").student_config()[0])
    before = graph_digest(splits.dataset)
    path = Path(data.data_path) / "tiny" / "tiny.kg"
    path.write_text(path.read_text().replace("c0\tis", "c1\tis"))
    assert graph_digest(splits.dataset) != before


@pytest.mark.parametrize(
    ("lost", "teacher", "words"),
    [
        ("kg", "CKE", "tiny.kg is not there"),
        ("link", "CKE", "tiny.link is not there"),
        ("user item", "FM", "none of tiny is read"),
    ],
)
def test_missing_files_are_one_sentence_before_training(tmp_path: Path, lost: str, teacher: str, words: str) -> None:
    write_sides(tmp_path / "data")
    for suffix in lost.split():
        (tmp_path / "data" / "tiny" / f"tiny.{suffix}").unlink()
    with pytest.raises(KDError, match=words) as found:
        make_plan(request_for(tmp_path, teacher))
    assert "\n" not in str(found.value) and "such as LightGCN" in str(found.value)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"teacher_store": "online"}, "take teacher_store=dense"),
        ({"teacher_store": "factors"}, "take teacher_store=dense"),
        ({"load_col": {"inter": ["user_id", "item_id", "timestamp"]}}, "or leave load_col out"),
        ({"kd": "DE", "kd_k": None}, "teacher_svd=64"),
        ({"teacher": "KD_DAGFM"}, "such as DeepFM"),
        ({"model": "FM", "teacher": "LightGCN"}, "--teacher=FM is possible"),
    ],
)
def test_what_such_a_model_cannot_is_one_sentence(folder: Path, more: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        request_for(folder, **{"teacher": "FM", **more})


def test_the_advised_columns_are_read(folder: Path) -> None:
    with pytest.raises(ConfigError) as found:
        request_for(folder, "FM", load_col={"inter": ["user_id", "item_id", "timestamp"]})
    (advised,) = re.findall(r'--load_col="([^"]*)"', str(found.value))
    config = request_for(folder, "FM", load_col=yaml.safe_load(advised)).student_config()[0]
    assert "year" in split_data(config).dataset.item_feat


def test_no_file_that_is_missing_is_advised(tmp_path: Path) -> None:
    write_sides(tmp_path / "data")
    (tmp_path / "data" / "tiny" / "tiny.user").unlink()
    with pytest.raises(ConfigError, match=r"item: '\*'}\"") as found:
        request_for(tmp_path, "FM", load_col={"inter": ["user_id", "item_id", "timestamp"]})
    assert "user: '*'" not in str(found.value)


def test_links_to_nothing_and_broken_files(tmp_path: Path) -> None:
    write_sides(tmp_path / "data")
    link = tmp_path / "data" / "tiny" / "tiny.link"
    link.write_text("item_id:token\tentity_id:token\nx1\te1\n")
    with pytest.raises(DataError, match="links no item"):
        make_plan(request_for(tmp_path, "CKE"))
    link.write_text("item_id:token\tother:token\ni1\te1\n")
    with pytest.raises(DataError, match="no column entity_id"):
        make_plan(request_for(tmp_path, "CKE"))


@pytest.mark.parametrize(("name", "package"), [("KGAT", "dgl"), ("KGIN", "torch-scatter"), ("MCCLK", "torch-scatter")])
def test_a_missing_package_is_named(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recbole_kd.config.optional_packages.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=f"pip install {package}"):
        check_packages({"log_wandb": False, "model": name})
