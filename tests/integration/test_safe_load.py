"""The restricted reader: RecBole's own checkpoints round trip, files that ask for more are refused and run nothing."""

from __future__ import annotations

import builtins
import io
import os
import pickle
import subprocess
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import recbole_kd  # noqa: F401  (registers and installs)
from recbole_kd.errors import TeacherError
from recbole_kd.integration import model_classes, pickle_call_sites, safe_load
from recbole_kd.integration.inert_objects import Reference
from tests.support.helpers import dataset_of, write_tiny

SETTINGS = {
    "epochs": 1,
    "embedding_size": 8,
    "hidden_size": 8,
    "inner_size": 8,
    "n_layers": 1,
    "n_heads": 1,
    "MAX_ITEM_LIST_LENGTH": 5,
    "load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "class"]},
    "train_batch_size": 8192,
    "eval_batch_size": 1_000_000,
    "topk": 10,
    "valid_metric": "MRR@10",
    "metric_decimal_place": 10,
    "gpu_id": "",
    "state": "ERROR",
    "show_progress": False,
}
MODELS = ("BPR", "LightGCN", "EASE", "SASRec", "GRU4RecF")


class Bomb:
    """Pickles as a call of ``function``."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def _bombs(mark: Path) -> dict[str, Bomb]:
    write = f"open({str(mark)!r}, 'w').write('ran')"
    return {
        "os.system": Bomb(os.system, f"touch {mark}"),
        "eval": Bomb(eval, write),
        "exec": Bomb(builtins.exec, write),
        "subprocess": Bomb(subprocess.call, ["touch", str(mark)]),
        "open": Bomb(open, str(mark), "w"),
        "getattr": Bomb(getattr, "text", "upper"),
        "torch.load": Bomb(torch.load, str(mark)),
        "numpy.load": Bomb(np.load, str(mark)),
    }


def _save(path: Path, content: Any, form: str) -> None:
    if form == "torch":
        torch.save(content, path, pickle_protocol=4)
    else:
        path.write_bytes(pickle.dumps(content, protocol=int(form)))


def _read(path: Path, form: str) -> Any:
    if form == "torch":
        return safe_load.load_checkpoint(path)
    with open(path, "rb") as file:
        return safe_load.load_pickle(file)


@pytest.mark.parametrize("form", ["torch", "0", "2", "4", "5"])
@pytest.mark.parametrize("bomb", sorted(_bombs(Path("mark"))))
def test_a_bomb_is_refused_and_does_not_go_off(bomb: str, form: str, tmp_path: Path) -> None:
    mark, path = tmp_path / "mark", tmp_path / "bomb.pth"
    _save(path, {"state_dict": {}, "config": _bombs(mark)[bomb]}, form)
    with pytest.raises(TeacherError) as refused:
        _read(path, form)
    assert not mark.exists()
    assert str(path) in str(refused.value) and "not on the list" in str(refused.value)
    assert bomb.split(".")[-1] in str(refused.value) or bomb == "os.system" or bomb == "subprocess"


class CallsConfig:
    """Asks for ``Config(..., config_dict={...})``: a listed name whose constructor gives strings to eval."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __reduce__(self) -> tuple[Any, ...]:
        from recbole.config import Config

        return Config, ("BPR", "ml-100k", None, {"x": self.code})


def test_config_is_never_constructed_from_a_file(tmp_path: Path) -> None:
    mark, path = tmp_path / "mark", tmp_path / "bomb.pth"
    torch.save({"config": CallsConfig(f"open({str(mark)!r}, 'w')"), "state_dict": {}}, path, pickle_protocol=4)
    with pytest.raises(TeacherError, match="Config"):
        safe_load.load_checkpoint(path)
    assert not mark.exists()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Each model trained for one epoch: its trainer, its loaders and its file."""
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    folder = tmp_path_factory.mktemp("runs")
    data = write_tiny(folder / "data", "tiny")
    classes = [f"i{item}\tc{item % 3}" for item in range(40)]
    Path(data.data_path, "tiny", "tiny.item").write_text("\n".join(["item_id:token\tclass:token_seq", *classes]))
    before, found = os.getcwd(), {}
    os.chdir(folder)
    try:
        for name in MODELS:
            settings = dict(SETTINGS, checkpoint_dir=str(folder / name), data_path=data.data_path)
            if name in ("SASRec", "GRU4RecF"):
                settings.update(train_neg_sample_args=None)
            config = Config(model=name, dataset=data.name, config_dict=settings)
            init_seed(config["seed"], config["reproducibility"])
            loaders = data_preparation(config, create_dataset(config))
            model = get_model(name)(config, dataset_of(loaders[0]))
            trainer = get_trainer(config["MODEL_TYPE"], name)(config, model)
            trainer.fit(*loaders[:2], verbose=False)
            found[name] = (config, loaders, trainer)
    finally:
        os.chdir(before)
    return found


@pytest.mark.parametrize("name", MODELS)
def test_recboles_checkpoints_round_trip(
    name: str, runs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recbole.quick_start import load_data_and_model
    from recbole.utils import get_model, get_trainer

    monkeypatch.chdir(tmp_path)
    config, loaders, trainer = runs[name]
    want = trainer.evaluate(loaders[2], load_best_model=False)
    assert any(value > 0 for value in want.values())
    assert trainer.evaluate(loaders[2], load_best_model=True) == want

    fresh = get_trainer(config["MODEL_TYPE"], name)(config, get_model(name)(config, dataset_of(loaders[0])))
    if name != "EASE":  # fitted in closed form, without an optimizer to resume
        fresh.resume_checkpoint(trainer.saved_model_file)
        assert fresh.start_epoch == 1
        assert fresh.evaluate(loaders[2], load_best_model=False) == want

    read_config, model, _, _, _, test = load_data_and_model(trainer.saved_model_file)
    assert get_trainer(config["MODEL_TYPE"], name)(read_config, model).evaluate(test, load_best_model=False) == want
    original = torch.load(trainer.saved_model_file, weights_only=False)["config"]
    assert str(read_config.final_config_dict) == str(original.final_config_dict)
    assert vars(read_config).keys() == vars(original).keys()
    assert read_config.model_class is get_model(name)
    assert read_config.yaml_loader is original.yaml_loader


def test_a_layer_in_other_parameter_is_left_out_and_loses_nothing(runs: dict[str, Any]) -> None:
    file = runs["GRU4RecF"][2].saved_model_file
    original = torch.load(file, weights_only=False)
    assert isinstance(original["other_parameter"]["feature_embed_layer"], torch.nn.Module)
    safe = safe_load.load_checkpoint(file)
    assert safe["other_parameter"] is None
    for key, weight in original["other_parameter"]["feature_embed_layer"].state_dict().items():
        assert torch.equal(safe["state_dict"][f"feature_embed_layer.{key}"], weight)


def test_the_kd_dagfm_teacher_must_be_a_name(runs: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = torch.load(runs["BPR"][2].saved_model_file, weights_only=False)
    checkpoint["config"].final_config_dict.update(model="KD_DAGFM", teacher="__import__('os').getcwd()")
    torch.save(checkpoint, tmp_path / "c.pth", pickle_protocol=4)
    with pytest.raises(TeacherError, match="KD_DAGFM"):
        safe_load.load_checkpoint(tmp_path / "c.pth")


def test_the_model_class_must_be_a_model(runs: dict[str, Any], tmp_path: Path) -> None:
    from recbole.model.loss import BPRLoss  # a Module, so allowed

    checkpoint = torch.load(runs["BPR"][2].saved_model_file, weights_only=False)
    vars(checkpoint["config"])["model_class"] = BPRLoss
    torch.save(checkpoint, tmp_path / "good.pth", pickle_protocol=4)
    assert safe_load.load_checkpoint(tmp_path / "good.pth")["config"].model_class is BPRLoss

    for module, name in (
        ("recbole.model.general_recommender.random", "torch"),
        ("recbole.model.general_recommender.random", "torch.load"),
        ("recbole.model.no_such_module", "X"),
    ):
        with pytest.raises((LookupError, ImportError)):
            model_classes.model_class(Reference(module, name))


@pytest.mark.parametrize("keep", [0, 3, 100, 0.5, 0.99])
def test_a_truncated_file_is_named(keep: float, runs: dict[str, Any], tmp_path: Path) -> None:
    content = Path(runs["BPR"][2].saved_model_file).read_bytes()
    path = tmp_path / "short.pth"
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(TeacherError, match=r"short\.pth"):
        safe_load.load_checkpoint(path)


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x80\x04garbage", b"PK\x03\x04garbage", os.urandom(999)])
def test_garbage_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "garbage.pth"
    path.write_bytes(content)
    with pytest.raises(TeacherError, match=r"garbage\.pth"):
        safe_load.load_checkpoint(path)
    with open(path, "rb") as file, pytest.raises(TeacherError, match=r"garbage\.pth"):
        safe_load.load_pickle(file)


def test_old_formats_and_torchscript_are_refused(tmp_path: Path) -> None:
    old, script = tmp_path / "old.pth", tmp_path / "script.pth"
    torch.save({"a": 1}, old, _use_new_zipfile_serialization=False)
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), script)
    for path in (old, script):
        with pytest.raises(TeacherError, match=path.name):
            safe_load.load_checkpoint(path)


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        safe_load.load_checkpoint(tmp_path / "none.pth")


def _forge(*parts: bytes) -> bytes:
    return b"".join((b"\x80\x04", *parts, b"."))


def _text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


@pytest.mark.parametrize(
    "content",
    [
        # A dotted name would walk from a listed class to its globals.
        _forge(_text("collections"), _text("OrderedDict.fromkeys"), b"\x93"),
        # A state for a class would change the class for the whole process.
        _forge(_text("collections"), _text("OrderedDict"), b"\x93", b"N}", _text("x"), b"K\x01s\x86b"),
        # A value may be mentioned and not called.
        _forge(_text("numpy"), _text("ndarray"), b"\x93", b"K\x02\x85\x85R"),
        # The old instructions that call.
        b"cos\nsystem\n(S'true'\ntR.",
        b"(S'true'\nios\nsystem\n.",
        b"(ccollections\nOrderedDict\no.",
        # Encoders other than the one of old pickles.
        _forge(_text("_codecs"), _text("encode"), b"\x93", _text("x"), _text("rot13"), b"\x86R"),
    ],
)
def test_forged_pickles_are_refused(content: bytes) -> None:
    with pytest.raises(TeacherError, match="not on the list"):
        safe_load.load_pickle(io.BytesIO(content))
    assert not hasattr(OrderedDict, "x")


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_plain_values_arrays_and_matrices_are_read(protocol: int) -> None:
    if protocol == 0:
        content: dict[str, Any] = {"n": [1, 2.5, None, "x", True]}
    else:
        content = {
            "n": [1, 2.5, None, "x", True],
            "s": {1, 2},
            "d": np.float64(0.5),
            "a": np.arange(6).reshape(2, 3),
        }
        for kind in ("csr", "csc", "coo", "lil"):
            content[kind] = sp.random(4, 5, 0.4, format=kind, random_state=1)
    if protocol == 5:
        content.pop("a")
        with pytest.raises(TeacherError):  # _frombuffer: RecBole's files are of protocol 4
            safe_load.load_pickle(io.BytesIO(pickle.dumps(np.arange(3), protocol=5)))
        return
    read = safe_load.load_pickle(io.BytesIO(pickle.dumps(content, protocol=protocol)))
    assert read.keys() == content.keys() and read["n"] == content["n"]
    for key in read.keys() - {"n"}:
        same = (read[key] != content[key]).nnz == 0 if sp.issparse(read[key]) else np.all(read[key] == content[key])
        assert same and type(read[key]) is type(content[key]), key


class Forged:
    """Pickles as ``function(*arguments)`` that is then given ``state``."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...], state: Any = None) -> None:
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


@pytest.mark.parametrize(
    "state",
    [
        (3, "<", None, None, None, -1, -1, 63),  # a number type whose bytes would be used as pointers to objects
        (3, "|", None, ("a",), {"a": (np.dtype("f8"), 10**6)}, 8, 1, 0),  # a field outside the row
        (3, "<", None, None, None, -1, -1),
    ],
)
@pytest.mark.parametrize("dtype", ["f8", "V8"])
def test_a_dtype_takes_only_the_state_that_numpy_writes(dtype: str, state: tuple[Any, ...]) -> None:
    with pytest.raises(TeacherError, match="a state for" if dtype == "f8" else "the numpy type 'V8'"):
        safe_load.load_pickle(io.BytesIO(pickle.dumps(Forged(np.dtype, (dtype, False, True), state), protocol=4)))


def test_a_sparse_matrix_cannot_bring_its_own_check() -> None:
    matrix = sp.random(4, 5, 0.5, format="csr", random_state=1)
    matrix.indices[0] = 99
    vars(matrix)["check_format"] = OrderedDict
    with pytest.raises(TeacherError, match="a state for"):
        safe_load.load_pickle(io.BytesIO(pickle.dumps(matrix, protocol=4)))
    parts = (matrix.data, matrix.indices, matrix.indptr)
    with pytest.raises(TeacherError, match="a call of"):
        safe_load.load_pickle(io.BytesIO(pickle.dumps(Forged(sp.csr_matrix, (parts, (4, 5))), protocol=4)))


@pytest.mark.parametrize("kind", ["csr", "csc", "coo", "lil"])
def test_a_sparse_matrix_with_wild_indices_is_refused(kind: str) -> None:
    matrix = sp.random(4, 5, 0.5, format=kind, random_state=1)
    if kind == "lil":
        matrix.rows[0] = [99]
        matrix.data[0] = [1.0]
    elif kind == "coo":
        matrix.col[0] = 99
    else:
        matrix.indices[0] = 99
    with pytest.raises(TeacherError, match=r"index|indices"):
        safe_load.load_pickle(io.BytesIO(pickle.dumps(matrix, protocol=4)))


def test_a_pickled_data_set_is_refused_with_the_way_out(
    runs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recbole.data import create_dataset
    from recbole.data.utils import load_split_dataloaders

    monkeypatch.chdir(tmp_path)
    config, loaders, _ = runs["BPR"]
    monkeypatch.setitem(config.final_config_dict, "checkpoint_dir", str(tmp_path))
    dataset_of(loaders[0]).save()
    with pytest.raises(TeacherError, match=r"tiny-Dataset\.pth.*delete the file and set save_dataset"):
        create_dataset(config)
    (tmp_path / "tiny-for-BPR-dataloader.pth").write_bytes(pickle.dumps([dataset_of(loaders[0])]))
    with pytest.raises(TeacherError, match=r"dataloader\.pth.*delete the file and set save_dataset"):
        load_split_dataloaders(config)


def test_the_libraries_own_functions_stay() -> None:
    import recbole.data.utils
    import recbole.quick_start
    import recbole.quick_start.quick_start as quick_start
    import recbole.trainer.trainer as trainer

    before = (torch.load, pickle.load, np.load, trainer.torch)
    pickle_call_sites.install()
    assert (torch.load, pickle.load, np.load, trainer.torch) == before
    assert torch.load.__module__ == "torch.serialization"
    assert trainer.torch.load is not torch.load and trainer.torch.nn is torch.nn
    assert recbole.data.utils.pickle.load is not pickle.load and recbole.data.utils.pickle.dump is pickle.dump
    assert recbole.quick_start.load_data_and_model is quick_start.load_data_and_model
    assert quick_start.load_data_and_model is pickle_call_sites.load_data_and_model


def test_no_call_site_is_left() -> None:
    import recbole

    root = Path(recbole.__file__).parent
    for file in root.rglob("*.py"):
        name = ".".join(("recbole", *file.relative_to(root).with_suffix("").parts))
        text = file.read_text(encoding="utf-8")
        if any(call in text for call in ("torch.load(", "pickle.load(", "allow_pickle=True")):
            assert name in pickle_call_sites._CALL_SITES or name == "recbole.quick_start.quick_start", name
