"""Check, before any training, for optional packages that a key or a RecBole model needs."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from recbole_kd.errors import ConfigError

OF_KEY = {"log_wandb": ("wandb", "wandb")}
"""Key of RecBole with the value True -> (module, package that pip installs)."""

OF_MODEL = {
    "NCL": ("faiss", "faiss-cpu"),
    "LDiffRec": ("kmeans_pytorch", "kmeans-pytorch"),
    "KGAT": ("dgl", "dgl"),
    "KGIN": ("torch_scatter", "torch-scatter"),
    "MCCLK": ("torch_scatter", "torch-scatter"),
}
"""Model of RecBole that imports a package only in training -> (module, package that pip installs)."""


def check_packages(config: Any) -> None:
    """Refuse a key or a model whose package is not installed.

    Raises:
        ConfigError: names the package and the command that installs it.
    """
    wanted = [(f"{key}=True", *package) for key, package in OF_KEY.items() if config[key]]
    model = str(config["model"])
    if model in OF_MODEL:
        wanted.append((f"The model {model}", *OF_MODEL[model]))
    for what, module, package in wanted:
        if find_spec(module) is None:
            raise ConfigError(
                f"{what} needs the package {package}, which is not installed: run `pip install {package}`, or leave it "
                "out"
            )
