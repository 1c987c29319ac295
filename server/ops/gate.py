"""``flower-superlink`` that lets other machines reach nothing but what SuperNodes need.

Flower 1.42 serves three interfaces on one port. SuperNodes prove who they are on the Fleet API. The
Control API, which submits runs, and the Runtime API, which hands their tasks out, ask nobody who
they are: whoever reaches the port could run code as the SuperLink's user and read the federation's
signing key. So those two answer this machine only.

Run as ``python -P -m server.ops.gate``; the options are those of ``flower-superlink``.
"""

import ipaddress
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastapi import FastAPI

# The process that is to be outlived by no SuperLink; the SuperLink ends when that one has ended.
PARENT_VARIABLE = "TACIT_SUPERLINK_PARENT"
PARENT_POLL_S = 0.5

OPEN_PREFIX = "/v1/fleet/"
OPEN_PATHS = frozenset({"/health"})
REFUSAL = b"Only the machine of the SuperLink may ask for this.\n"

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class LocalControl:
    """ASGI middleware: other machines reach the Fleet API and the health check, nothing else."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 403."""
        if scope["type"] == "lifespan" or _is_open(scope["path"]) or is_local(scope):
            await self._app(scope, receive, send)
            return
        # A web socket is closed by the same answer before it is accepted.
        headers = [(b"content-type", b"text/plain; charset=utf-8")]
        await send({"type": "http.response.start", "status": 403, "headers": headers})
        await send({"type": "http.response.body", "body": REFUSAL})


def is_local(scope: Scope) -> bool:
    """Whether a request comes from this machine: from loopback, or from the address it reached."""
    client, server = scope.get("client"), scope.get("server")
    if client is None or server is None:
        return False
    try:
        address = ipaddress.ip_address(client[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback or client[0] == server[0]


def _is_open(path: str) -> bool:
    return path.startswith(OPEN_PREFIX) or path in OPEN_PATHS


def guard_superlink() -> None:
    """Put the middleware in front of the application that ``flower-superlink`` will create.

    Raises:
        AttributeError: if this release of Flower has no such application to guard.
    """
    import flwr.superlink.main as superlink

    create = superlink.create_app

    def guarded(*arguments: Any, **options: Any) -> "FastAPI":
        app = create(*arguments, **options)
        app.add_middleware(LocalControl)
        return app

    superlink.create_app = guarded


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(PARENT_POLL_S)
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Run the SuperLink."""
    from flwr.superlink.cli import flower_superlink

    parent = os.environ.get(PARENT_VARIABLE)
    if parent is not None:
        threading.Thread(target=_end_with, args=(int(parent),), daemon=True).start()
    guard_superlink()
    flower_superlink()


if __name__ == "__main__":
    main()
