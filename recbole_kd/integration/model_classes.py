"""The model classes that a checkpoint may name."""

from __future__ import annotations

import importlib

import torch

from recbole_kd.integration.inert_objects import Reference

_MODEL_PACKAGES = ("recbole.model.", "recbole_kd.model.")
_known: dict[tuple[str, str], type] = {}


def allow_model_class(model_class: type) -> None:
    """Let checkpoints name ``model_class``, a model that lives outside the two model packages."""
    _known[(model_class.__module__, model_class.__qualname__)] = model_class


def names_a_model(module: str, name: str) -> bool:
    """Return whether the name is a known class or lies in a model package of RecBole or of ours."""
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
