"""CiteULike's tags: what people call an article, as words of an ``.item`` file."""

from __future__ import annotations

from pathlib import Path

from recbole_kd.data.preparing.interactions import token_problem
from recbole_kd.data.preparing.raw_files import Lines, counted_lists

TAG_FILES = ("tags.dat", "tag-item.dat")


def tags_of(names: Path, lists: Path, items: list[str]) -> dict[str, list[str]]:
    """The tags of the items that have interactions, in the order of ``items``; an item without any has none.

    Args:
        names: a tag's name a line. lists: line t = "n item item ..." of tag t.

    Raises:
        DataError: a malformed line, a name that atomic files cannot hold, or files of different lengths; with file and
            line.
    """
    lines = Lines(names)
    tags = []
    for line in lines:
        tag = line.strip()
        # only its characters are looked at: among others, a word such as null is no missing value
        if not tag or token_problem(f"tag {tag}") or " " in tag:
            raise lines.error(
                f"the tag {tag!r} is empty or holds a blank, a tab or a double quote, which atomic files cannot"
            )
        tags.append(tag)
    found: dict[str, list[str]] = {item: [] for item in items}
    lines = Lines(lists)
    for row in counted_lists(lines, min_items=1):
        if int(row.user) >= len(tags):
            raise lines.error(f"tag {row.user} has no name: {names} has {len(tags)} lines")
        if row.item in found:
            found[row.item].append(tags[int(row.user)])
    if lines.number != len(tags):
        raise lines.error(f"the file ends here, and {names} has {len(tags)} lines")
    return found
