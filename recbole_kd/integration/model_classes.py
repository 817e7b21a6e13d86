"""Model classes that a checkpoint may name."""

from __future__ import annotations

import importlib
import sys

import torch

from recbole_kd.integration.inert_objects import Reference

_MODEL_PACKAGES = ("recbole.model.", "recbole_kd.model.")
_LIBRARIES = frozenset(
    ["numpy", "torch", "scipy", "pandas", "yaml", "recbole", "recbole_kd", "builtins", "__builtin__", "nt", "posix", ""]
)
_known: dict[tuple[str, str], type] = {}


def allow_model_class(model_class: type) -> None:
    """Let checkpoints name ``model_class``, a model outside the two model packages.

    A checkpoint can only name it: nothing in the file calls the class.
    """
    _known[(model_class.__module__, model_class.__qualname__)] = model_class


def advice_for(name: str) -> str | None:
    """Return the call that lets checkpoints name a user's own class.

    None for a name of Python or of a known library.
    """
    parts = name.split(".")
    root, short = parts[0], parts[-1]
    known = root in _LIBRARIES or (root != "__main__" and root in sys.stdlib_module_names)
    if known or len(parts) < 2 or not all(part.isidentifier() for part in parts):
        return None
    call = f"recbole_kd.register_model({short})"
    return (
        f"if {short} is a model class of your own, import it and call {call} before the file is read; a model of a "
        "program that builds on RecBole teaches by its scores (recbole_kd.teacher_from_scores)"
    )


def names_a_model(module: str, name: str) -> bool:
    """Test whether a name is a known class or is in a model package of RecBole or of ours."""
    if (module, name) in _known:
        return True
    parts = module.split(".")
    return module.startswith(_MODEL_PACKAGES) and all(p.isidentifier() for p in (*parts, name))


def model_class(reference: Reference) -> type:
    """Return the model class that a reference names.

    Raises:
        LookupError: the name is not a class derived from ``torch.nn.Module`` in the model packages.
        ImportError: there is no such module.
    """
    key = (reference.module, reference.name)
    if key in _known:
        return _known[key]
    if names_a_model(*key):
        found = getattr(importlib.import_module(reference.module), reference.name, None)
        if isinstance(found, type) and issubclass(found, torch.nn.Module):
            return found
    raise LookupError(str(reference))
