"""The sentence for an environment without RecBole."""

from __future__ import annotations

from importlib.util import find_spec

RECBOLE_MISSING = (
    "recbole_kd is a plugin of RecBole, which is not installed: run `pip install --no-deps recbole==1.2.1` "
    "(--no-deps because RecBole's own metadata pins a ray that has no wheels for newer Pythons)."
)


def check_recbole() -> None:
    """Refuse to go on without RecBole.

    Raises:
        ImportError: it is not installed; the message says how to install it.
    """
    if find_spec("recbole") is None:
        raise ImportError(RECBOLE_MISSING, name="recbole")
