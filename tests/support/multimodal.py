"""Tiny multi-modal cases: a BM3 with two modalities of random numbers, and its command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.support.helpers import Case, TinyData, build_case
from tests.support.runs import words


def featured(data: TinyData, **given: Any) -> Case:
    """A tiny BM3 with two modalities of random numbers, rows named by an ids file."""
    folder = Path(data.data_path) / data.name
    rng = np.random.default_rng(0)
    for name, width in (("visual", 12), ("text", 7)):
        np.save(folder / f"{name}.npy", rng.normal(size=(40, width)).astype(np.float32))
        (folder / f"{name}.ids").write_text("".join(f"i{item}\n" for item in range(40)))
    return build_case(data, "BM3", **{"item_features": {"visual": "visual.npy", "text": "text.npy"}, **given})


FEATURES = "--item_features={visual: visual.npy, text: text.npy}"


SMALL: dict[str, list[str]] = {
    "RCEKD": [],
    "HetComp": ["--kd_n_positives=2", "--kd_p=1", "--kd_n_checkpoints=2"],
    "TARec": ["--kd_n_negatives=5", "--kd_assistant_epochs=1"],
    "PromptMM": ["--kd_n_negatives=4"],
}


def command(folder: Path, **changes: str | None) -> list[str]:
    """A run on the tiny data set with two modalities of random numbers."""
    found = words(folder, **{"teacher": "BM3", **changes})
    kd = next(word for word in found if word.startswith("--kd=")).removeprefix("--kd=")
    for number, name in enumerate(("visual", "text")):
        path = folder / "data" / "tiny" / f"{name}.npy"
        if not path.is_file():
            np.save(path, np.random.default_rng(number).normal(size=(40, 5 + number)).astype(np.float32))
            path.with_suffix(".ids").write_text("".join(f"i{item}\n" for item in range(40)))
    if kd != "RCEKD":
        found = [word for word in found if not word.startswith(("--kd_n_samples", "--kd_candidates"))]
    if kd == "PromptMM":
        found = [word for word in found if not word.startswith("--kd_k=")]
    return [*found, FEATURES, *SMALL.get(kd, [])]
