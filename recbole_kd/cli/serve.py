"""``recbole-kd serve``: serve a finished student over HTTP."""

from __future__ import annotations

import argparse
import socket
from importlib.util import find_spec
from pathlib import Path

from recbole_kd.cli.parser import SentenceParser
from recbole_kd.errors import ConfigError
from recbole_kd.serving.student import load_student

EXAMPLES = ["recbole-kd serve saved/RUN --port=8000", "recbole-kd serve saved/RUN --host=0.0.0.0 --port=80"]
MORE = """
  curl 'http://127.0.0.1:8000/recommend?user=196&k=10'
  curl -X POST http://127.0.0.1:8000/recommend -H 'content-type: application/json' -d '{"history": ["50", "181"]}'
  http://127.0.0.1:8000/health, and /docs for a page that describes all of it"""
PACKAGES = {"fastapi": "fastapi", "uvicorn": "uvicorn", "fastapi_offline": "fastapi-offline"}
"""Modules of the extra ``serve`` -> their names for pip."""


def _parser() -> SentenceParser:
    parser = SentenceParser("serve", "Serve items for a student's users and for new ones over HTTP.", EXAMPLES, MORE)
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a run, or of its student")
    parser.add_argument("--port", type=int, default=8000, help="default: 8000; 0 for any free port")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, only this machine)"
    )
    return parser


def run(words: list[str]) -> int:
    """Serve until the process is interrupted; return 0.

    Raises:
        KDError: bad input, a missing package, or an address that is taken.
    """
    given = _parser().parse_args(words)
    missing = [package for module, package in PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise ConfigError(
            f"recbole-kd serve needs {' and '.join(missing)}: run `pip install {' '.join(PACKAGES.values())}` "
            "(extra serve)"
        )
    student = load_student(given.run)
    import uvicorn

    from recbole_kd.serving.http_service import create_app

    with _listening(given) as listening:
        host, port = listening.getsockname()[:2]
        print(f"Serving {student} on http://{f'[{host}]' if ':' in host else host}:{port} (Ctrl-C ends it)", flush=True)
        server = uvicorn.Server(uvicorn.Config(create_app(student), log_level="warning"))
        server.run(sockets=[listening])
    return 0


def _listening(given: argparse.Namespace) -> socket.socket:
    """Return a socket that listens on the address.

    Raises:
        ConfigError: there is no such port or host, or it is taken.
    """
    if not 0 <= given.port <= 65535:
        raise ConfigError(f"Invalid --port={given.port}: expected an integer from 0 to 65535. Try --port=8000.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            given.host, given.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"Invalid --host={given.host}: {error}. Try --host=127.0.0.1.") from None
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(address)
    except OSError as error:
        listening.close()
        raise ConfigError(
            f"{given.host}:{given.port} cannot be listened on ({error.strerror}): take another --port, or --port=0 for "
            "any free one"
        ) from None
    listening.listen()  # from here on, connections wait and are not refused
    return listening
