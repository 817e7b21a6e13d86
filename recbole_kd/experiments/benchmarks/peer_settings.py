"""The published code that a user brings for ``--peers``: its layout, and our settings under its names.

Nothing here runs code of the folder; its class names are read from the source text.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recbole_kd.config.property_layers import distiller_layers
from recbole_kd.errors import ConfigError

ADDRESS = "https://github.com/woriazzc/RCEKD"
"""The repository whose layout is expected."""

ROWS = "implicit_CF_dataset"
"""Class of the training rows, in ``dataset.py``."""

BACKBONE = "BPR"
"""Class of the matrix factorisation, in ``modeling/backbone``."""

PLACES = {"dataset": "dataset.py", "backbone": "modeling/backbone/*.py", "method": "modeling/KD/*.py"}
"""Where the folder has its classes."""

SHARED = {"lmbda": "kd_weight", "lr": "learning_rate", "wd": "weight_decay", "batch_size": "train_batch_size"}
"""Published name -> our key, for every method."""


@dataclass(frozen=True)
class Peer:
    """A method in the published code.

    Attributes:
        name: name of its class.
        keys: published name -> our key.
        fixed: published name -> value, for what has no key of ours.
        ours: our keys that make our method follow the published code.
    """

    name: str
    keys: Mapping[str, str]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    ours: Mapping[str, Any] = field(default_factory=dict)


_ANNEALED = {"epochs": "kd_max_epoch"}

PEERS: dict[str, Peer] = {
    "RCEKD": Peer(
        "RCEKD",
        {
            "mkd_K": "kd_k", "mkd_L": "kd_n_samples", "mkd_mxK": "kd_code_candidates", "mkd_beta": "kd_beta",
            "mkd_T": "kd_tau", "mkd_tau": "kd_temperature",
        },
        {"sample_rank": False},
    ),
    "RRD": Peer(
        "RRD",
        {"rrd_K": "kd_k", "rrd_L": "kd_n_samples", "rrd_mxK": "kd_candidates", "rrd_T": "kd_tau"},
        {"sample_from_score": False, "no_sort": False},
    ),
    "DCD": Peer(
        "DCD",
        {"dcd_K": "kd_k", "dcd_mxK": "kd_candidates", "dcd_T": "kd_tau", "dcd_tau": "kd_temperature"},
        ours={"kd_sort": False, "kd_mask_student": False, "kd_disjoint": False},
    ),
    "CD": Peer(
        "CD",
        {
            "cd_sample_num": "kd_candidates", "cd_n_distill": "kd_n_samples", "cd_T": "kd_tau", "cd_t1": "kd_t1",
            "cd_t2": "kd_t2",
        },
        {"cd_strategy": "student guide"},
    ),
    "HetComp": Peer(
        "HetComp",
        {
            "hetcomp_num_ckpt": "kd_n_checkpoints", "hetcomp_K": "kd_k", "hetcomp_p": "kd_p",
            "hetcomp_alpha": "kd_alpha",
        },
    ),
    "UnKD": Peer(
        "UnKD", {"unkd_group_num": "kd_groups", "unkd_n_distill": "kd_n_samples", "unkd_lamda": "kd_lamda"}
    ),
    "DE": Peer(
        "DE",
        {
            **_ANNEALED, "de_num_experts": "kd_n_experts", "de_end_T": "kd_end_temperature",
            "de_anneal_size": "kd_anneal",
        },
    ),
    "HTD": Peer(
        "HTD",
        {**_ANNEALED, "htd_num_experts": "kd_n_groups", "htd_alpha": "kd_alpha"},
        {"htd_choice": "second", "htd_T": 0.1},
    ),
}  # fmt: skip
"""Our methods that the published code has."""


def settings_of(kd: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return our keys of a method: those published for MF on CiteULike, or the given ones."""
    published = distiller_layers(kd, "citeulike", "MF", "MF")[0] | dict(PEERS[kd].ours)
    known = {*SHARED.values(), *PEERS[kd].keys.values()}
    return published | {key: value for key, value in given.items() if key in known}


def published_settings(kd: str, ours: Mapping[str, Any]) -> dict[str, Any]:
    """Return our settings of a method under the names of the published code."""
    translated = {theirs: ours[key] for theirs, key in (SHARED | dict(PEERS[kd].keys)).items()}
    general = {"task": "rec", "T_backbone": "bpr", "epochs": 1000, "ablation": False, "verbose": False}
    return general | dict(PEERS[kd].fixed) | translated


def check_peers(folder: Path, methods: Sequence[str], given: Mapping[str, Any]) -> None:
    """Check that a folder has the asked methods, and that both sides know the given keys.

    Raises:
        ConfigError: one sentence with what is missing or not allowed.
    """
    for kd in methods:
        if kd not in PEERS:
            raise ConfigError(f"--kd={kd} is not possible with --peers: expected {', '.join(PEERS)}")
    found = {place: set(_classes(folder, pattern)) for place, pattern in PLACES.items()}
    for place, name in (("dataset", ROWS), ("backbone", BACKBONE)):
        if name not in found[place]:
            raise ConfigError(
                f"--peers={folder} does not look like the published code: no class {name} in {PLACES[place]}. "
                f"Give the folder of a clone of {ADDRESS}"
            )
    for kd in methods:
        if PEERS[kd].name not in found["method"]:
            raise ConfigError(
                f"--peers={folder} lacks {kd}: no class {PEERS[kd].name} in {PLACES['method']}. Leave it out with --kd="
            )
    known = {*SHARED.values()}.union(*(PEERS[kd].keys.values() for kd in methods))
    for key in given:
        if key not in known:
            raise ConfigError(f"--{key} is not possible with --peers: expected {', '.join(sorted(known))}")


def _classes(folder: Path, pattern: str) -> Iterator[str]:
    """Yield the names of the classes that some files of a folder define. The files are not run.

    Raises:
        ConfigError: a file cannot be read.
    """
    for path in folder.glob(pattern):
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError, RecursionError):
            continue
        except OSError as error:
            why = f"{path.name}: {error.strerror or error}"
            raise ConfigError(
                f"--peers={folder} cannot be read ({why}): give the folder of a clone of {ADDRESS}"
            ) from None
        yield from (node.name for node in tree.body if isinstance(node, ast.ClassDef))
