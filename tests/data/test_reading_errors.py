"""Whatever RecBole raises while it reads a data set is one sentence that names the key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from recbole_kd.data.split_and_loaders import split_data
from recbole_kd.errors import KDError
from tests.support.helpers import TinyData, build_config, write_tiny


@pytest.fixture(scope="module")
def rated(tmp_path_factory: pytest.TempPathFactory) -> TinyData:
    data = write_tiny(tmp_path_factory.mktemp("rated"), "rated")
    file = Path(data.data_path) / "rated" / "rated.inter"
    head, *rows = file.read_text().splitlines()
    lines = [f"{row}\t{1 + number % 5}\tu{number % 7}" for number, row in enumerate(rows)]
    file.write_text("\n".join([f"{head}\trating:float\tfriend:token", *lines]) + "\n")
    return data


CASES: dict[str, Any] = {
    "a threshold in words": {"threshold": {"rating": "four"}},
    "a threshold over users": {"threshold": {"user_id": 3}},
    "a threshold over nothing": {"threshold": {"stars": 3}},
    "an interval of tokens as text": {"val_interval": {"item_id": "i1;i2"}},
    "an empty interval": {"val_interval": {"rating": ""}},
    "no interval": {"val_interval": {"rating": None}},
    "an interval over nothing": {"val_interval": {"stars": "[1,2]"}},
    "an alias that is not loaded": {"alias_of_user_id": ["friend"]},
    "an alias that is a number": {"alias_of_item_id": ["rating"]},
    "a separator of nothing": {"field_separator": ""},
    "another encoding": {"encoding": "utf-16"},
    "an unknown encoding": {"encoding": "utf-99"},
    "a field to normalise that is not there": {"normalize_field": ["stars"]},
    "buckets of nothing": {"discretization": {"rating": "foo"}},
    "weights of nothing": {"preload_weight": {"foo": "bar"}},
    "a further file that is not there": {"additional_feat_suffix": ["x"]},
}


@pytest.mark.parametrize("name", CASES)
def test_the_key_is_named(rated: TinyData, name: str) -> None:
    (key,) = CASES[name]
    columns = {"inter": ["user_id", "item_id", "timestamp", *([] if "alias" in name else ["rating"])]}
    with pytest.raises(KDError) as caught:
        split_data(build_config(rated, "MF", **{"load_col": columns, **CASES[name]}))
    message = str(caught.value)
    assert key in message and "\n" not in message and "eval_args" not in message, message
