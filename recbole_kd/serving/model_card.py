"""The model card of a student, README.md of its folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_CARD = """---
library_name: recbole_kd
tags: [recommendation, knowledge-distillation, recbole]
---

# {model} on {dataset}

A {model} ({users:,} users, {items:,} items){how}. Seed {seed}, `eval_protocol: {eval_protocol}`, recbole_kd {version}.

```
{table}
```

## Use

```python
import recbole_kd
student = recbole_kd.load_student("student")  # this folder
print(student.recommend(["{user}"], k=10))
```

| file | content |
| --- | --- |
| config.json | model, settings, metrics, versions; size and SHA-256 of the other files |
| model.safetensors | {weights} |
| users.json, items.json | external ids; the place in the list is the row |
| seen.safetensors | columns user, item, part (0 train, 1 validation, 2 test), time |
{trained}"""
_TRAINED = "| trained.safetensors | weights that were trained, for `--init_from` |\n"
_WEIGHTS = {"vectors": "vectors of users and items, whose dot product is the score", "model": "the model's weights"}


def model_card(content: Mapping[str, Any], table: str) -> str:
    """Return the card as Markdown.

    Args:
        content: content of config.json.
        table: the result table of the run.
    """
    kd = content.get("kd")
    how = f", distilled from {content.get('teacher')} by {kd}" if kd else ""
    names = {key: content.get(key) for key in ("model", "dataset", "seed", "eval_protocol")}
    version = (content.get("versions") or {}).get("recbole_kd", "of an unknown version")
    sizes = {"users": content["n_users"] - 1, "items": content["n_items"] - 1}
    trained = _TRAINED if None in (content.get("weights") or {}).values() else ""
    words = {"how": how, "version": version, "table": table, "trained": trained, "user": "USER"}
    return _CARD.format(**names, **sizes, **words, weights=_WEIGHTS[content["form"]])
