"""A finished student: its folder is enough, it ranks as the run's test did, and a damaged folder is one sentence."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

import recbole_kd
from recbole_kd.errors import ConfigError, StudentError, UnknownIdError
from recbole_kd.integration import model_classes
from recbole_kd.integration import register as registration
from recbole_kd.serving import student as student_module
from recbole_kd.storage.files import write_manifest
from tests.support.fresh import python
from tests.support.students import trained

FILES = ("config.json", "items.json", "model.safetensors", "seen.safetensors", "users.json")


def folder_of(model: str, protocol: str = "recbole") -> Path:
    result = trained(model, protocol)
    assert result["student_export"] == {"folder": "student", "reason": None}
    return Path(result["folder"]) / "student"


def figures(student: recbole_kd.Student, ranked: pd.DataFrame, k: int, n_users: int | None) -> dict[str, float]:
    """Recall, NDCG and Hit at k over the users with a test item, from the list and the seen interactions alone."""
    seen = student.known.seen
    tested = seen["part"] == 2
    wanted: dict[str, set[str]] = {}
    for user, item in zip(
        student.users.of(seen["user"][tested].numpy()), student.items.of(seen["item"][tested].numpy()), strict=True
    ):
        wanted.setdefault(user, set()).add(item)
    sums = dict.fromkeys(("recall", "ndcg", "hit"), 0.0)
    lists = {user: list(some.sort_values("rank")["item"][:k]) for user, some in ranked.groupby("user")}
    for user, items in wanted.items():
        hits = [item in items for item in lists[user]]
        ideal = sum(1 / math.log2(place + 2) for place in range(min(k, len(items))))
        sums["recall"] += sum(hits) / len(items)
        sums["ndcg"] += sum(hit / math.log2(place + 2) for place, hit in enumerate(hits)) / ideal
        sums["hit"] += any(hits)
    return {f"{name}@{k}": total / (n_users or len(wanted)) for name, total in sums.items()}


@pytest.mark.parametrize("protocol", ["recbole", "paper"])
@pytest.mark.parametrize("model", ["MF", "LightGCN", "SASRec", "HSTU"])
def test_metrics_of_its_lists_are_those_of_the_run(model: str, protocol: str) -> None:
    """RecBole rounds its metrics to four places; what the run reports is compared as it is."""
    student = recbole_kd.load_student(folder_of(model, protocol))
    everybody = student.users.tokens[1:]
    ranked = student.recommend(everybody, k=10, exclude_seen="protocol")
    expected = trained(model, protocol)["distilled"]["test"]
    for k in (3, 10):
        found = figures(student, ranked, k, len(everybody) if protocol == "paper" else None)
        assert {name: expected[name] for name in found} == pytest.approx(found, abs=1e-9)


@pytest.mark.parametrize("model", ["GRU4Rec", "NeuMF"])
def test_other_models_are_rebuilt(model: str) -> None:
    student = recbole_kd.load_student(folder_of(model))
    ranked = student.recommend(student.users.tokens[1:], k=10, exclude_seen="protocol")
    expected = trained(model)["distilled"]["test"]
    found = figures(student, ranked, 10, None)
    assert {name: expected[name] for name in found} == pytest.approx(found, abs=1e-9)


def test_a_model_that_needs_its_data_is_said_in_the_result() -> None:
    export = trained("MultiVAE")["student_export"]
    assert export["folder"] is None and "MultiVAE cannot be built without its data set" in export["reason"]
    assert not (Path(trained("MultiVAE")["folder"]) / "student").exists()
    assert json.loads((Path(trained("MultiVAE")["folder"]) / "result.json").read_text())["student_export"] == export


def test_it_loads_elsewhere_without_data_and_says_nothing(tmp_path: Path) -> None:
    models = ["MF", "HSTU"]
    for model in models:
        shutil.copytree(folder_of(model), tmp_path / model)
    lines = (
        f"import recbole_kd\nfor model in {models}:\n"
        "    r = recbole_kd.load_student(model).recommend(['u3'], k=4)\n    assert len(r) == 4, r"
    )
    root = str(Path(recbole_kd.__file__).resolve().parents[1])
    environment = {"PYTHONPATH": root, "PATH": "", "OMP_NUM_THREADS": "1"}
    done = python("-c", lines, cwd=tmp_path, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(models)


def test_the_folder_holds_no_pickle_and_a_card_with_the_table() -> None:
    folder = folder_of("MF")
    assert sorted(path.name for path in folder.iterdir()) == sorted([*FILES, "README.md"])
    assert "test ndcg@10" in (folder / "README.md").read_text() and "load_student" in (folder / "README.md").read_text()
    config = json.loads((folder / "config.json").read_text())
    assert set(config["files"]) == {*FILES, "README.md"} - {"config.json"} and config["metrics"]["test"]
    assert not any(str(Path.home()) in str(value) or "/tmp" in str(value) for value in config["settings"].values())


# -- questions
# -----------------------------------------------------------------------------------------------------------------


def test_seen_items_candidates_and_excluded_items() -> None:
    student = recbole_kd.load_student(folder_of("MF"))
    seen = student.known.seen
    mine = set(student.items.of(seen["item"][seen["user"] == student.users.places(["u4"])[0]].numpy()))
    everything = student.recommend(["u4"], k=1000, exclude_seen=False)
    assert set(everything["item"]) == set(student.items.tokens[1:]) and list(everything["rank"]) == list(
        range(1, len(everything) + 1)
    )
    assert everything["score"].is_monotonic_decreasing
    fresh = student.recommend(["u4"], k=1000)
    assert set(fresh["item"]) == set(student.items.tokens[1:]) - mine
    some = list(fresh["item"][3:8])
    assert list(student.recommend(["u4"], k=3, candidates=some)["item"]) == some[:3]
    assert list(student.recommend(["u4"], k=3, candidates=some, exclude=some[:1])["item"]) == some[1:4]
    table = student.score(["u4", "u5"], some)
    assert table.shape == (2, 5) and table[0] == pytest.approx(fresh["score"][3:8].to_numpy(), abs=1e-6)


def test_users_come_as_they_are_asked_for_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    student = recbole_kd.load_student(folder_of("SASRec"))
    asked = ["u7", "u2", "u7", "u9"]
    whole = student.recommend(asked, k=3)
    assert list(whole["user"][::3]) == asked
    monkeypatch.setattr(student_module, "USERS_PER_BLOCK", 1)
    assert list(student.recommend(asked, k=3)["item"]) == list(whole["item"])


def test_unknown_ids_and_bad_arguments_are_a_sentence() -> None:
    student = recbole_kd.load_student(folder_of("MF"))
    with pytest.raises(UnknownIdError, match="no user 'nobody', '7'"):
        student.recommend(["u1", "nobody", 7])
    assert set(student.recommend(["u1", "nobody"], unknown="skip")["user"]) == {"u1"}
    assert student.recommend(["nobody"], unknown="skip").empty
    with pytest.raises(UnknownIdError, match=r"no item '\[PAD\]'"):
        student.recommend(["u1"], candidates=["[PAD]"])
    bad: list[dict[str, Any]] = [{"k": 0}, {"k": 2.5}, {"exclude_seen": "all"}, {"unknown": "drop"}]
    for given in bad:
        with pytest.raises(ConfigError, match=f"Invalid {next(iter(given))}"):
            student.recommend(["u1"], **given)
    with pytest.raises(ConfigError, match="expected a list"):
        student.recommend("u1")
    with pytest.raises(ConfigError, match="dot product"):
        recbole_kd.load_student(folder_of("NeuMF")).embeddings()


@pytest.mark.parametrize("model", ["MF", "HSTU"])
def test_embeddings_give_the_scores_and_similar_items_their_cosines(model: str) -> None:
    student = recbole_kd.load_student(folder_of(model))
    found = student.embeddings()
    best = student.recommend(["u6"], k=5, exclude_seen=False)
    products = found.user_vectors[found.users.index("u6")] @ found.item_vectors.T
    assert [found.items[place] for place in np.argsort(-products, kind="stable")[:5]] == list(best["item"])
    unit = found.item_vectors / np.linalg.norm(found.item_vectors, axis=1, keepdims=True)
    near = student.similar_items(["i3"], k=2)
    cosines = unit @ unit[found.items.index("i3")]
    cosines[found.items.index("i3")] = -np.inf
    assert list(near["similar"]) == [found.items[place] for place in np.argsort(-cosines, kind="stable")[:2]]
    assert near["score"].to_numpy() == pytest.approx(np.sort(cosines)[::-1][:2], abs=1e-6)


# -- damage and attacks
# --------------------------------------------------------------------------------------------------------


def said_of(folder: Path) -> str:
    with pytest.raises(StudentError) as error:
        recbole_kd.load_student(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


OTHER = {
    "config.json": "config.json", "users.json": "items.json", "items.json": "users.json",
    "model.safetensors": "seen.safetensors",
    "seen.safetensors": "model.safetensors",
}  # fmt: skip
"""The file of another run that takes a file's place."""


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["missing", "truncated", "byte", "swapped"])
def test_a_damaged_folder_is_one_sentence(name: str, damage: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folder_of("MF"), tmp_path / "s"))
    content = bytearray((folder / name).read_bytes())
    if damage == "missing":
        (folder / name).unlink()
    elif damage == "swapped":
        shutil.copy(folder_of("SASRec") / OTHER[name], folder / name)
    else:
        place = len(content) // 2
        content[place] ^= 1
        (folder / name).write_bytes(content[:place] if damage == "truncated" else content)
    assert str(folder) in said_of(folder)


def resealed(tmp_path: Path, of: str, **changes: Any) -> Path:
    """A copy whose config.json has other values, with the digests of what is there: as an attacker would make it."""
    folder = Path(shutil.copytree(folder_of(of), tmp_path / "s", dirs_exist_ok=True))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").unlink()
    write_manifest(folder, {**config, **changes}, "config.json")
    return folder


def test_another_version_and_impossible_values_are_one_sentence(tmp_path: Path) -> None:
    assert "format 9" in said_of(resealed(tmp_path, "MF", format=9))
    assert "list of 500 ids" in said_of(resealed(tmp_path, "MF", n_users=500))
    for values in ({"form": "magic"}, {"protocol": {"masked": 1}}, {"settings": 3}, {"model": None}):
        said_of(resealed(tmp_path, "MF", **values))
    settings = json.loads((folder_of("SASRec") / "config.json").read_text())["settings"]
    assert "do not fit" in said_of(resealed(tmp_path / "other", "SASRec", settings={**settings, "inner_size": 16}))
    assert "cannot be built" in said_of(
        resealed(tmp_path / "third", "SASRec", settings={**settings, "hidden_size": "many"})
    )


def test_forged_columns_are_one_sentence(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folder_of("SASRec"), tmp_path / "s"))
    seen = load_file(folder / "seen.safetensors")
    config = json.loads((folder / "config.json").read_text())
    forged = [
        {**seen, "item": seen["item"] + 10_000}, {**seen, "user": seen["user"].flip(0)}, {"user": seen["user"]},
        {**seen, "part": seen["part"].double()}, {**seen, "time": seen["time"][:3]},
    ]  # fmt: skip
    for columns in forged:
        save_file({name: column.contiguous() for name, column in columns.items()}, folder / "seen.safetensors")
        (folder / "config.json").unlink()
        write_manifest(folder, config, "config.json")
        assert "seen.safetensors" in said_of(folder)


@pytest.mark.parametrize("name", FILES)
def test_no_file_runs_code(name: str, tmp_path: Path) -> None:
    """Each file in turn is a pickle that would leave a mark, with the digests of an attacker."""
    mark = tmp_path / "mark"

    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (mark,)

    folder = Path(shutil.copytree(folder_of("SASRec"), tmp_path / "s"))
    config = json.loads((folder / "config.json").read_text())
    torch.save(Attack(), folder / name)
    if name != "config.json":
        (folder / "config.json").unlink()
        write_manifest(folder, config, "config.json")
    said_of(folder)
    assert not mark.exists()


def test_names_in_the_config_import_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')")
    monkeypatch.syspath_prepend(str(tmp_path))
    for model, where in (
        ("evil", "evil.Evil"),
        ("..evil", "evil"),
        ("SASRec", "evil.SASRec"),
        ("os.system", "os.system"),
    ):
        said = said_of(resealed(tmp_path / f"s{where}{model[0]}", "SASRec", model=model, model_class=where))
        assert "register_model" in said
    settings = json.loads((folder_of("NeuMF") / "config.json").read_text())["settings"]
    bad = tmp_path / "bad.pth"
    forged = {**settings, "use_pretrain": True, "mf_pretrain_path": str(bad), "mlp_pretrain_path": str(bad)}
    recbole_kd.load_student(
        resealed(tmp_path / "pre", "NeuMF", settings=forged)
    )  # the files that it names are not looked for
    assert not (tmp_path / "mark").exists()


def test_a_class_of_the_users_own_is_refused_until_it_is_registered(
    tmp_path: Path, own_models: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    Own = type("OwnMF", (recbole_kd.model.mf.MF,), {"__module__": __name__})  # type: ignore[attr-defined]
    folder = resealed(tmp_path, "MF", model="OwnMF", model_class=f"{__name__}.OwnMF")
    assert "recbole_kd.register_model(OwnMF)" in said_of(folder)
    recbole_kd.register_model(Own)
    assert len(recbole_kd.load_student(folder).recommend(["u1"], k=2)) == 2
    assert registration._registered["OwnMF"] is Own and (__name__, "OwnMF") in model_classes._known


def test_loading_leaves_the_random_numbers_alone() -> None:
    folder = folder_of("SASRec")
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    recbole_kd.load_student(folder)
    assert torch.equal(torch.rand(2), expected)
