"""A web server on loopback whose files come slowly, in pieces, wrongly or not at all."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Served:
    """A file and how it is sent.

    Attributes:
        content: the bytes. cuts: bytes after which each of the first answers ends early. stall: seconds that such an
            answer stays open. ranges: whether parts can be asked for. status: another answer than 200, as often as in
            ``refusals``, or always if that is None.
    """

    content: bytes
    cuts: list[int] = field(default_factory=list)
    stall: float = 0.0
    ranges: bool = True
    status: int | None = None
    refusals: int | None = None
    asked: list[str] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    server: Any

    def log_message(self, *_: Any) -> None:
        """Print nothing."""

    def do_GET(self) -> None:
        """Answer as the file's record says."""
        file: Served | None = self.server.files.get(self.path)
        if file is None:
            self.send_error(404)
            return
        file.asked.append(self.headers.get("Range", ""))
        if file.status is not None and file.refusals != 0:
            file.refusals = None if file.refusals is None else file.refusals - 1
            self.send_error(file.status)
            return
        start = int(file.asked[-1].removeprefix("bytes=").rstrip("-")) if file.asked[-1] and file.ranges else 0
        if start and start >= len(file.content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(file.content) - 1}/{len(file.content)}")
        rest = file.content[start:]
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        cut = file.cuts.pop(0) if file.cuts else len(rest)
        self.wfile.write(rest[:cut])
        self.wfile.flush()
        if cut < len(rest):
            time.sleep(file.stall)
            self.close_connection = True


@contextmanager
def file_server(files: dict[str, Served]) -> Iterator[str]:
    """Serve files by path and yield the address that their paths are appended to."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.files = files  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
