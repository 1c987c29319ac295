"""The routes of the service: JSON in and out, described by OpenAPI."""

import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import anyio.to_thread
from fastapi import FastAPI, Query, Request, Response
from fastapi import Path as InPath
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from client.serving import answers, metrics, schemas
from client.serving.events import CONTENT_TYPE, OneAtATime
from client.serving.federation import Federation, federation_of
from client.serving.ledger_view import LedgerView, Reading
from client.serving.live import Live
from client.serving.privacy import Privacy, privacy_of
from client.serving.site import page_files
from client.serving.utility import UtilityOf
from client.serving.words import Speaker
from shared.errors import (
    AssetError,
    ConfigError,
    DataError,
    PrivacyError,
    RunError,
    TacitError,
)

LOGGER = logging.getLogger(__name__)

# More would only take turns at two or four cores.
THREADS = 8
STATUS: dict[type[TacitError], int] = {
    ConfigError: 400,
    DataError: 404,
    RunError: 503,
    AssetError: 503,
    PrivacyError: 503,
}
EVENTS = {
    CONTENT_TYPE: {
        "schema": {
            "type": "object",
            "properties": {
                "event": {"type": "string", "enum": ["portrait", "recommendation", "done"]},
                "data": {"type": "string", "contentMediaType": "application/json"},
            },
            "required": ["event", "data"],
        }
    }
}
UserPath = Annotated[str, InPath(min_length=1, max_length=schemas.LONGEST_NAME)]
ItemPath = Annotated[str, InPath(min_length=1, max_length=schemas.LONGEST_NAME)]


@dataclass(frozen=True)
class Parts:
    """What the routes answer from.

    Attributes:
        directory: of the organisation; only read.
        name: of the organisation.
        live: the recommender in use.
        ledger: of the organisation.
        utility: of the delivery in use.
        speaker: tells in words.
        counted: for Prometheus.
    """

    directory: Path
    name: str
    live: Live
    ledger: LedgerView
    utility: UtilityOf
    speaker: Speaker
    counted: metrics.Metrics


def application(parts: Parts) -> FastAPI:
    """The service's routes; ``client.serving.boundary`` goes around them."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
        await anyio.to_thread.run_sync(parts.live.start)
        yield
        await anyio.to_thread.run_sync(parts.live.stop)
        await anyio.to_thread.run_sync(parts.utility.stop)

    app = FastAPI(
        title="tacit",
        version=version("tacit"),
        summary=f"Recommendations at {parts.name}, from its own data on its own machine.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    _add_errors(app)
    _add_people(app, parts)
    _add_organisation(app, parts)
    _add_page(app)
    return app


def _add_people(app: FastAPI, parts: Parts) -> None:
    live = parts.live
    turn = threading.Lock()

    @app.get("/v1/users", responses=_answers(schemas.Users))
    def users(asked: Annotated[schemas.UsersWish, Query()]) -> Response:
        """Users by a part of their identifier."""
        return _json(answers.users(live.recommender(), asked.search, asked.limit))

    @app.get("/v1/users/{user:path}/recommendations", responses=_answers(schemas.Recommended))
    def recommendations(user: UserPath, wish: Annotated[schemas.Wish, Query()]) -> Response:
        """The best items for a user."""
        return _json(answers.recommended(live.recommender(), user, wish))

    @app.get(
        "/v1/users/{user:path}/explanations/{item:path}", responses=_answers(schemas.Explained)
    )
    def explanation(
        user: UserPath, item: ItemPath, asked: Annotated[schemas.NeedOnly, Query()]
    ) -> Response:
        """What carries an item's score for a user."""
        query = schemas.Wish(need=asked.need).query()
        return _json(answers.explained(live.recommender(), user, [item], query)[0])

    @app.get("/v1/users/{user:path}/interests", responses=_answers(schemas.InterestsOfUser))
    def interests(user: UserPath) -> Response:
        """A user's themes over time."""
        return _json(answers.interests(live.recommender(), user))

    @app.get(
        "/v1/users/{user:path}/words",
        responses=_answers(None) | {200: {"description": "Events.", "content": EVENTS}},
    )
    def words(user: UserPath, asked: Annotated[schemas.WordsWish, Query()]) -> Response:
        """A portrait and a sentence for each recommendation, as server-sent events.

        Events are `portrait`, `recommendation` for each item, and `done` with counts.
        """
        recommender = live.recommender()
        # Whether there is such a user is an answer of its own, not an event.
        recommender.user_place(user)
        return OneAtATime(
            lambda stop: parts.speaker.told(recommender, user, asked.k, asked.need, stop), turn
        )

    @app.get("/v1/users/{user:path}", responses=_answers(schemas.User))
    def user(user: UserPath, asked: Annotated[schemas.HistoryLimit, Query()]) -> Response:
        """A user's history, newest first."""
        return _json(answers.user(live.recommender(), user, asked.limit))

    @app.post(
        "/v1/recommendations",
        responses=_answers(schemas.Recommended)
        | {413: {"model": schemas.Failure, "description": "The body is too large."}},
    )
    def for_history(wish: schemas.HistoryWish) -> Response:
        """The best items for a history that comes with the request; nothing of it is kept."""
        return _json(answers.recommended(live.recommender(), wish.history, wish))


def _add_organisation(app: FastAPI, parts: Parts) -> None:
    computed: dict[str, tuple[Reading, Privacy]] = {}
    computing = threading.Lock()

    @app.get("/v1/privacy", responses=_answers(Privacy))
    def privacy() -> Response:
        """Budget, what was spent, and everything that left."""
        with computing:
            reading = parts.ledger.read()
            # Composing a long ledger takes a second; it is done once for each record.
            if "last" not in computed or computed["last"][0] is not reading:
                computed["last"] = reading, privacy_of(reading)
            return _json(computed["last"][1])

    @app.get("/v1/federation", responses=_answers(Federation))
    def federation() -> Response:
        """Runs, what was delivered, and how well it ranks here."""
        in_use = utility = None
        if parts.live.ready:
            recommender = parts.live.recommender()
            in_use = answers.delivery_state(recommender.delivery)
            utility = parts.utility.of(recommender)
        return _json(federation_of(parts.directory, parts.ledger.read(), in_use, utility))

    @app.get("/healthz", responses={200: {"model": schemas.Health}})
    def health() -> Response:
        """Whether requests can be answered; open to all who reach the service."""
        state = "ok" if parts.live.ready else "waiting"
        return _json(schemas.Health(status=state, name=parts.name))

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    def measured() -> Response:
        """For Prometheus."""
        return Response(parts.counted.text(), media_type=metrics.CONTENT_TYPE)


def _add_page(app: FastAPI) -> None:
    files = page_files()

    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        return files["index.html"].answer(request)

    @app.get("/page/{name}", include_in_schema=False)
    async def file(name: str, request: Request) -> Response:
        if name not in files:
            return _failure(404, f"the page has no file {name!r}")
        return files[name].answer(request)


def _add_errors(app: FastAPI) -> None:
    async def told_error(_: Request, error: Exception) -> Response:
        return _failure(
            STATUS[next(kind for kind in STATUS if isinstance(error, kind))], str(error)
        )

    async def malformed(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        # What was sent is not sent back: it may be a history, and errors end up in logs.
        found = [{key: one[key] for key in ("loc", "msg", "type")} for one in error.errors()]
        return JSONResponse({"detail": found}, status_code=422)

    for kind in STATUS:
        app.add_exception_handler(kind, told_error)
    app.add_exception_handler(RequestValidationError, malformed)


def _answers(model: type[BaseModel] | None) -> dict[int | str, dict[str, Any]]:
    failures = {
        400: "The request makes no sense.",
        401: "Without the API key.",
        403: "Asked by another site's page.",
        404: "No such user or item.",
        421: "Without an API key, asked for by another name than localhost.",
        503: "Nothing can be used yet, or it is busy.",
    }
    found: dict[int | str, dict[str, Any]] = {
        status: {"model": schemas.Failure, "description": text} for status, text in failures.items()
    }
    found[422] = {"model": schemas.Rejected, "description": "The request is malformed."}
    if model is not None:
        found[200] = {"model": model}
    return found


def _json(answer: BaseModel) -> Response:
    # Made once from a model that has its types already; FastAPI would check and copy it again.
    return Response(answer.model_dump_json(), media_type="application/json")


def _failure(status: int, sentence: str) -> Response:
    return JSONResponse({"detail": sentence}, status_code=status)
