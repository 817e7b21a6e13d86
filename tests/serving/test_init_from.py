"""A student that starts from an earlier one: rows by external id, new ones fresh, anything else refused."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from recbole_kd.config.merging import merge_sources
from recbole_kd.errors import ConfigError, StudentError
from recbole_kd.pipeline.plan import make_plan
from recbole_kd.pipeline.quick_start import run_recbole_kd
from recbole_kd.pipeline.request import make_request
from recbole_kd.serving.earlier_student import EarlierStudent, read_earlier_student
from recbole_kd.serving.student import load_student
from tests.support.helpers import write_tiny
from tests.support.students import KEYS, MODELS, place, trained

STILL = {"learning_rate": 1e-30, "epochs": 1}
"""Keys under which a training leaves the weights that it starts from."""


@cache
def newer_data() -> str:
    """The data set a while later: more users and items, and none of the ids at its old place."""
    folder = place() / "newer"
    write_tiny(folder, "tiny", n_users=37, n_items=46)
    path = folder / "tiny" / "tiny.inter"
    head, *rows = path.read_text(encoding="utf-8").splitlines()
    kept = [row for row in reversed(rows) if not row.startswith("u7\t")]  # one user is gone
    path.write_text("\n".join([head, *kept]) + "\n", encoding="utf-8")
    return str(folder)


def keys(model: str, start: str | None, **more: Any) -> dict[str, Any]:
    folder = place()
    places = {"data_path": newer_data(), "cache_dir": str(folder / "cache"), "output_dir": str(folder / "saved")}
    return {**KEYS, **MODELS[model], **STILL, **places, **({"init_from": start} if start else {}), **more}


@cache
def started(model: str) -> dict[str, Any]:
    return run_recbole_kd(model, config_dict=keys(model, trained(model)["folder"], kd_compare=True))


def tables(path: str) -> EarlierStudent:
    return read_earlier_student(path)


@pytest.mark.parametrize("model", ["MF", "LightGCN", "NeuMF", "SASRec", "HSTU"])
def test_known_rows_are_the_earlier_ones_and_new_ones_are_fresh(model: str) -> None:
    old, new = tables(trained(model)["folder"]), tables(started(model)["folder"])
    assert old.users != new.users and old.items != new.items and set(old.tensors) == set(new.tensors)
    common = {kind: [one for one in getattr(new, kind)[1:] if one in getattr(old, kind)] for kind in ("users", "items")}
    found = 0
    for name, table in new.tensors.items():
        kind = next((kind for kind in ("users", "items") if kind[:-1] in name), None)
        if kind is None:
            assert torch.equal(table, old.tensors[name]), name
            continue
        ids, before = getattr(new, kind), getattr(old, kind)
        pairs = [(ids.index(one), before.index(one)) for one in common[kind]]
        rows, sources = (list(part) for part in zip(*pairs, strict=True))
        assert torch.equal(table[rows], old.tensors[name][sources]), name
        fresh = table[[place for place, one in enumerate(ids) if place and one not in before]]
        assert len(fresh) and bool(torch.isfinite(fresh).all()) and bool((fresh.abs().sum(1) > 0).all())
        assert not torch.isin(fresh, old.tensors[name]).any()
        found += 1
    assert found == {"MF": 2, "LightGCN": 2, "NeuMF": 4, "SASRec": 1, "HSTU": 1}[model]


def test_the_result_says_what_it_started_from() -> None:
    result = started("MF")
    said = result["init_from"]
    assert said["path"] == trained("MF")["folder"] and said["digest"] == tables(said["path"]).digest
    assert said["items"]["known"] + said["items"]["new"] == len(load_student(result["folder"]).items) - 1
    assert said["users"]["new"] == len(set(tables(result["folder"]).users) - set(tables(said["path"]).users))
    assert json.loads((Path(result["folder"]) / "result.json").read_text())["init_from"] == said
    assert "init_from" not in trained("MF")


def test_the_student_alone_starts_from_it_too_and_is_kept_apart() -> None:
    def alone(start: str | None) -> tuple[bool, dict[str, Tensor]]:
        result = run_recbole_kd("MF", config_dict=keys("MF", start, kd_compare=True))
        newest = max(
            (place() / "cache" / "student").glob("tiny-MF-*/*.safetensors"), key=lambda path: path.stat().st_mtime_ns
        )
        return result["student"]["cached"], load_file(newest)

    started("MF")
    fresh = alone(None)[1]
    again, _ = alone(trained("MF")["folder"])
    assert again  # the same weights by the same digest
    other = Path(shutil.copytree(Path(trained("MF")["folder"]) / "student", place() / "copied"))
    assert alone(str(other))[0]  # wherever they lie
    cached, own = alone(started("MF")["folder"])
    assert not cached and not torch.equal(own["user_embedding.weight"], fresh["user_embedding.weight"])
    ends = tables(started("MF")["folder"])
    assert torch.equal(own["user_embedding.weight"], ends.tensors["user_embedding.weight"])


def plan_of(model: str, start: str, **more: Any) -> None:
    make_plan(make_request(merge_sources(None, keys(model, start, **more), {"model": model})))


def test_what_does_not_fit_is_a_sentence_before_anything_is_trained(tmp_path: Path) -> None:
    mf, sasrec = trained("MF")["folder"], trained("SASRec")["folder"]
    cases: list[tuple[str, str, dict[str, Any], str]] = [
        ("MF", sasrec, {}, "it is a SASRec, and the student is a MF"),
        ("MF", mf, {"embedding_size": 8}, "its user_embedding.weight is 31x4, not 37x8"),
        ("SASRec", sasrec, {"n_heads": 2}, "it has n_heads=1, not 2"),
        ("SASRec", sasrec, {"n_layers": 2}, "n_layers"),
        ("LightGCN", trained("LightGCN")["folder"], {"n_layers": 1}, "n_layers"),
        ("SASRec", sasrec, {"MAX_ITEM_LIST_LENGTH": 12}, "position_embedding"),
    ]
    for model, start, more, said in cases:
        with pytest.raises(ConfigError, match="Invalid --init_from") as error:
            plan_of(model, start, **more)
        assert said in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(StudentError, match="No student at"):
        plan_of("MF", str(tmp_path))
    write_tiny(tmp_path, "strange", prefix="x")
    with pytest.raises(ConfigError, match="none of its 40 items is in this data set"):
        plan_of("MF", mf, dataset="strange", data_path=str(tmp_path))
    with pytest.raises(ConfigError, match="key of the whole run"):
        plan_of("MF", mf, teacher_config={"epochs": 1, "init_from": mf})


def test_a_damaged_folder_is_a_sentence(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(Path(trained("LightGCN")["folder"]) / "student", tmp_path / "s"))
    content = bytearray((folder / "trained.safetensors").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "trained.safetensors").write_bytes(content)
    with pytest.raises(StudentError, match=r"trained.safetensors is not what was written"):
        read_earlier_student(str(folder))
    (folder / "trained.safetensors").unlink()
    with pytest.raises(StudentError, match=r"trained.safetensors is missing"):
        read_earlier_student(str(folder))


class Odd(nn.Module):
    """Tables whose names say nothing."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.table, self.layer = nn.Embedding(rows, 2), nn.Linear(2, 3)


def test_a_shape_that_fits_users_and_items_is_refused_unless_nothing_moves() -> None:
    ids = ["[PAD]", "a", "b", "c"]
    model = Odd(4)
    weights = {name: tensor.clone() for name, tensor in Odd(4).state_dict().items()}
    earlier = EarlierStudent("s", "", {}, weights, ids, ids)
    earlier.give(model, ids, ids)
    assert torch.equal(model.table.weight, weights["table.weight"])
    assert torch.equal(model.layer.weight, weights["layer.weight"])
    with pytest.raises(ConfigError, match="does not tell whether"):
        earlier.give(model, ids, ["[PAD]", "c", "b", "a"])
    with pytest.raises(ConfigError, match=r"only one of the two has layer\.bias"):
        EarlierStudent("s", "", {}, {k: v for k, v in weights.items() if k != "layer.bias"}, ids, ids).give(
            model, ids, ids
        )


def test_rows_after_the_last_item_stay_behind_it() -> None:
    class Masked(nn.Module):
        def __init__(self, n: int) -> None:
            super().__init__()
            self.item_embedding = nn.Embedding(n, 2)  # one more row than there are items, as BERT4Rec has

    model, source = Masked(6), Masked(5)
    weights = {name: tensor.clone() for name, tensor in source.state_dict().items()}
    earlier = EarlierStudent("s", "", {}, weights, ["[PAD]", "u"], ["[PAD]", "a", "b", "c"])
    fresh = model.item_embedding.weight.detach().clone()
    earlier.give(model, ["[PAD]", "u"], ["[PAD]", "c", "d", "a", "b"])
    old = weights["item_embedding.weight"]
    assert torch.equal(model.item_embedding.weight, torch.stack([old[0], old[3], fresh[2], old[1], old[2], old[4]]))
