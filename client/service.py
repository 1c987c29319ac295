"""The agent's process: the gate behind a Unix socket, one request at a time.

Six calls (``shared.messages.CALLS``), each with a message in and a message out. Whoever can open
the socket can ask; what is answered is the gate's decision alone.
"""

import asyncio
import grp
import logging
import os
import signal
import socket as sockets
import stat
import sys
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from client.code import code_version
from client.courier import CONTENT_TYPE, KIND_HEADER
from client.directory import read_policy
from client.gate import Gate
from client.organisation import Organisation
from client.settings import MEBIBYTE, AgentSettings, settings_path, socket_path
from shared.errors import FederationError, RefusedError, RunError
from shared.files import locked
from shared.messages import CALLS
from shared.wire import Parcel, from_bytes, to_bytes

LOGGER = logging.getLogger(__name__)

FORBIDDEN, NOT_FOUND, TOO_LARGE, BUSY, FAILED = 403, 404, 413, 503, 500
SOCKET_MODE, FOLDER_MODE = 0o660, 0o750
PENDING_CONNECTIONS = 16
MOST_CONNECTIONS = 128
# Bodies that are held in memory while they wait for their turn, in largest requests.
MOST_HELD = 2
# For a courier that never ends its request. Work in hand ends whole: its answer is stored.
GRACE_S = 10


class Health(BaseModel):
    """What an agent says of itself to whoever can open its socket."""

    name: str
    code: str
    ready: bool


class Service:
    """One gate and the single thread that it lives in.

    Args:
        open_gate: makes the gate; called in that thread, to which SQLite binds the ledger. What it
            raises, this does.
        name: of the organisation.
        wait_s: how long a request waits for the one before it.
        largest_bytes: of a request.
    """

    def __init__(
        self, open_gate: Callable[[], Gate], name: str, wait_s: float, largest_bytes: int
    ) -> None:
        self._name = name
        self._wait_s = wait_s
        self._largest_bytes = largest_bytes
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="agent")
        self._turn = asyncio.Lock()
        self._held_bytes = 0
        self._gate = self._thread.submit(open_gate).result()

    def stop(self) -> None:
        """Let the request in hand end, then the thread."""
        self._thread.shutdown(wait=True)

    def health(self) -> Health:
        """That requests can be answered; the gate was opened before anybody could ask."""
        return Health(name=self._name, code=code_version(), ready=True)

    async def answer(self, kind: str, incoming: Request) -> Response:
        """Answer one message, or say why not."""
        data = bytearray()
        try:
            return await self._read_and_answer(kind, incoming, data)
        finally:
            self._held_bytes -= len(data)

    async def _read_and_answer(self, kind: str, incoming: Request, data: bytearray) -> Response:
        async for chunk in incoming.stream():
            if self._held_bytes + len(chunk) > MOST_HELD * self._largest_bytes:
                return _no(BUSY, "the agent has too many requests waiting")
            data += chunk
            self._held_bytes += len(chunk)
            if len(data) > self._largest_bytes:
                return _no(TOO_LARGE, f"the request is larger than {self._largest_bytes} bytes")
        try:
            await asyncio.wait_for(self._turn.acquire(), self._wait_s)
        except TimeoutError:
            return _no(BUSY, f"the agent was busy with another request for {self._wait_s:g} s")
        try:
            # Shielded: a courier that ends leaves the work whole, and its answer stored.
            return await asyncio.shield(self._ask(kind, bytes(data)))
        finally:
            self._turn.release()

    async def _ask(self, kind: str, data: bytes) -> Response:
        loop = asyncio.get_running_loop()
        try:
            reply = await loop.run_in_executor(self._thread, self._in_thread, kind, data)
        except RefusedError as error:
            return _no(FORBIDDEN, str(error))
        except FederationError as error:
            return _no(FAILED, str(error))
        return Response(to_bytes(reply), media_type=CONTENT_TYPE)

    def _in_thread(self, kind: str, data: bytes) -> Parcel:
        try:
            parcel = from_bytes(data)
        except FederationError as error:
            # The gate refuses it once more, on record.
            LOGGER.warning("%s", error)
            parcel = Parcel({}, {})
        return self._gate.ask(kind, parcel)


def application(service: Service) -> FastAPI:
    """The calls of an agent's interface."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.stop()

    app = FastAPI(
        title="tacit agent", lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None
    )

    @app.get("/v1/health")
    def health() -> Health:
        return service.health()

    @app.post("/v1/{call}")
    async def ask(call: str, incoming: Request) -> Response:
        kind = incoming.headers.get(KIND_HEADER, "")
        if kind not in CALLS.get(call, ()):
            # To the gate all the same, so that the ledger has it.
            kind = f"{call} {kind}"
        return await service.answer(kind, incoming)

    @app.api_route("/{path:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
    async def other(path: str, incoming: Request) -> Response:
        return await service.answer(f"{incoming.method} /{path}", incoming)

    return app


def serve(directory: Path) -> None:
    """Run the agent of an organisation until it is told to end.

    Raises:
        RunError: if its socket is in use or cannot be made.
        TacitError: if a file of the organisation cannot be used.
    """
    settings = AgentSettings.load(settings_path(directory))
    path = socket_path(directory, settings)
    # uvicorn raises these once more when it has closed; without this the socket would stay.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    os.umask(0o077)
    # Its ledger and its socket have one process.
    taken = f"{directory}: its agent is running already; end it first"
    with locked(directory / "agent.lock", taken):
        _serve(directory, settings, path)


def _serve(directory: Path, settings: AgentSettings, path: Path) -> None:
    name = read_policy(directory).organisation.name
    # What is wrong with the organisation is said before anybody is told to connect.
    service = Service(
        lambda: Gate(Organisation(directory)),
        name,
        settings.agent.wait_s,
        settings.agent.largest_request_mib * MEBIBYTE,
    )
    listening = listen(path, settings.agent.socket_group)
    try:
        config = uvicorn.Config(
            application(service),
            log_level="warning",
            access_log=False,
            limit_concurrency=MOST_CONNECTIONS,
            timeout_graceful_shutdown=GRACE_S,
        )
        server = uvicorn.Server(config)
        LOGGER.info("%s listens at %s", name, path)
        server.run(sockets=[listening])
        if not server.started:
            raise RunError(f"{directory}: its agent could not start; the log says why")
    finally:
        listening.close()
        path.unlink(missing_ok=True)


def listen(path: Path, group: str) -> sockets.socket:
    """A listening Unix socket that only its owner, and a group where one is named, may open.

    Raises:
        RunError: if another process listens there, or the place cannot be used.
    """
    if path.exists():
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise RunError(f"{path}: is there and is no socket; check agent.socket")
        _refuse_in_use(path)
        # Left behind by a process that was killed.
        path.unlink()
    opened = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
    before = os.umask(0o027)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
        os.umask(0o177)
        opened.bind(str(path))
        if group:
            os.chown(path, -1, grp.getgrnam(group).gr_gid)
            path.chmod(SOCKET_MODE)
    except (OSError, KeyError) as error:
        opened.close()
        raise RunError(
            f"{path}: no socket can be made there ({error}); check agent.socket and "
            "agent.socket_group"
        ) from error
    finally:
        os.umask(before)
    opened.listen(PENDING_CONNECTIONS)
    return opened


def _refuse_in_use(path: Path) -> None:
    with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return
        except OSError as error:
            raise RunError(f"{path}: is there and is no socket of an agent ({error})") from error
    raise RunError(f"{path}: an agent listens there already; end it first")


def _no(status: int, reason: str) -> JSONResponse:
    return JSONResponse({"reason": reason}, status_code=status)
