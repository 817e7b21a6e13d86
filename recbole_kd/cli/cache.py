"""``recbole-kd cache``: list, verify and prune the cache of trained models."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from recbole_kd.cli.parser import SentenceParser
from recbole_kd.errors import ConfigError
from recbole_kd.storage.cache import cache_folder
from recbole_kd.storage.cache_entries import KINDS, CacheEntry, list_cache, prune_cache, verify_cache

EXAMPLES = ["recbole-kd cache list", "recbole-kd cache verify", "recbole-kd cache prune --older_than=30 --dry-run"]
DAY = 24 * 3600
MIB = 2**20


def _parser() -> SentenceParser:
    parser = SentenceParser("cache", "List, verify or prune the cache of trained models.", EXAMPLES)
    add = parser.add_argument
    add(
        "action", choices=["list", "verify", "prune"], help="verify reads every file and exits with 1 if one is damaged"
    )
    add(
        "names",
        nargs="*",
        metavar="NAME",
        help="entries as list names them (default: all that the options below choose)",
    )
    add("--cache_dir", type=Path, metavar="DIR", help="default: RECBOLE_KD_CACHE, else saved/cache")
    add("--kind", choices=KINDS, help="entries of one kind")
    add("--older_than", type=float, metavar="DAYS", help="entries last written more than this many days ago")
    add("--larger_than", type=float, metavar="MIB", help="entries larger than this many MiB")
    add("--damaged", action="store_true", help="entries whose files differ from what was written")
    add(
        "--unfinished",
        action="store_true",
        help="files of interrupted trainings, which --resume=True would continue",
    )
    add("--dry-run", action="store_true", help="prune: print what would be removed, and remove nothing")
    return parser


def run(words: list[str]) -> int:
    """List, verify or prune the chosen entries; return 1 if verify finds damage, else 0.

    Raises:
        ConfigError: bad input, such as a prune that chooses nothing.
    """
    given = _parser().parse_args(words)
    cache = cache_folder(None if given.cache_dir is None else str(given.cache_dir))
    there = list_cache(cache)
    unknown = next((name for name in given.names if name not in {entry.name for entry in there}), None)
    if unknown is not None:
        raise ConfigError(f"{unknown!r} is not an entry of the cache {cache}: `recbole-kd cache list` names them.")
    if given.action != "prune" and given.dry_run:
        raise ConfigError("--dry-run has no effect without prune: leave it out.")
    chosen = [entry for entry in there if _is_chosen(entry, given)]
    damaged = verify_cache(cache, [entry.name for entry in chosen]) if given.damaged or given.action == "verify" else {}
    if given.damaged:
        chosen = [entry for entry in chosen if entry.name in damaged]
    if given.action == "prune":
        return _prune(cache, chosen, given)
    print(_table(chosen, damaged if given.action == "verify" else None))
    return 1 if given.action == "verify" and damaged else 0


def _is_chosen(entry: CacheEntry, given: argparse.Namespace) -> bool:
    return (
        (not given.names or entry.name in given.names)
        and given.kind in (None, entry.kind)
        and (given.older_than is None or entry.age > given.older_than * DAY)
        and (given.larger_than is None or entry.size > given.larger_than * MIB)
        and not (given.unfinished and entry.finished)
    )


def _prune(cache: Path, chosen: Sequence[CacheEntry], given: argparse.Namespace) -> int:
    narrowed = given.names or given.kind or given.damaged or given.unfinished
    if not narrowed and given.older_than is None and given.larger_than is None:
        raise ConfigError(
            "prune removes nothing without a choice: name entries, or add --older_than=DAYS, --kind=KIND or --damaged."
        )
    removed = prune_cache(cache, [entry.name for entry in chosen], given.dry_run)
    print(_table(removed, None))
    print("nothing was removed (--dry-run)" if given.dry_run else f"removed {len(removed)} of {len(chosen)} entries")
    gone = {entry.name for entry in removed}
    for entry in chosen:
        if entry.name not in gone:
            print(f"left {entry.name}: another run uses it, or it contains a file that was not made here")
    return 0


def _table(entries: Sequence[CacheEntry], damaged: dict[str, str] | None) -> str:
    """Return a table of entries with their states, if verified, and their total size."""
    rows = []
    for entry in entries:
        state = "" if entry.finished else "unfinished"
        if entry.finished and damaged is not None:
            state = damaged.get(entry.name, "whole" if entry.has_digests else "cannot be checked: no digests")
        rows.append([entry.name, f"{entry.size / MIB:.1f}", f"{entry.age / DAY:.1f}", state, entry.made_by])
    total = f"{len(entries)} entries, {sum(entry.size for entry in entries) / MIB:.1f} MiB"
    return (
        f"{tabulate(rows, headers=['entry', 'MiB', 'days', 'state', 'made by'], disable_numparse=True)}\n{total}"
        if rows
        else total
    )
