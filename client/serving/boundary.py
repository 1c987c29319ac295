"""Around the application: who may ask, how much, what is counted, and what no log line may tell.

A request's path, query and body may hold a user's identifier, history or need. So there is no
access log, and of an error only its class and place are told.
"""

import json
import logging
import time
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from client.serving.access import HEADERS, Access
from client.serving.metrics import Metrics

LOGGER = logging.getLogger(__name__)

# The longest history with the longest identifiers that anybody has, and room to spare.
LARGEST_BODY_BYTES = 8 * 1024**2
METHODS = frozenset({"GET", "HEAD", "POST"})
JSON = (b"content-type", b"application/json")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]


class Boundary:
    """An ASGI application around another.

    Args:
        application: answers.
        access: who may ask.
        metrics: counts.
    """

    def __init__(self, application: Application, access: Access, metrics: Metrics) -> None:
        self._application = application
        self._access = access
        self._metrics = metrics

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request, or hand on what is none."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        started = time.perf_counter()
        reply = _Reply(send, scope["path"].startswith("/v1/"))
        try:
            await self._answer(scope, receive, reply)
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            LOGGER.error(
                "a request failed: %s at %s:%s", type(error).__name__, place.filename, place.lineno
            )
            if not reply.status:
                await reply.refuse(500, "the request failed; the service's log says where")
        finally:
            route = getattr(scope.get("route"), "path_format", "other")
            method = scope["method"] if scope["method"] in METHODS else "other"
            self._metrics.answered(route, method, reply.status, time.perf_counter() - started)

    async def _answer(self, scope: Message, receive: Receive, reply: "_Reply") -> None:
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        refusal = self._access.refusal(scope["path"], headers)
        if refusal is not None:
            await reply.refuse(*refusal)
            return
        if scope["method"] not in ("GET", "HEAD"):
            body = await _body(receive)
            if body is None:
                await reply.refuse(413, f"the body is larger than {LARGEST_BODY_BYTES} bytes")
                return
            receive = _replayed(body, receive)
        await self._application(scope, receive, reply)


class _Reply:
    """``send`` with the headers of every answer; remembers its status."""

    def __init__(self, send: Send, private: bool) -> None:
        self._send = send
        self._private = private
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            more = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
            if self._private:
                more.append((b"cache-control", b"no-store"))
            message["headers"] = [*message.get("headers", []), *more]
        await self._send(message)

    async def refuse(self, status: int, sentence: str) -> None:
        """Answer with a sentence alone."""
        body = json.dumps({"detail": sentence}).encode()
        headers = [JSON, (b"content-length", str(len(body)).encode())]
        if status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        await self({"type": "http.response.start", "status": status, "headers": headers})
        await self({"type": "http.response.body", "body": body})


async def _body(receive: Receive) -> bytes | None:
    """The whole body; None where it is too large."""
    found = bytearray()
    while True:
        message = await receive()
        found += message.get("body", b"")
        if len(found) > LARGEST_BODY_BYTES:
            return None
        if not message.get("more_body", False):
            return bytes(found)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """``receive`` that gives a body already read, then what comes after it."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
