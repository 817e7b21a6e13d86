"""CiteULike's tags of articles, as words of an ``.item`` file."""

from __future__ import annotations

from pathlib import Path

from recbole_kd.data.preparing.interactions import token_problem
from recbole_kd.data.preparing.raw_files import Lines, counted_lists

TAG_FILES = ("tags.dat", "tag-item.dat")


def tags_of(names: Path, lists: Path, items: list[str]) -> dict[str, list[str]]:
    """Return the tags of each of the given items, in their order.

    Args:
        names: file with a tag's name a line. lists: file whose line t is "n item item ..." of tag t.
        items: the items that have interactions.

    Raises:
        DataError: a malformed line, a name that atomic files cannot hold, or files of different lengths. The message
            names file and line.
    """
    lines = Lines(names)
    tags = []
    for line in lines:
        tag = line.strip()
        # the prefix "tag " limits the check to characters: a word such as null is fine here
        if not tag or token_problem(f"tag {tag}") or " " in tag:
            raise lines.error(
                f"the tag {tag!r} is empty or has a blank, a tab or a double quote, which atomic files cannot hold"
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
        raise lines.error(f"the file ends here, but {names} has {len(tags)} lines")
    return found
