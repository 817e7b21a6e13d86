"""One entry is made once, whoever asks; evaluation takes the memory it was given."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock, Timeout
from recbole.model.general_recommender import NeuMF

from recbole_kd.cli.run import main
from recbole_kd.data.split_and_loaders import evaluation_batch_size
from recbole_kd.storage.cache import cache_folder, locked
from recbole_kd.training import resume_state as resume_module
from recbole_kd.training.training_job import TrainingJob
from tests.support.helpers import TinyData, build_case
from tests.support.runs import cut_after, run, words

CITEULIKE = (5_219, 25_182)


def _use(entry: Path, log: Path, both: Any) -> None:
    """Make an entry where it is missing, slowly, and use it."""
    both.wait(30)
    with locked(entry):
        if not entry.exists():
            with open(log, "a") as stream:
                stream.write("made\n")
            time.sleep(0.3)
            entry.mkdir()
        with open(log, "a") as stream:
            stream.write("used\n")


def test_two_runs_make_an_entry_once(tmp_path: Path) -> None:
    entry, log = tmp_path / "cache" / "teacher" / "entry", tmp_path / "log"
    context = multiprocessing.get_context("fork")
    both = context.Barrier(2)
    runs = [context.Process(target=_use, args=(entry, log, both)) for _ in range(2)]
    for process in runs:
        process.start()
    for process in runs:
        process.join(30)
        assert process.exitcode == 0
    assert log.read_text().split() == ["made", "used", "used"]


def test_the_lock_is_let_go_after_an_error(tmp_path: Path) -> None:
    entry = tmp_path / "entry"
    with pytest.raises(ZeroDivisionError), locked(entry):
        with pytest.raises(Timeout):
            FileLock(str(entry) + ".lock", is_singleton=False).acquire(timeout=0)
        raise ZeroDivisionError
    with locked(entry):
        pass
    assert not entry.exists()


def test_where_the_cache_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RECBOLE_KD_CACHE", raising=False)
    assert cache_folder(None) == Path("saved/cache")
    monkeypatch.setenv("RECBOLE_KD_CACHE", str(tmp_path))
    assert cache_folder(None) == tmp_path
    assert cache_folder("~/teachers") == Path.home() / "teachers"


@pytest.mark.parametrize("name", ["MF", "LightGCN", "MultiVAE", "EASE", "NeuMF"])
@pytest.mark.parametrize("memory_mb", [1, 16, 256])
def test_an_evaluation_batch_is_whole_users_within_the_budget(
    tiny_dataset: TinyData, name: str, memory_mb: int
) -> None:
    model = build_case(tiny_dataset, name).model
    for n_users, n_items in (CITEULIKE, (30, 41), (10**6, 500)):
        size = evaluation_batch_size(model, n_users, n_items, memory_mb)
        assert 1 <= size <= n_users * n_items
        if name == "NeuMF":
            assert size % n_items == 0 or size < n_items
        else:
            assert size % n_items == 0
        assert 4 * size <= max(memory_mb * 2**20, 4 * n_items)


def test_citeulike_is_scored_by_hundreds(tiny_dataset: TinyData) -> None:
    size = evaluation_batch_size(build_case(tiny_dataset, "MF").model, *CITEULIKE, 256)
    assert size // CITEULIKE[1] > 100


def test_a_model_scored_row_by_row_gets_fewer_rows(tiny_dataset: TinyData) -> None:
    """Every row it scores holds the outputs of its layers as well."""
    sizes: dict[str, Any] = {
        name: evaluation_batch_size(build_case(tiny_dataset, name).model, *CITEULIKE, 256) for name in ("MF", "NeuMF")
    }
    assert 10 * sizes["NeuMF"] < 10 * sizes["MF"] / 2
    wide = build_case(tiny_dataset, "NeuMF", mlp_hidden_size=[512, 256]).model
    assert evaluation_batch_size(wide, *CITEULIKE, 256) < sizes["NeuMF"] / 4


def test_what_a_killed_process_left_of_an_entry_is_removed(tmp_path: Path) -> None:
    """By the next run that holds the entry's lock; another entry's stays."""
    made = run(tmp_path)
    entries = [path.with_suffix("") for path in (tmp_path / "cache").glob("*/*.lock")]
    assert {path.parent.name for path in entries} == {"teacher", "trained", "student", "distilled"}
    for entry in entries:
        (entry.parent / f".{entry.name}-99999999").mkdir()
        (entry.parent / f".{entry.name}0-99999999").mkdir()
        shutil.rmtree(entry, ignore_errors=True)
    (distilled,) = (entry for entry in entries if entry.parent.name == "distilled")
    mine = [distilled.with_name(f"{distilled.name}{end}") for end in (".99999999", ".pt.best-x3")]
    other = [path.with_name(path.name.replace(distilled.name, "other")) for path in mine]
    for path in (*mine, *other):
        path.write_text("half")
    again = run(tmp_path)
    assert again["distilled"]["test"] == made["distilled"]["test"] and not again["student"]["cached"]
    assert not any(path.exists() for path in mine) and all(path.exists() for path in other)
    for entry in entries:
        assert (
            not (entry.parent / f".{entry.name}-99999999").exists()
            and (entry.parent / f".{entry.name}0-99999999").exists()
        )


@pytest.mark.parametrize("resume", ["True", "False"])
def test_the_best_checkpoint_of_a_training_to_continue_is_no_leftover(
    resume: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resume_module, "SHARE_OF_TIME", 1e9)
    with monkeypatch.context() as patched:
        cut_after(2, 3, patched)
        with pytest.raises(KeyboardInterrupt):
            main(words(tmp_path))
    (best,) = (tmp_path / "cache" / "distilled").glob("*.best-*")
    best.with_name(best.name.partition(".")[0] + ".99999999").write_text("half")
    run(tmp_path, f"--resume={resume}")
    assert {path.suffix for path in (tmp_path / "cache" / "distilled").iterdir()} == {".lock"}


def test_the_loaders_processes_change_nothing_that_is_kept(tmp_path: Path) -> None:
    """Batches and negatives are made in the process itself, so a teacher of one number of workers serves any other."""
    plain, several = run(tmp_path), run(tmp_path, "--worker=1")
    assert several["teacher"]["cached"] and several["student"]["cached"]
    assert several["teacher"]["path"] == plain["teacher"]["path"]
    assert several["distilled"]["kd_loss"] == plain["distilled"]["kd_loss"]
    settings = json.loads((Path(plain["teacher"]["path"]) / "manifest.json").read_text())["settings"]
    assert "worker" not in settings


def refuse_training(patched: pytest.MonkeyPatch) -> None:
    """Let a training of a teacher or student fail; a method's goes on."""
    plain = TrainingJob.train

    def train(self: TrainingJob) -> Any:
        assert self.teacher is not None, f"{self.config['model']} is trained again"
        return plain(self)

    patched.setattr(TrainingJob, "train", train)


STORES = [("auto", "fp32"), ("auto", "fp16"), ("dense", "fp16"), ("dense", "fp32"), ("online", "fp32")]


def teacher_keys(teacher: str) -> dict[str, Any]:
    """What a short run with the teacher is given."""
    size = {} if teacher == "LightGCN" else {"teacher.embedding_size": None}
    return {"teacher": teacher, "kd_compare": "False", "epochs": "1", **size}


@pytest.fixture(scope="module")
def trained_for(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str, str], dict[str, Any]]:
    """The figures of a teacher that is trained for a store and a dtype; it is trained once."""
    folder = tmp_path_factory.mktemp("stores")
    made: dict[tuple[str, str, str], dict[str, Any]] = {}

    def figures(teacher: str, store: str, dtype: str) -> dict[str, Any]:
        if (teacher, store, dtype) not in made:
            place = str(folder / f"{teacher}-{store}-{dtype}")
            keys = {**teacher_keys(teacher), "teacher_store": store, "teacher_dtype": dtype, "cache_dir": place}
            made[teacher, store, dtype] = run(folder, **keys)["teacher"]
        return made[teacher, store, dtype]

    return figures


@pytest.mark.parametrize(
    ("teacher", "first"), [("LightGCN", "factors"), ("LightGCN", "dense"), ("LightGCN", "online"), ("NeuMF", "dense")]
)
def test_another_store_or_dtype_is_exported_without_training(
    teacher: str,
    first: str,
    trained_for: Callable[[str, str, str], dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The scores are those that a training for that store exports, bit for bit."""
    keys = teacher_keys(teacher)
    run(tmp_path, **keys, teacher_store=first)
    for store, dtype in STORES:
        with monkeypatch.context() as patched:
            refuse_training(patched)
            found = run(tmp_path, **keys, teacher_store=store, teacher_dtype=dtype)["teacher"]
        fresh = trained_for(teacher, store, dtype)
        assert found["cached"] and not fresh["cached"] and found["test"] == fresh["test"]
        folders = [Path(figures["path"]) for figures in (found, fresh)]
        for path in folders[1].glob("*.safetensors"):
            assert path.read_bytes() == (folders[0] / path.name).read_bytes(), (store, dtype, path.name)
    with monkeypatch.context() as patched:
        refuse_training(patched)
        assert run(tmp_path, **keys, teacher_svd="3", teacher_dtype="fp16")["teacher"]["cached"]


def test_auto_and_the_store_that_it_chooses_are_one_entry(tmp_path: Path) -> None:
    found = [
        run(tmp_path, kd_compare="False", teacher_store=store)["teacher"] for store in ("factors", "auto", "factors")
    ]
    assert len({figures["path"] for figures in found}) == 1 and [figures["cached"] for figures in found] == [
        False,
        True,
        True,
    ]


def test_kept_checkpoints_are_exported_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A method of a trajectory, another dtype: all its checkpoints come from the kept weights."""
    keys: dict[str, Any] = {
        "kd": "HetComp",
        "kd_n_samples": None,
        "kd_candidates": None,
        "kd_compare": "False",
        "kd_p": "1",
    }
    keys |= {"teacher.epochs": "6"}
    run(tmp_path, **keys)
    with monkeypatch.context() as patched:
        refuse_training(patched)
        found = run(tmp_path, **keys, teacher_dtype="fp16")["teacher"]
    fresh = run(tmp_path, **keys, teacher_dtype="fp16", cache_dir=str(tmp_path / "other"))["teacher"]
    assert found["trajectory"] == fresh["trajectory"] and len(found["trajectory"]) > 1
    files = [
        {path.name: path.read_bytes() for path in Path(figures["path"]).glob("scores*")} for figures in (found, fresh)
    ]
    assert files[0] == files[1] and len(files[0]) == len(found["trajectory"])


def test_a_teacher_of_a_version_without_kept_weights_is_read(tmp_path: Path) -> None:
    """Its scores as they are; another store is trained for, and its weights are kept then."""
    first = run(tmp_path, kd_compare="False")["teacher"]
    shutil.rmtree(tmp_path / "cache" / "trained")
    assert run(tmp_path, kd_compare="False")["teacher"] == {**first, "cached": True}
    assert not run(tmp_path, kd_compare="False", teacher_dtype="fp16")["teacher"]["cached"]
    assert run(tmp_path, kd_compare="False", teacher_store="online")["teacher"]["cached"]


def test_weights_that_do_not_give_the_scores_again_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that keeps something outside its weights is trained again, and the log says so."""
    keys: dict[str, Any] = {"teacher": "NeuMF", "teacher.embedding_size": None, "kd_compare": "False"}
    run(tmp_path, **keys)
    plain = NeuMF.__init__

    def other(self: NeuMF, *args: Any) -> None:
        plain(self, *args)
        self.sigmoid.forward = lambda scores: torch.sigmoid(scores + self.training - 0.5)
        self.predict_layer.forward = lambda rows: rows.sum(-1, keepdim=True)

    with monkeypatch.context() as patched:
        patched.setattr(NeuMF, "__init__", other)
        again = run(tmp_path, **keys, teacher_dtype="fp16")
    assert not again["teacher"]["cached"]
    assert "do not give the scores of the trained model again" in (again["folder"] / "run.log").read_text()


@pytest.mark.parametrize("harm", ["flip", "settings"])
def test_kept_weights_that_are_not_what_was_written_are_refused(
    harm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, kd_compare="False")
    (entry,) = (path for path in (tmp_path / "cache" / "trained").iterdir() if path.is_dir())
    if harm == "flip":
        raw = bytearray((entry / "model.safetensors").read_bytes())
        raw[-1] ^= 1
        (entry / "model.safetensors").write_bytes(raw)
    else:
        run(tmp_path, kd_compare="False", **{"teacher.embedding_size": "6"})
        (other,) = (path for path in entry.parent.iterdir() if path.is_dir() and path != entry)
        shutil.rmtree(entry)
        shutil.copytree(other, entry)
    capsys.readouterr()
    assert main(words(tmp_path, kd_compare="False", teacher_dtype="fp16")) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    assert (
        "is damaged" if harm == "flip" else "was not made for this run (embedding_size=6"
    ) in line and "delete the folder" in line
