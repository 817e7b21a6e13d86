"""Models of RecBole that share tensors or read columns that a transform adds.

The command trains, keeps and reloads them.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from recbole_kd.cli.run import main
from tests.support.helpers import write_tiny
from tests.support.runs import run, words

QUICK: dict[str, str | None] = {
    "kd": "CD",
    "kd_k": None,
    "kd_n_samples": None,
    "kd_candidates": None,
    "embedding_size": None,
    "epochs": "1",
    "teacher.epochs": "1",
}

SHORT: dict[str, str | None] = {
    f"{prefix}{key}": value
    for prefix in ("", "teacher.")
    for key, value in {"n_layers": "2", "hidden_size": "8", "inner_size": "8", "MAX_ITEM_LIST_LENGTH": "10"}.items()
}
"""Small models of histories."""


@pytest.mark.parametrize("model", ["GCMC", "FEARec"])
def test_shared_tensors_are_kept(model: str, tmp_path: Path) -> None:
    setting = "sequential" if model == "FEARec" else "general"
    changes = {
        **QUICK,
        "model": model,
        "teacher": model,
        "setting": setting,
        "teacher.embedding_size": None,
        "teacher_store": "online",
        **(SHORT if setting == "sequential" else {}),
    }
    found = run(tmp_path, **changes)
    again = run(tmp_path, **changes)
    assert again["teacher"]["cached"] and again["student"]["cached"]
    assert again["distilled"]["test"] == found["distilled"]["test"]


@pytest.mark.parametrize("model", ["BERT4Rec", "SHAN"])
def test_columns_of_a_transform_are_known(model: str, tmp_path: Path) -> None:
    changes = {**QUICK, "model": model, "teacher": model, "teacher.embedding_size": None, "teacher_store": "online"}
    changes |= {"epochs": "2", "learning_rate": "0.02", **(SHORT if model == "BERT4Rec" else {})}
    found = run(tmp_path, "--kd_weight=0", **changes)
    taught = run(tmp_path, "--kd_weight=100", **changes)
    assert taught["teacher"]["cached"] and taught["distilled"]["kd_loss"][-1] < found["distilled"]["kd_loss"][-1]


def test_a_loss_that_a_model_cannot_take_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """SASRecCPR re-ranks 100 items or more; the catalogue has 40."""
    assert main(words(tmp_path, **{**QUICK, "model": "SASRecCPR", "setting": "sequential"})) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert (
        "SASRecCPR cannot compute its loss" in said
        and "selected index k out of range" in said
        and "--state=DEBUG" in said
    )


@pytest.mark.parametrize("model", ["SASRecF", "FDSA"])
def test_a_layer_beside_the_weights_is_not_pickled(model: str, tmp_path: Path) -> None:
    """With it would go the data set, which a checkpoint that is read safely may not hold."""
    items = "".join(f"i{item}\tc{item % 3} c{item % 4}\n" for item in range(40))
    folder = Path(write_tiny(tmp_path / "data", "tiny").data_path) / "tiny"
    (folder / "tiny.item").write_text("item_id:token\tclass:token_seq\n" + items)
    columns = "{inter: [user_id, item_id, timestamp], item: [item_id, class]}"
    changes = {**QUICK, "model": model, "load_col": columns, "kd_compare": "False", **SHORT}
    assert run(tmp_path, **changes, setting="sequential")["distilled"]["epochs"] == 1
