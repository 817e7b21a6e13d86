"""A student as an HTTP service: items for its users and new users, in JSON."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from logging import getLogger
from typing import Annotated, Any

import pandas as pd
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StrictBool, StrictInt
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from recbole_kd.errors import KDError, UnknownIdError
from recbole_kd.serving.student import Student
from recbole_kd.version import __version__

MAX_K = 1000
"""Maximum number of items in one answer."""
MAX_HISTORY = 10_000
"""Maximum number of items in a new user's history."""
MAX_BODY = 2**21
"""Maximum size of a request body in bytes: enough for the longest history, without filling the memory."""

Token = Annotated[str, Field(max_length=1000)]
K = Annotated[int, Field(ge=1, le=MAX_K)]


class KnownUser(BaseModel):
    """The query of ``GET /recommend``."""

    model_config = ConfigDict(extra="forbid")

    user: Token = Field(description="external id of a user whom the student was trained on")
    k: K = 10
    exclude_seen: bool = Field(default=True, description="leave out all items that the user is known to have had")


class NewUser(BaseModel):
    """The body of ``POST /recommend``."""

    model_config = ConfigDict(extra="forbid")

    history: list[Annotated[str, Field(strict=True, max_length=1000)] | StrictInt] = Field(
        min_length=1, max_length=MAX_HISTORY, description="external item ids, the oldest first"
    )
    k: Annotated[StrictInt, Field(ge=1, le=MAX_K)] = 10
    exclude_seen: StrictBool = Field(default=True, description="leave out the items of the history")
    times: list[FiniteFloat] | None = Field(
        default=None, max_length=MAX_HISTORY, description="seconds of each item, for a student trained with times"
    )


class RankedItem(BaseModel):
    """One item of a list; the best has rank 1."""

    item: str
    score: float
    rank: int


class Recommendation(BaseModel):
    """The best items of one user, best first; ``user`` is empty for a new one."""

    user: str | None
    items: list[RankedItem]


class Health(BaseModel):
    """The student that is served."""

    status: str
    model: str
    users: int
    items: int
    version: str


class Refusal(BaseModel):
    """The reason of a refused request, in one sentence."""

    detail: str


def create_app(student: Student) -> FastAPI:
    """Return the HTTP service of a student.

    It has ``GET`` and ``POST /recommend``, ``GET /health`` and ``/docs``, a page that needs no file from elsewhere.
    Every refusal is JSON with one sentence, ``{"detail": ...}``: 404 for unknown users, 422 for bad input (also unknown
    items), 413 for a body of more than ``MAX_BODY`` bytes.
    """
    app = FastAPIOffline(title=f"recbole_kd: {student.config['model']}", version=__version__, redoc_url=None)
    app.add_middleware(BodyLimit, limit=MAX_BODY)
    one_at_a_time = threading.Lock()  # sequential models keep buffers, and torch has its own threads
    if len(student.users) > 1:
        student.recommend(student.users.tokens[1:2], k=1)  # builds what the first request would build
    refusals: dict[int | str, dict[str, Any]] = {status: {"model": Refusal} for status in (404, 422)}

    @app.get("/health")
    def health() -> Health:
        """Return which student is served."""
        sizes = {"users": len(student.users) - 1, "items": len(student.items) - 1}
        return Health(status="ok", model=str(student.config["model"]), version=__version__, **sizes)

    @app.get("/recommend", responses=refusals)
    def recommend(query: Annotated[KnownUser, Query()], request: Request) -> Recommendation:
        """Return the best items of a user whom the student was trained on."""
        _refuse_repeated(request)
        student.users.places([query.user], skip="")  # refused without the advice to a caller in Python
        with one_at_a_time:
            frame = student.recommend([query.user], query.k, query.exclude_seen)
        return Recommendation(user=query.user, items=_items_of(frame))

    @app.post("/recommend", responses={status: refusals[status] for status in (422,)})
    def recommend_for(body: NewUser) -> Recommendation:
        """Return the best items of a new user from some known items."""
        times = None if body.times is None else [body.times]
        try:
            student.items.places(body.history, argument="history", skip="")
        except UnknownIdError as error:
            raise HTTPException(422, str(error)) from None
        with one_at_a_time:
            frame = student.recommend_for([body.history], body.k, body.exclude_seen, times=times)
        return Recommendation(user=None, items=_items_of(frame))

    app.add_exception_handler(UnknownIdError, _answer(404))
    app.add_exception_handler(KDError, _answer(422))
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(Exception, _failed)
    return app


def _items_of(frame: pd.DataFrame) -> list[RankedItem]:
    columns = (frame[name].tolist() for name in ("item", "score", "rank"))
    return [RankedItem(item=item, score=score, rank=rank) for item, score, rank in zip(*columns, strict=True)]


def _refuse_repeated(request: Request) -> None:
    """Refuse a parameter that is given twice (422), because one value would be ignored."""
    names = [name for name, _ in request.query_params.multi_items()]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise HTTPException(422, f"Invalid query: {twice[0]} is given {names.count(twice[0])} times; give it once")


def _answer(status: int) -> Callable[[Request, Exception], Awaitable[JSONResponse]]:
    async def answer(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, status)

    return answer


async def _malformed(_: Request, error: Exception) -> JSONResponse:
    """Answer what is wrong with a request.

    The answer does not repeat the values, because JSON may be unable to represent them.
    """
    assert isinstance(error, RequestValidationError)
    found = error.errors()[0]
    place = ".".join(_plain(part) for part in found["loc"])
    said = "expected JSON" if found["type"] == "json_invalid" else _plain(found["msg"])
    return JSONResponse({"detail": f"Invalid {place}: {said} (see /docs for what is allowed)"}, 422)


def _plain(part: object) -> str:
    return str(part)[:100].encode("ascii", "backslashreplace").decode()


async def _failed(request: Request, error: Exception) -> JSONResponse:
    getLogger("uvicorn.error").error(f"{request.method} {request.url.path} failed: {type(error).__name__}: {error}")
    return JSONResponse({"detail": "Internal error: see the log of the service, and please report it"}, 500)


class BodyLimit:
    """A middleware that refuses bodies of more than ``limit`` bytes with status 413.

    Args:
        app: the application.
        limit: maximum number of bytes.
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app, self._limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        taken = 0

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._limit:
                raise HTTPException(413, f"The body of the request is too long: at most {self._limit:,} bytes")
            return message

        await self._app(scope, counted if scope["type"] == "http" else receive, send)
