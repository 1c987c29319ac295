"""A hostile organisation: stands between SuperNode and agent and spoils the agent's updates."""

import json
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from client.courier import CONTENT_TYPE, KIND_HEADER, SocketAgent
from shared.errors import RefusedError, TacitError
from shared.wire import Parcel, from_bytes, to_bytes

Spoil = Callable[[int, Parcel], Parcel]


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


@contextmanager
def spoiling(agent: Path, socket: Path, spoil: Spoil) -> Iterator[None]:
    """Listen at ``socket``; hand everything on to ``agent``, and its updates through ``spoil``.

    Args:
        agent: socket of the real agent.
        socket: to listen at.
        spoil: is given the round and the update.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            kind = self.headers[KIND_HEADER]
            request = from_bytes(body)
            try:
                reply = SocketAgent(agent).ask(kind, request)
            except TacitError as error:
                status = 403 if isinstance(error, RefusedError) else 500
                self._send(status, json.dumps({"reason": str(error)}).encode())
                return
            if kind == "train":
                reply = spoil(int(request.fields["round"]), reply)
            self._send(200, to_bytes(reply))

        def _send(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("content-type", CONTENT_TYPE)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def address_string(self) -> str:
            return "courier"

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    socket.unlink(missing_ok=True)
    with _Server(str(socket), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield
        finally:
            server.shutdown()
            socket.unlink(missing_ok=True)
