"""Server-sent events from work that takes long: one at a time, ended when the asker goes away."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import anyio.to_thread
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

CONTENT_TYPE = "text/event-stream"
RETRY_AFTER_S = 10

# (name, data) of an event.
Event = tuple[str, dict[str, Any]]
# Work that looks at ``stop`` and ends soon when it is set.
Work = Callable[[threading.Event], Iterator[Event]]


class OneAtATime(Response):
    """Streams the events of some work; refuses with 503 while other work has its turn.

    Args:
        work: called in a thread.
        turn: held while the work is done.
    """

    media_type = CONTENT_TYPE

    def __init__(self, work: Work, turn: threading.Lock) -> None:
        super().__init__()
        # How long it is, nobody knows yet.
        del self.headers["content-length"]
        self._work = work
        self._turn = turn

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream, or say that it is busy."""
        if not self._turn.acquire(blocking=False):
            busy = JSONResponse(
                {"detail": "another text is being written; ask again when it is done"},
                status_code=503,
                headers={"Retry-After": str(RETRY_AFTER_S)},
            )
            await busy(scope, receive, send)
            return
        stop = threading.Event()
        watching = asyncio.create_task(_until_gone(receive, stop))
        try:
            await self._stream(send, self._work(stop))
        finally:
            stop.set()
            watching.cancel()
            self._turn.release()

    async def _stream(self, send: Send, events: Iterator[Event]) -> None:
        # What goes wrong at the beginning has a status of its own.
        event = await anyio.to_thread.run_sync(next, events, None)
        await send(
            {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        )
        while event is not None:
            name, data = event
            body = f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()
            await send({"type": "http.response.body", "body": body, "more_body": True})
            # A thread that writes is waited for also when the asker has gone: it sees ``stop``.
            event = await anyio.to_thread.run_sync(next, events, None)
        await send({"type": "http.response.body", "body": b""})


async def _until_gone(receive: Receive, stop: threading.Event) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    stop.set()
