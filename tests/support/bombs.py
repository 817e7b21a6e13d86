"""Hostile pickles that leave a mark where they go off."""

from __future__ import annotations

import os
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

from tests.support.forged_pickles import Forged, call, new, pickled

CALLS: dict[str, tuple[Any, ...]] = {
    # what runs a command, evaluates text or opens a file
    "os.system": ("TOUCH",), "posix.system": ("TOUCH",), "subprocess.getoutput": ("TOUCH",),
    "subprocess.Popen": (["touch", "MARK"],),
    "os.popen": ("TOUCH",), "pty.spawn": (["touch", "MARK"],), "os.execvp": ("touch", ["touch", "MARK"]),
    "builtins.eval": ("CODE",),
    "builtins.exec": ("CODE",), "builtins.open": ("MARK", "w"), "io.FileIO": ("MARK", "w"),
    "timeit.timeit": ("CODE",), "cProfile.run": ("CODE",),
    "bdb.Bdb.run": ("CODE",), "pdb.run": ("CODE",), "code.InteractiveInterpreter.runsource": ("CODE",),
    "runpy.run_path": ("SCRIPT",),
    "builtins.__import__": ("canary",), "importlib.import_module": ("canary",),
    "pkgutil.resolve_name": ("canary:anything",),
    "shutil.rmtree": ("OWN",), "os.remove": ("OWN_FILE",), "os.rename": ("OWN_FILE", "MARK"),
    "pathlib.Path.touch": ("MARK",),
    # what reaches others from what is allowed
    "builtins.getattr": ("text", "upper"), "operator.attrgetter": ("system",),
    "operator.methodcaller": ("system", "TOUCH"),
    "functools.partial": ("TOUCH",), "functools.reduce": ("x", "y"), "builtins.map": ("x", "y"),
    "itertools.starmap": ("x", "y"),
    "types.FunctionType": ("x",), "types.CodeType": ("x",), "ctypes.CDLL": ("libc.so.6",), "pickle.loads": (b"N.",),
    "marshal.loads": (b"N",),
    "torch.load": ("MARK",), "torch.hub.load": ("x", "y"), "torch.jit.load": ("MARK",),
    "torch._utils._import_dotted_name": ("os.system",),
    "torch.storage._load_from_bytes": (b"N.",), "torch._tensor._rebuild_from_type_v2": ("x", "y", "z", "w"),
    "numpy.load": ("MARK",),
    "numpy.memmap": ("MARK", "uint8", "w+", 0, 4), "numpy.f2py.crackfortran.myeval": ("CODE",),
    "pandas.read_pickle": ("MARK",),
    "pandas.eval": ("CODE",), "scipy.sparse.load_npz": ("MARK",),
    "yaml.unsafe_load": ("!!python/object/apply:os.system ['x']",),
    "joblib.load": ("MARK",), "logging.config.listen": (9999,), "threading.Thread": (),
    "multiprocessing.Process": (), "weakref.finalize": ("x", "y"),
    # ours and RecBole's own names, used as what they are not
    "recbole.config.configurator.Config": ("BPR", "tiny", None, {"x": "CODE"}),
    "recbole.config.configurator.eval": ("CODE",),
    "recbole.utils.utils.get_model": ("BPR",), "recbole.model.layers.torch.load": ("MARK",),
    "recbole_kd.integration.safe_load.load_checkpoint": ("MARK",),
    "recbole_kd.tuning.study.run_trial": ("x",), "recbole_kd.model.mf.MF": ("x", "y"),
    "recbole_kd.cli.program.main": (["list"],),
    "collections.OrderedDict.fromkeys": ("x",), "collections._sys.exit": (3,),
    "torch._utils._rebuild_tensor_v2.__globals__.clear": (),
    "torch.device.__class__": ("x",), "sys.exit": (0,), "os._exit": (0,), "os.kill": (0, 9),
    "atexit.register": ("x",), "gc.collect": (),
}  # fmt: skip
"""Name -> arguments of a call; capitals are replaced by paths and code of the trial."""


class Bombs:
    """Hostile content that leaves a mark where it goes off."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "own").mkdir(parents=True)
        self.mark, self.own = folder / "mark", folder / "own" / "thesis.txt"
        self.own.write_text("the user's own")
        self.code = f"__import__('os').system('touch {self.mark}')"
        (folder / "script.py").write_text(self.code)
        (folder / "canary.py").write_text(self.code)
        self._words = {
            "TOUCH": f"touch {self.mark}", "MARK": str(self.mark), "CODE": self.code,
            "SCRIPT": str(folder / "script.py"),
            "OWN": str(self.own.parent), "OWN_FILE": str(self.own),
        }  # fmt: skip

    def went_off(self) -> str | None:
        """Return what was executed, None if nothing was."""
        if self.mark.exists():
            self.mark.unlink()
            return "EXECUTED"
        return None if self.own.is_file() else "EXECUTED: a file of the user's is gone"

    def call_of(self, name: str) -> call:
        """Return what pickles as that call."""
        module, _, function = name.rpartition(".")
        return call(module, function, *(self._filled(argument) for argument in CALLS[name]))

    def _filled(self, argument: Any) -> Any:
        if isinstance(argument, list):
            return [self._filled(part) for part in argument]
        if isinstance(argument, dict):
            return {key: self._filled(value) for key, value in argument.items()}
        return self._words.get(argument, argument) if isinstance(argument, str) else argument

    def loud(self) -> bytes:
        """Return a pickle that any plain unpickler executes."""

        class Loud:
            def __reduce__(self) -> tuple[Any, ...]:
                return os.system, (f"touch {mark}",)

        mark = self.mark
        return pickle.dumps(Loud())

    def pickles(self) -> dict[str, bytes]:
        """Return all hostile pickles, by name."""
        found = {name: pickled(self.call_of(name)) for name in CALLS}
        found |= {f"{name}, as a value": pickled({"config": self.call_of(name)}) for name in CALLS}
        system = self.call_of("os.system")
        found |= {
            "state of a config": pickled(
                Forged(new("recbole.config.configurator", "Config"), {"final_config_dict": system})
            ),
            "state of a class": pickled(Forged(call("collections", "OrderedDict"), {"__class__": system})),
            "in a list": pickled({"state_dict": [system]}),
            "opcode INST": f"(S'touch {self.mark}'\nios\nsystem\n.".encode(),
            "opcode OBJ": f"(cos\nsystem\nS'touch {self.mark}'\no.".encode(),
            "opcode EXT1": b"\x80\x02\x82\x01.",
            "persistent id": b"Pos.system\n.",
            "nested": b"]" * 50_000 + b"a" * 49_999 + b".",
            "a length that lies": b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7f.",
            "a number of gigabytes": b"\x80\x02\x8b\xff\xff\xff\x7f.",
            "loud": self.loud(),
            "nothing": b"",
        }
        return found


def as_checkpoint(path: Path, content: bytes, whole: Path) -> None:
    """Write an archive of torch whose pickle is this content and whose tensors are another's."""
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w") as target:
        for item in source.infolist():
            target.writestr(item.filename, content if item.filename.endswith("data.pkl") else source.read(item))
