#!/usr/bin/env python
"""Write docs/options.md from the property files: `python scripts/make_options_page.py`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable
from pathlib import Path

# The script also runs from a checkout that is not installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from recbole_kd.config.key_comments import KeyComment, key_comments
from recbole_kd.config.property_layers import properties_dir
from recbole_kd.distiller.registry import DISTILLERS, distiller_class

PAGE = Path(__file__).resolve().parents[1] / "docs" / "options.md"
HEAD = """# Options

This page is written by `python scripts/make_options_page.py` from the comments of the property files. A key is given as
`--key=value` on the command line, in a file of `--config_files`, or in `config_dict`. Every RecBole key of the student
is allowed too, and `--teacher.KEY=VALUE` is a RecBole key of the teacher. `~` stands for an empty value. A run chooses
`kd_weight` on validation ([how](compare-and-tune.md#let-a-run-choose-its-weight)) where no value of its pair is known;
a method's number is its general default, which `kd_weight=default` takes.

```bash
recbole-kd run --help RCEKD
```
"""


def table(keys: Iterable[KeyComment]) -> list[str]:
    """Return a Markdown table of keys."""
    rows = ["| key | default | type | meaning |", "|---|---|---|---|"]
    for key in keys:
        meaning = key.meaning.replace("|", "\\|")
        rows.append(f"| `{key.key}` | `{key.default}` | {key.kind} | {meaning} |")
    return rows


def page() -> str:
    """Return the text of docs/options.md."""
    lines = [HEAD, "## Every run", "", *table(key_comments(properties_dir() / "overall.yaml"))]
    for name in sorted(DISTILLERS):
        path = properties_dir() / "distiller" / f"{name}.yaml"
        about = (inspect.getdoc(distiller_class(name)) or "").partition("\n")[0]
        lines += ["", f"## {name}", "", about, "", *table(key_comments(path) if path.is_file() else [])]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
