"""Files that ask for code, in every place where a file is read: none is executed, each is refused."""

from __future__ import annotations

import io
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recbole_kd.errors import KDError
from recbole_kd.integration import safe_load
from tests.support.bombs import Bombs, as_checkpoint
from tests.support.campaign import Home, Record
from tests.support.forged_pickles import pickled
from tests.support.forked import Ending, Job, operations

pytestmark = pytest.mark.campaign


def refusing(function: Callable[[], Any]) -> Job:
    """Return a job that prints a KDError as the program does."""

    def job(words: list[str]) -> int:
        try:
            function()
        except KDError as error:
            print("error:", " ".join(str(error).split()), file=sys.stderr)
            return 2
        return 0

    return job


@pytest.fixture(scope="module")
def trained(campaign: Record, data: Path) -> Home:
    """A home with one finished run."""
    home = Home(campaign.folder / "bombs", data)
    assert home.run(home.words()).code == 0
    return home


@pytest.fixture(scope="module")
def bombs(campaign: Record) -> Bombs:
    """The bombs of this session; the module that is one can be imported."""
    made = Bombs(campaign.folder / "hostile")
    os.environ["PYTHONPATH"] = f"{made.folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    return made


def armed(bombs: Bombs) -> Callable[[], object]:
    """Return what makes a child able to import the canary."""

    return lambda: sys.path.insert(0, str(bombs.folder))


def refused(ending: Ending, bombs: Bombs, must: bool = True) -> str | None:
    """Return what does not hold: something was executed, accepted, or not refused in a sentence."""
    problem = bombs.went_off() or ending.problem()
    return problem or ("accepted" if must and ending.code == 0 else None)


def test_both_readers_of_pickles(trained: Home, bombs: Bombs, campaign: Record) -> None:
    whole = next(trained.saved.glob("*/MF.pth"))
    path = trained.folder / "bomb.pth"
    for name, content in bombs.pickles().items():
        job = refusing(lambda content=content: safe_load.load_pickle(io.BytesIO(content)))  # type: ignore[misc]
        campaign.note("bombs", f"load_pickle, {name}", refused(trained.run([], job, before=armed(bombs)), bombs))
        as_checkpoint(path, content, whole)
        job = refusing(lambda: safe_load.load_checkpoint(path))
        campaign.note("bombs", f"load_checkpoint, {name}", refused(trained.run([], job, before=armed(bombs)), bombs))
    campaign.check("bombs")


def test_the_programs_own_files(trained: Home, bombs: Bombs, campaign: Record) -> None:
    """A teacher that is named, the data caches of RecBole, and each state of a killed run."""
    whole = next(trained.saved.glob("*/MF.pth"))
    forged, raw = trained.folder / "forged.pth", trained.folder / "raw.pth"
    as_checkpoint(forged, pickled({"config": bombs.call_of("os.system")}), whole)
    raw.write_bytes(bombs.loud())
    saved = {"teacher": None, "teacher__epochs": None, "teacher__embedding_size": None}
    for path in (forged, raw):
        given = trained.words(f"--teacher_path={path}", **saved)
        campaign.note("bombs", f"--teacher_path={path.name}", refused(trained.run(given), bombs))
        given = trained.words(f"--dataset_save_path={path}", f"--dataloaders_save_path={path}", "--seed=3")
        campaign.note("bombs", f"data caches {path.name}", refused(trained.run(given), bombs, must=False))
        given = ["recommend", str(path), f"--users={path}", f"--out={trained.folder / 'x.csv'}"]
        campaign.note("bombs", f"recommend {path.name}", refused(trained.run(given), bombs))
        for verb in (["convert-teacher", "--dense"], ["export-lists"]):
            given = [verb[0], str(path), *verb[1:], f"--out={trained.folder / 'x'}"]
            campaign.note("bombs", f"{verb[0]} {path.name}", refused(trained.run(given), bombs))
    given = trained.words(cache_dir=str(trained.folder / "cache2"))
    trained.run(given, list_below=trained.folder / "cache2")
    lines = operations(trained.folder / "here")
    for stage in ("/teacher/", "/student/", "/distilled/"):
        renames = [
            n for n, line in enumerate(lines, 1) if stage in line and line.startswith("os.rename") and ".pt" in line
        ]
        for which in (forged, raw):
            for best in (False, True):
                shutil.rmtree(trained.folder / "cache2", ignore_errors=True)
                trained.run(given, kill_before=(renames[0] + 1, trained.folder / "cache2"))
                states = [
                    p
                    for p in (trained.folder / "cache2").rglob("*.pt*")
                    if p.is_file() and p.suffix != ".lock" and stage in str(p)
                ]
                states = [p for p in states if (".best-" in p.name) == best]
                assert states
                for path in states:
                    path.write_bytes(which.read_bytes())
                ending = trained.run([*given, "--resume=True"])
                campaign.note("bombs", f"{stage} {'best' if best else 'state'} {which.name}", refused(ending, bombs))
    campaign.check("bombs")


def _recbole(data: Path, model: str, **more: Any) -> Callable[[], Any]:
    from recbole.quick_start import run_recbole

    keys = {
        "data_path": str(data),
        "epochs": 1,
        "show_progress": False,
        "load_col": {"inter": ["user_id", "item_id"]},
        **more,
    }
    return lambda: run_recbole(model=model, dataset="tiny", config_dict=keys)


def test_recboles_own_ways_of_reading(trained: Home, bombs: Bombs, campaign: Record, data: Path) -> None:
    import recbole.quick_start

    whole = next(trained.saved.glob("*/MF.pth"))
    forged, raw, array = trained.folder / "forged.pth", trained.folder / "raw.pth", trained.folder / "array.npy"
    as_checkpoint(forged, pickled({"config": bombs.call_of("os.system")}), whole)
    for path in (raw, array):
        path.write_bytes(bombs.loud())
    for path in (forged, raw):
        text = str(path)
        ways = {
            "load_data_and_model": lambda text=text: recbole.quick_start.load_data_and_model(text),
            "NeuMF": _recbole(data, "NeuMF", use_pretrain=True, mf_pretrain_path=text, mlp_pretrain_path=text),
            "NAIS": _recbole(data, "NAIS", pretrain_path=text),
            "RaCT": _recbole(data, "RaCT", train_stage="actor_pretrain", pre_model_path=text),
            "S3Rec": _recbole(data, "S3Rec", train_stage="finetune", pre_model_path=text, train_neg_sample_args=None),
            "ConvNCF": _recbole(data, "ConvNCF", train_method="after_pretrain", pre_model_path=text),
            "LDiffRec": _recbole(data, "LDiffRec", emb_path=str(array)),
            "data caches": _recbole(data, "BPR", dataset_save_path=text, dataloaders_save_path=text),
        }
        for name, way in ways.items():
            ending = trained.run([], refusing(way), before=armed(bombs))  # type: ignore[arg-type]
            campaign.note("bombs", f"{name} {path.name}", bombs.went_off() or ("hangs" if ending.hung else None))
    campaign.check("bombs")


def test_text_files_and_words(trained: Home, bombs: Bombs, campaign: Record) -> None:
    """YAML tags, expressions in search spaces and on the command line, and methods that a file names."""
    file = trained.folder / "hostile.yaml"
    tags = {
        "apply": f"!!python/object/apply:os.system ['touch {bombs.mark}']",
        "new": f"!!python/object/new:os.system ['touch {bombs.mark}']",
        "object": "!!python/object:canary.Anything {}", "module": "!!python/module:canary ''",
        "name": "!!python/name:canary.anything ''",
    }  # fmt: skip
    for name, tag in tags.items():
        file.write_text(f"kd_weight: {tag}\n")
        ending = trained.run(trained.words(f"--config_files={file}"), before=armed(bombs))
        campaign.note("bombs", f"YAML {name} in a property file", refused(ending, bombs))
        ending = trained.run(["tune", *trained.words(f"--params_file={file}", "--tool=Hyperopt")], before=armed(bombs))
        campaign.note("bombs", f"YAML {name} in a search space", refused(ending, bombs))
        file.write_text(
            f"config: {{dataset: tiny, model: MF, teacher: MF, kd: RCEKD}}\nruns: {{a: {{kd_weight: {tag}}}}}\n"
        )
        ending = trained.run(["reproduce", str(file), f"--results={trained.folder / 'r'}"], before=armed(bombs))
        campaign.note("bombs", f"YAML {name} in a grid", refused(ending, bombs))
    for text in ("kd: canary:Anything", "kd: 'os:system'"):
        file.write_text(text + "\n")
        ending = trained.run(trained.words(f"--config_files={file}", kd=None), before=armed(bombs))
        campaign.note("bombs", f"{text} in a property file", refused(ending, bombs))
        file.write_text(f"config: {{dataset: tiny, model: MF, teacher: MF, {text}}}\nruns: {{a: {{}}}}\n")
        ending = trained.run(["reproduce", str(file), f"--results={trained.folder / 'r'}"], before=armed(bombs))
        campaign.note("bombs", f"{text} in a grid", refused(ending, bombs))
    hyper = trained.folder / "hostile.hyper"
    texts = (f"kd_weight choice [{bombs.code}]", f"kd_k uniform {bombs.code},5", "kd choice ['canary:Anything']")
    for study, text in enumerate(texts):
        hyper.write_text(text + "\n")
        more = [f"--params_file={hyper}", "--tool=Hyperopt", "--algo=random", "--max_evals=1", f"--study=s{study}"]
        ending = trained.run(["tune", *trained.words(*more)], before=armed(bombs))
        campaign.note("bombs", f".hyper {text[:20]}", refused(ending, bombs))
    for key in (
        "learning_rate",
        "topk",
        "metrics",
        "eval_args",
        "kd_k",
        "item_features",
        "benchmark_filename",
        "gpu_id",
    ):
        for value in (bombs.code, f"[{bombs.code}]", f"{{a: {bombs.code}}}"):
            given = [word for word in trained.words() if not word.startswith(f"--{key}")]
            ending = trained.run([*given, f"--{key}={value}"], before=armed(bombs))
            campaign.note("bombs", f"--{key} on the command line", refused(ending, bombs, must=False))
    campaign.check("bombs")
