"""Exports of a student: read by other libraries they score and rank as it does, and one that does not is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest
import torch

import recbole_kd
from recbole_kd.cli.program import main
from recbole_kd.errors import ConfigError, StudentError, TargetError
from recbole_kd.serving.exports import exported as exported_module
from recbole_kd.serving.exports import faiss_index
from recbole_kd.serving.exports.exported import Exported
from recbole_kd.serving.exports.npz import Npz, quantised
from recbole_kd.serving.exports.parity import parity
from recbole_kd.serving.known_interactions import KnownInteractions
from tests.support.students import trained

FORMS = ["npz", "faiss", "onnx", "int8"]
EXACT = FORMS[:3]
for library in ("faiss", "onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(library)


def student_of(model: str, protocol: str = "recbole") -> recbole_kd.Student:
    return recbole_kd.load_student(trained(model, protocol)["folder"])


@cache
def exported(model: str) -> tuple[Path, dict[str, Any]]:
    """The folder with all forms of a model, and what export() returned; made once."""
    folder = Path(mkdtemp(prefix="exports-")) / "out"
    return folder, student_of(model).export(FORMS, folder)


VECTOR_MODELS = ["MF", "LightGCN", "SASRec", "HSTU"]


@pytest.mark.parametrize("model", VECTOR_MODELS)
def test_parity_is_written_and_exact_but_for_int8(model: str) -> None:
    folder, content = exported(model)
    assert json.loads((folder / "parity.json").read_text()) == json.loads(json.dumps(content))
    assert sorted(path.name for path in folder.iterdir()) == sorted([*FORMS, "parity.json"])
    expected = trained(model)["distilled"]["test"]["ndcg@10"]
    for name in FORMS:
        found = content["forms"][name]
        assert found["bytes"] == sum(path.stat().st_size for path in (folder / name).iterdir())
        assert found["users"] == 30 and found["student_ndcg@10"] == pytest.approx(expected, abs=1e-9)
        assert found["largest_score"] > 0
    for name in EXACT:
        found = content["forms"][name]
        assert (found["top10_overlap"], found["other_lists"], found["beyond_ties"]) == (1.0, 0, 0)
        assert found["score_difference"] <= 1e-5 * found["largest_score"]
        assert found["ndcg@10"] == pytest.approx(expected, abs=1e-9)
    int8 = content["forms"]["int8"]
    assert 0.8 < int8["top10_overlap"] <= 1 and abs(int8["ndcg@10"] - expected) < 0.1
    assert 0 < int8["score_difference"] < 0.05 * int8["largest_score"]


# -- read by other libraries alone
# ---------------------------------------------------------------------------------------------


def history_of(student: recbole_kd.Student, user: str, width: int) -> dict[str, np.ndarray]:
    """Return the inputs of a service to a graph of histories.

    They hold all that is known of a user, asked at the last item's time.
    """
    seen = student.known.seen
    mine = seen["user"] == student.users.tokens.index(user)
    items, times = seen["item"][mine][-10:].numpy(), seen["time"][mine][-10:].numpy()
    pad = (0, width - len(items))
    return {
        "items": np.pad(items, pad)[None], "lengths": np.array([len(items)]), "times": np.pad(times, pad)[None],
        "asked": times[-1:],
    }  # fmt: skip


@pytest.mark.parametrize("model", VECTOR_MODELS)
def test_onnxruntime_scores_as_the_student(model: str) -> None:
    from onnxruntime import InferenceSession

    folder, _ = exported(model)
    student = student_of(model)
    query, scores = (
        InferenceSession(str(folder / "onnx" / f"{name}.onnx"), providers=["CPUExecutionProvider"])
        for name in ("query", "scores")
    )
    users, items = (json.loads((folder / "onnx" / f"{name}.json").read_text()) for name in ("users", "items"))
    wanted = {one.name for one in query.get_inputs()}
    assert wanted == {
        "SASRec": {"items", "lengths"}, "HSTU": {"items", "lengths", "times", "asked"},
    }.get(model, {"user"})  # fmt: skip
    for user in users[1:6]:
        given = {"user": np.array([users.index(user)])}
        if "items" in wanted:
            given = {name: value for name, value in history_of(student, user, 10).items() if name in wanted}
        (vector,) = query.run(["vector"], given)
        (row,) = scores.run(["scores"], {"vector": vector})
        assert row.shape == (1, len(items)) and row[0, 0] == -np.inf
        assert row[0, 1:] == pytest.approx(student.score([user], items[1:])[0], abs=1e-5, rel=1e-5)


@pytest.mark.parametrize("model", ["SASRec", "HSTU"])
def test_padding_of_a_history_changes_nothing(model: str) -> None:
    from onnxruntime import InferenceSession

    folder, _ = exported(model)
    query = InferenceSession(str(folder / "onnx" / "query.onnx"), providers=["CPUExecutionProvider"])
    student = student_of(model)
    user = min(
        student.users.tokens[1:],
        key=lambda user: int((student.known.seen["user"] == student.users.tokens.index(user)).sum()),
    )
    length = int(history_of(student, user, 10)["lengths"][0])
    wanted = [one.name for one in query.get_inputs()]
    found = []
    for width in (length, 10):
        given = history_of(student, user, width)
        found.append(query.run(["vector"], {name: given[name] for name in wanted})[0])
    one = {name: value[:, :1] if value.ndim == 2 else value for name, value in history_of(student, user, 10).items()}
    short = query.run(["vector"], {**{name: one[name] for name in wanted}, "lengths": np.array([1])})[0]
    assert found[0] == pytest.approx(found[1], abs=1e-6) and np.isfinite(short).all()
    assert not np.allclose(short, found[0], atol=1e-4)  # the history is read


@pytest.mark.parametrize("model", VECTOR_MODELS)
def test_numpy_and_faiss_rank_as_the_student(model: str) -> None:
    import faiss

    folder, _ = exported(model)
    student = student_of(model)
    with np.load(folder / "npz" / "vectors.npz") as archive:
        users, items = archive["users"].tolist(), archive["items"].tolist()
        queries, vectors = archive["user_vectors"], archive["item_vectors"]
    assert (users, items) == (student.users.tokens[1:], student.items.tokens[1:])
    index, ids = faiss.read_index(str(folder / "faiss" / "items.faiss")), folder / "faiss" / "items.json"
    _, found = index.search(queries, 10)
    names = np.array(json.loads(ids.read_text()))[found]
    expected = student.recommend(users, k=10, exclude_seen=False)
    assert names.tolist() == expected["item"].to_numpy().reshape(-1, 10).tolist()
    assert np.sort(queries @ vectors.T)[:, ::-1][:, :10].ravel() == pytest.approx(
        expected["score"].to_numpy(), abs=1e-6
    )


def test_int8_takes_a_byte_a_number() -> None:
    folder, _ = exported("MF")
    with np.load(folder / "int8" / "vectors.npz") as archive:
        arrays = dict(archive)
    exact = student_of("MF").embeddings()
    for kind, vectors in (("user", exact.user_vectors), ("item", exact.item_vectors)):
        steps, scales = arrays[f"{kind}_vectors"], arrays[f"{kind}_scales"]
        assert steps.dtype == np.int8 and np.abs(steps.astype(int)).max(axis=1).tolist() == [127] * len(steps)
        assert (np.abs(steps * scales[:, None] - vectors) <= 0.51 * scales[:, None]).all()
    steps, scales = quantised(np.array([[0.0, 0.0], [1e-30, -3e-30]], dtype=np.float32))
    assert steps.tolist() == [[0, 0], [42, -127]] and scales[0] == 0


@pytest.mark.parametrize(("index", "probed"), [("hnsw", 4), ("ivf", 4), ("ivf", 1)])
def test_approximate_indexes_say_what_they_find(
    index: str, probed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faiss_index, "PROBED", probed)
    found = student_of("MF").export("faiss", tmp_path / "out", index=index)["forms"]["faiss"]
    assert found["index"] == index and found["exact"] is False
    assert found["score_difference"] <= 1e-5 * found["largest_score"]  # of what is found
    if probed == 1:  # all cells are looked at
        assert found["top10_overlap"] == 1.0
    else:
        assert 0.3 < found["top10_overlap"] <= 1.0


# -- models without vectors
# ---------------------------------------------------------------------------------------------------


def test_neumf_is_exported_as_scores_alone(tmp_path: Path) -> None:
    from onnxruntime import InferenceSession

    student = student_of("NeuMF")
    for form in ("npz", "faiss", "int8"):
        with pytest.raises(ConfigError, match="NeuMF has none whose dot product is its score: export it to onnx"):
            student.export(["onnx", form], tmp_path / "out")
    found = student.export("onnx", tmp_path / "out")["forms"]["onnx"]
    assert found["top10_overlap"] == 1.0
    assert found["ndcg@10"] == pytest.approx(trained("NeuMF")["distilled"]["test"]["ndcg@10"], abs=1e-9)
    session = InferenceSession(str(tmp_path / "out" / "onnx" / "scores.onnx"), providers=["CPUExecutionProvider"])
    (score,) = session.run(["score"], {"user": np.array([3, 4, 5]), "item": np.array([7, 7, 9])})
    tokens = student.users.tokens, student.items.tokens
    pairs = [student.score([tokens[0][user]], [tokens[1][item]])[0, 0] for user, item in ((3, 7), (4, 7), (5, 9))]
    assert score == pytest.approx(pairs, abs=1e-6)


def test_another_model_of_histories_has_its_vectors(tmp_path: Path) -> None:
    student = student_of("GRU4Rec")
    with pytest.raises(ConfigError, match="not GRU4Rec: export it to npz, faiss or int8"):
        student.export("onnx", tmp_path / "out")
    assert student.export("npz", tmp_path / "out")["forms"]["npz"]["top10_overlap"] == 1.0


# -- parity
# -----------------------------------------------------------------------------------------------------------------


def test_ndcg_is_that_of_the_published_protocol_too(tmp_path: Path) -> None:
    found = student_of("SASRec", "paper").export("npz", tmp_path / "out")["forms"]["npz"]
    assert found["ndcg@10"] == pytest.approx(trained("SASRec", "paper")["distilled"]["test"]["ndcg@10"], abs=1e-9)


def test_ndcg_is_null_where_no_test_item_is_known(tmp_path: Path) -> None:
    student = student_of("MF")
    seen = {name: column[student.known.seen["part"] < 2] for name, column in student.known.seen.items()}
    known = KnownInteractions(seen, len(student.users), student.known.tested)
    found = replace(student, known=known).export("npz", tmp_path / "out")["forms"]["npz"]
    assert found["ndcg@10"] is None and found["student_ndcg@10"] is None and found["top10_overlap"] == 1.0


class _Swapped(Exported):
    """The student's lists of eleven items without the tenth: another item stands at the end."""

    def __init__(self, student: recbole_kd.Student) -> None:
        self.student = student

    def top_k(self, users: torch.Tensor, as_tested: bool, k: int, seen: Any) -> tuple[torch.Tensor, torch.Tensor]:
        from recbole_kd.ops.topk import top_k_in_blocks

        with self.student.scores.of_users(users, as_tested) as full:
            ids, scores = top_k_in_blocks(full, torch.arange(len(users)), len(self.student.items), k + 1, seen)
        kept = [*range(k - 1), k]
        return ids[:, kept], scores[:, kept]


def test_other_items_count_unless_they_are_ties() -> None:
    student = student_of("MF")
    found = parity(student, _Swapped(student))
    assert found["top10_overlap"] == pytest.approx(0.9) and found["other_lists"] == found["beyond_ties"] == 30
    vectors = student.scores.item_vectors()
    vectors[2::2] = vectors[1:-1:2]  # each item has a twin of the same score
    twins = parity(student, _Swapped(student))
    assert twins["other_lists"] == 30 and 0 < twins["beyond_ties"] < 30


@pytest.mark.parametrize("fault", ["scores", "ids", "nan"])
def test_a_form_that_differs_is_not_written(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write = Npz.write

    def faulty(self: Npz, student: recbole_kd.Student, folder: Path) -> None:
        write(self, student, folder)
        with np.load(folder / "vectors.npz") as archive:
            arrays = dict(archive)
        if fault == "ids":
            arrays["items"] = np.roll(arrays["items"], 1)
        else:
            arrays["item_vectors"][5] *= np.float32(1.001 if fault == "scores" else np.nan)
        np.savez(folder / "vectors.npz", **arrays)

    monkeypatch.setattr(Npz, "write", faulty)
    assert main(["export", trained("MF")["folder"], "--to=int8,npz", f"--out={tmp_path / 'out'}"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert {"scores": "does not score as the student", "nan": "nan", "ids": "cannot be kept"}[fault] in line
    assert list(tmp_path.iterdir()) == []


# -- the program and bad input
# ------------------------------------------------------------------------------------------------


def test_the_program_prints_parity(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["export", trained("MF")["folder"], "--to=npz,int8", f"--out={out}"]) == 0
    printed = capsys.readouterr().out
    content = json.loads((out / "parity.json").read_text())
    for name in ("npz", "int8"):
        (line,) = [line for line in printed.splitlines() if line.startswith(f"{name} ")]
        found = content["forms"][name]
        assert line.split() == [
            name, f"{found['bytes']:,}", f"{found['top10_overlap']:.4f}", f"{found['ndcg@10']:.4f}",
            f"{found['score_difference']:.1e}",
        ]  # fmt: skip
    assert f"{content['student']['bytes']:,}" in printed and content["student"]["bytes"] > 1000


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--to=npz,magic", "--out=out"], "Invalid --to=magic: expected some of npz, faiss, onnx, int8"),
        (["--to=faiss", "--index=tree", "--out=out"], "invalid choice"),
        (["--to=npz", "--out=mine"], "Invalid --out=mine: it holds note.txt"),
        (["--to=npz"], "--out"),
    ],
)
def test_bad_words_are_a_sentence(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "note.txt").write_text("mine")
    assert main(["export", trained("MF")["folder"], *words]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert said in line and (tmp_path / "mine" / "note.txt").read_text() == "mine" and not (tmp_path / "out").exists()


def test_the_api_refuses_the_same(tmp_path: Path) -> None:
    student = student_of("MF")
    for to, index, said in (
        ("magic", "flat", "Invalid to=magic"),
        ([], "flat", "nothing"),
        ("faiss", "tree", "Invalid index"),
    ):
        with pytest.raises(ConfigError, match=said):
            student.export(to, tmp_path / "out", index)
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(TargetError, match=r"note\.txt"):
        student.export("npz", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


@pytest.mark.parametrize(("form", "package"), [("faiss", "faiss-cpu"), ("onnx", "onnxruntime")])
def test_a_missing_package_is_named(form: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = package.removesuffix("-cpu")
    monkeypatch.setattr(exported_module, "find_spec", lambda name: None if name == module else name)
    with pytest.raises(ConfigError, match=f"needs {package}, not installed here: run `pip install {package}`"):
        student_of("MF").export(["npz", form], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_torch_that_cannot_export_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.onnx, "export", lambda model, args: None)  # as in torch 2.4
    with pytest.raises(ConfigError, match=r"The form onnx needs torch 2\.5 or newer.*pip install 'torch>=2\.5'"):
        student_of("MF").export(["npz", "onnx"], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_id_that_numpy_changes_is_refused(tmp_path: Path) -> None:
    student = student_of("MF")
    tokens = [*student.items.tokens[:-1], "last\0"]
    with pytest.raises(StudentError, match="cannot be kept"):
        replace(student, items=type(student.items)("item", tokens)).export("npz", tmp_path / "out")


def test_a_damaged_student_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(shutil.copytree(Path(trained("MF")["folder"]) / "student", tmp_path / "s"))
    (folder / "items.json").write_text("[]")
    assert main(["export", str(folder), "--to=npz", f"--out={tmp_path / 'out'}"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "is damaged: items.json" in line and not (tmp_path / "out").exists()
