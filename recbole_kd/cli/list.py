"""``recbole-kd list``: print what there is to choose from."""

from __future__ import annotations

from recbole_kd.cli.parser import SentenceParser
from recbole_kd.pipeline.model_choices import listing


def run(words: list[str]) -> int:
    """Print models, methods and data sets; 0."""
    SentenceParser("list", "Print the models, methods and data sets that a run can name.", ["recbole-kd list"]).parse_args(words)
    print(listing())
    return 0
