"""A student over HTTP gives the answers of ``recommend``.

Bad requests are 4xx with a sentence, never a traceback.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import recbole_kd
from recbole_kd.cli import serve
from recbole_kd.cli.program import main
from tests.support.fresh import Fresh
from tests.support.paths import ROOT
from tests.support.students import trained

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi_offline")

from fastapi.testclient import TestClient  # noqa: E402 - after the skip

from recbole_kd.serving.http_service import MAX_BODY, MAX_K, create_app  # noqa: E402


def client_of(model: str) -> tuple[recbole_kd.Student, TestClient]:
    student = recbole_kd.load_student(trained(model)["folder"])
    return student, TestClient(create_app(student))


def items_of(frame: Any) -> list[dict[str, Any]]:
    return [{"item": row.item, "score": row.score, "rank": row.rank} for row in frame.itertuples()]


@pytest.mark.parametrize("model", ["MF", "HSTU"])
def test_answers_are_those_of_the_student(model: str) -> None:
    student, client = client_of(model)
    found = client.get("/recommend", params={"user": "u3", "k": 4}).json()
    assert found == {"user": "u3", "items": items_of(student.recommend(["u3"], k=4))}
    found = client.get("/recommend", params={"user": "u3", "exclude_seen": "false"}).json()
    assert found["items"] == items_of(student.recommend(["u3"], exclude_seen=False)) and len(found["items"]) == 10
    body = {"history": ["i1", "i4"], "k": 3}
    times = {"times": [5.0, 9.0]} if model == "HSTU" else {}
    found = client.post("/recommend", json={**body, **times}).json()
    given = {"times": [[5.0, 9.0]]} if times else {}
    assert found == {"user": None, "items": items_of(student.recommend_for([["i1", "i4"]], k=3, **given))}
    health = client.get("/health").json()
    assert (health["status"], health["model"], health["users"]) == ("ok", model, len(student.users) - 1)


def test_the_description_names_paths_bounds_and_refusals() -> None:
    _, client = client_of("MF")
    described = client.get("/openapi.json").json()
    assert set(described["paths"]) == {"/recommend", "/health"}
    assert set(described["paths"]["/recommend"]["get"]["responses"]) == {"200", "404", "422"}
    (k,) = (one for one in described["paths"]["/recommend"]["get"]["parameters"] if one["name"] == "k")
    assert (k["schema"]["minimum"], k["schema"]["maximum"], k["schema"]["default"]) == (1, MAX_K, 10)


def test_the_page_takes_every_file_from_the_service() -> None:
    _, client = client_of("MF")
    page = client.get("/docs").text
    files = re.findall(r"""(?:src|href)=["']([^"']+)["']""", page)
    assert len(files) >= 3 and not [file for file in files if "//" in file] and "http" not in page
    assert {client.get(file).status_code for file in [*files, "/openapi.json"]} == {200}


WRONG: list[tuple[int, str, str, dict[str, Any]]] = [
    (404, "no user 'nobody'", "GET", {"params": {"user": "nobody"}}),
    (404, "no user '[PAD]'", "GET", {"params": {"user": "[PAD]"}}),
    (422, "query.user", "GET", {}),
    (422, "query.k", "GET", {"params": {"user": "u1", "k": "0"}}),
    (422, "query.k", "GET", {"params": {"user": "u1", "k": "many"}}),
    (422, "query.k", "GET", {"params": {"user": "u1", "k": MAX_K + 1}}),
    (422, "query.kk", "GET", {"params": {"user": "u1", "kk": 5}}),
    (422, "user is given 2 times", "GET", {"params": [("user", "u1"), ("user", "u2")]}),
    (422, "no item 'x'", "POST", {"json": {"history": ["i1", "x"]}}),
    (422, "body.history", "POST", {"json": {"history": []}}),
    (422, "body.history", "POST", {"json": {"history": "i1"}}),
    (422, "body.history", "POST", {"json": {"history": [True]}}),
    (422, "body.histories", "POST", {"json": {"history": ["i1"], "histories": 1}}),
    (422, "body.k", "POST", {"json": {"history": ["i1"], "k": "3"}}),
    (422, "body.times", "POST", {"content": b'{"history": ["i1"], "times": [NaN]}',
    "headers": {"content-type": "application/json"}}),
    (422, "times have no effect", "POST", {"json": {"history": ["i1"], "times": [1.0]}}),
    (422, "expected JSON", "POST", {"content": b"{", "headers": {"content-type": "application/json"}}),
    (422, "body", "POST", {"content": b"history=i1"}),
    (413, "too long", "POST", {"content": b" " * (MAX_BODY + 1), "headers": {"content-type": "application/json"}}),
    (405, "Not Allowed", "DELETE", {}),
]  # fmt: skip


@pytest.mark.parametrize(("status", "said", "method", "request_"), WRONG)
def test_a_wrong_request_is_a_sentence(status: int, said: str, method: str, request_: dict[str, Any]) -> None:
    _, client = client_of("MF")
    answer = client.request(method, "/recommend", **request_)
    assert answer.status_code == status and set(answer.json()) == {"detail"}
    assert said in answer.json()["detail"] and "\n" not in answer.json()["detail"]
    assert "skip" not in answer.json()["detail"]  # an option of Python's interface alone


def test_a_student_that_serves_no_new_users_says_so() -> None:
    _, client = client_of("NeuMF")
    answer = client.post("/recommend", json={"history": ["i1"]})
    assert answer.status_code == 422 and "cannot serve users" in answer.json()["detail"]
    assert client.get("/recommend", params={"user": "u1"}).status_code == 200


def test_a_failure_of_ours_is_a_500_without_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    student = recbole_kd.load_student(trained("MF")["folder"])
    client = TestClient(create_app(student), raise_server_exceptions=False)
    monkeypatch.setattr(recbole_kd.Student, "recommend", lambda *_: 1 / 0)
    answer = client.get("/recommend", params={"user": "u1"})
    assert answer.status_code == 500 and list(answer.json()) == ["detail"] and "ZeroDivision" not in answer.text


# -- the program
# -----------------------------------------------------------------------------------------------------------------


def test_bad_words_are_a_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    folder = trained("MF")["folder"]
    capsys.readouterr()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        cases = {
            (folder, "--port=70000"): "Invalid --port=70000",
            (folder, f"--port={port}"): f"127.0.0.1:{port} cannot be listened on",
            (folder, "--host=no such host"): "Invalid --host=no such host",
            ("nowhere",): "No student at",
        }
        for words, said in cases.items():
            assert main(["serve", *words]) == 2
            (line,) = capsys.readouterr().err.strip().splitlines()
            assert said in line
    monkeypatch.setattr(serve, "find_spec", lambda name: None if name == "uvicorn" else object())
    assert main(["serve", folder]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "needs uvicorn" in line and "pip install fastapi uvicorn" in line


@contextmanager
def served(model: str, folder: Path) -> Iterator[tuple[str, Fresh, Path]]:
    """A service in a process of its own, on a free port of loopback: its address and what it says as errors."""
    words = ["-m", "recbole_kd", "serve", trained(model)["folder"], "--port=0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    heard, told = os.pipe()
    with (
        open(folder / "err", "w") as err,
        open(heard) as lines,
        Fresh(words, folder, environment, told, err.fileno()) as process,
    ):
        os.close(told)
        line = lines.readline()
        assert " on http://127.0.0.1:" in line, (folder / "err").read_text()
        yield line.split(" on ")[1].split()[0], process, folder / "err"


def ask(address: str, requests: list[tuple[str, Any]]) -> list[tuple[int, float]]:
    """Status and seconds of each request, one after the other on one connection."""
    found = []
    with httpx.Client(base_url=address, timeout=60) as client:
        client.get("/health")
        for method, given in requests:
            began = time.perf_counter()
            answer = client.request(method, "/recommend", **given)
            found.append((answer.status_code, time.perf_counter() - began))
    return found


def malformed(n: int) -> list[tuple[str, Any]]:
    """Requests that no student can answer: wrong names, kinds, sizes and texts, drawn with a seed."""
    rng = random.Random(7)
    values = [
        None,
        -1,
        0,
        10**30,
        1.5,
        True,
        "",
        "x",
        "\ud800",
        "\x00",
        "u1\n",
        [],
        [[]],
        {},
        {"a": 1},
        "é" * 2000,
        "../../etc",
    ]
    json_type = {"headers": {"content-type": "application/json"}}
    found: list[tuple[str, Any]] = []
    while len(found) < n:
        kind = rng.randrange(5)
        value, other = rng.choice(values), rng.choice(values)
        if kind == 0:
            body = {rng.choice(["history", "k", "x", "times"]): value, "user": other}
            found.append(("POST", {"content": json.dumps(body).encode(), **json_type}))
        elif kind == 1:
            body = {"history": ["i1", value], "k": other, rng.choice(["z", "exclude_seen"]): "no"}
            found.append(("POST", {"content": json.dumps(body).encode(), **json_type}))
        elif kind == 2:
            found.append(("POST", {"content": rng.randbytes(rng.randrange(200)), **rng.choice([json_type, {}])}))
        elif kind == 3:
            text = "".join(rng.choice("abc%&=;[]{}\"'\\/é\x7f ") for _ in range(rng.randrange(1, 40)))
            found.append(("GET", {"params": {rng.choice(["user", "k", "users"]): text}}))
        else:
            nested = "[" * rng.choice([5, 5_000, 100_000])
            found.append((rng.choice(["POST", "PUT", "PATCH"]), {"content": nested.encode(), **json_type}))
    return found


@pytest.mark.parametrize("n", [240, pytest.param(2000, marks=pytest.mark.slow)])
def test_four_clients_at_once_and_300_malformed_requests(n: int, tmp_path: Path) -> None:
    known = recbole_kd.load_student(trained("MF")["folder"]).users.tokens[1:]
    users = [known[number % len(known)] for number in range(n)]
    good: list[tuple[str, Any]] = [
        ("GET", {"params": {"user": user, "k": 5}}) if place % 4 else ("POST", {"json": {"history": ["i1", "i2"]}})
        for place, user in enumerate(users)
    ]
    with served("MF", tmp_path) as (address, process, err):
        with ThreadPoolExecutor(4) as pool:
            clients = pool.map(lambda start: ask(address, good[start::4]), range(4))
            answers = [answer for client in clients for answer in client]
        assert [status for status, _ in answers] == [200] * n
        p50, p99 = np.percentile([1000 * seconds for _, seconds in answers], [50, 99])
        print(f"{n} requests, 4 clients on loopback: p50 {p50:.1f} ms, p99 {p99:.1f} ms")
        assert all(400 <= status < 500 for status, _ in ask(address, malformed(300)))
        host, port = address.removeprefix("http://").split(":")
        for words in (
            b"\x00\xff\r\n\r\n",
            b"GET\r\n\r\n",
            b"GET /recommend HTTP/9.9\r\n\r\n",
            b"GET / HTTP/1.1\r\n" + b"a" * 100_000,
        ):
            with socket.create_connection((host, int(port)), timeout=10) as raw:
                raw.sendall(words)
                assert raw.recv(64).startswith((b"HTTP/1.1 4", b""))
        assert httpx.get(f"{address}/health", timeout=30).json()["status"] == "ok"
        os.kill(process.pid, signal.SIGINT)
        code, said = process.wait(60), err.read_text()
        assert code == 130 and "Traceback" not in said and said.strip().splitlines()[-1] == "interrupted"
