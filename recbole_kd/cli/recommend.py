"""``recbole-kd recommend``: write the best items of many users."""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from recbole_kd.cli.parser import SentenceParser
from recbole_kd.errors import ConfigError, UnknownIdError
from recbole_kd.serving.student import USERS_PER_BLOCK, ExcludeSeen, Student, load_student
from recbole_kd.storage.files import write_whole
from recbole_kd.storage.targets import check_file

EXAMPLES = [
    "recbole-kd recommend saved/RUN --users=users.txt --k=10 --out=recs.parquet",
    "recbole-kd recommend saved/RUN --out=recs.csv",
]
SEEN: dict[str, ExcludeSeen] = {"all": True, "protocol": "protocol", "none": False}
FORMS = (".parquet", ".csv")


def _parser() -> SentenceParser:
    parser = SentenceParser("recommend", "Write the best items of many users: user, item, score, rank.", EXAMPLES)
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="the folder of a run, or of its student")
    add("--users", type=Path, metavar="FILE", help="file with one external user id per line (default: all users)")
    add("--k", type=int, default=10, help="items per user (default: 10)")
    add("--out", type=Path, required=True, metavar="FILE", help="a new file, *.parquet (needs pyarrow) or *.csv")
    add(
        "--seen",
        choices=SEEN,
        default="all",
        help="items left out: all that a user had (default), those that the run's test left out, or none",
    )
    add(
        "--unknown",
        choices=["error", "skip"],
        default="error",
        help="users whom the student does not know (default: error)",
    )
    return parser


def run(words: list[str]) -> int:
    """Write the recommendations and print their file; return 0.

    Raises:
        KDError: bad input, before anything is written.
    """
    given = _parser().parse_args(words)
    _check(given)
    student = load_student(given.run)
    frame = _recommended(student, given)
    write_whole(given.out, lambda path: _write(frame, path, given.out.suffix))
    print(f"{given.out}: {frame['user'].nunique():,} users, {len(frame):,} rows")
    return 0


def _check(given: argparse.Namespace) -> None:
    if given.k < 1:
        raise ConfigError(f"Invalid --k={given.k}: expected a whole number of at least 1. Try --k=10.")
    if given.out.suffix not in FORMS:
        raise ConfigError(
            f"Invalid --out={given.out}: expected a name that ends in .parquet or .csv. Try --out={given.out.stem}.csv."
        )
    if given.out.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401 - optional: only Parquet needs it
        except ImportError:
            raise ConfigError(
                f"Invalid --out={given.out}: Parquet needs pyarrow, `pip install pyarrow`, or name a .csv file."
            ) from None
    check_file(given.out, option="--out")


def _users(path: Path) -> list[str]:
    """Return the ids of a file with one id per line, each once, without empty lines."""
    if not path.is_file():
        raise ConfigError(
            f"Invalid --users={path}: there is no such file. Give a text file with one external user id per line."
        )
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # splitlines() would also split at U+2028 and others
    except UnicodeDecodeError:
        raise ConfigError(
            f"Invalid --users={path}: it is not UTF-8 text. Give a text file with one external user id per line."
        ) from None
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise ConfigError(
            f"Invalid --users={path}: it names no user. Give a text file with one external user id per line."
        )
    return list(dict.fromkeys(found))


def _asked(student: Student, given: argparse.Namespace) -> list[str]:
    """Return the users to serve, each once; refuse or count unknown ones before hours of work."""
    if given.users is None:
        return student.users.tokens[1:]
    users = _users(given.users)
    known = len(student.users.places(users, given.unknown, skip="--unknown=skip"))
    if not known:
        raise UnknownIdError(
            f"Invalid --users={given.users}: the student knows none of its {len(users):,} users, such as {users[0]!r}. "
            f"Give ids of the data that it was trained on, such as {student.users.tokens[-1]!r}."
        )
    if known < len(users):
        print(f"{len(users) - known:,} of {len(users):,} users are unknown to the student and left out")
    return users


def _recommended(student: Student, given: argparse.Namespace) -> pd.DataFrame:
    users = _asked(student, given)
    starts = range(0, len(users), USERS_PER_BLOCK)
    blocks = [
        student.recommend(users[start : start + USERS_PER_BLOCK], given.k, SEEN[given.seen], unknown=given.unknown)
        for start in tqdm(starts, desc="Recommend", ncols=100, disable=len(starts) == 1)
    ]
    return pd.concat(blocks, ignore_index=True)


def _write(frame: pd.DataFrame, path: Path, form: str) -> None:
    if form == ".csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path, index=False, engine="pyarrow")
