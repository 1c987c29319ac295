"""What other machines may ask a SuperLink for."""

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest

from server.ops.gate import LocalControl, guard_superlink, is_local

FAR, NEAR = "198.51.100.7", "192.0.2.1"


def status_of(path: str, client: str | None, server: str = NEAR) -> int:
    """Of the answer; 200 is the application's own."""
    sent: list[MutableMapping[str, Any]] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive() -> MutableMapping[str, Any]:
        raise AssertionError("nothing is read of a request that is refused")

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "path": path,
        "client": None if client is None else (client, 4321),
        "server": (server, 9092),
    }
    asyncio.run(LocalControl(application)(scope, receive, send))
    return int(sent[0]["status"])


@pytest.mark.parametrize("path", ["/v1/fleet/pull-messages", "/v1/fleet/register-node", "/health"])
def test_supernodes_reach_what_they_need_from_anywhere(path: str) -> None:
    assert status_of(path, FAR) == 200


@pytest.mark.parametrize(
    "path",
    [
        "/v1/control/start-run",
        "/v1/control/register-node",
        "/v1/runtime/acquire-task",
        "/docs",
        "/openapi.json",
        "/",
        "",
        "/v1/fleet",
        "/V1/FLEET/../control/start-run",
        "/health/../v1/control/start-run",
        "//v1/fleet/x",
    ],
)
def test_everything_else_is_refused_to_other_machines(path: str) -> None:
    assert status_of(path, FAR) == 403
    assert status_of(path, None) == 403


@pytest.mark.parametrize("client", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", NEAR])
def test_this_machine_may_ask_for_everything(client: str) -> None:
    assert status_of("/v1/control/start-run", client) == 200


@pytest.mark.parametrize("client", ["", "localhost", "127.0.0.1.evil", "2001:db8::1", "unknown"])
def test_what_is_no_address_of_this_machine_is_not_local(client: str) -> None:
    assert not is_local({"client": (client, 1), "server": (NEAR, 9092)})


def test_flowers_application_is_created_behind_the_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goes red when a release of Flower creates its application elsewhere."""
    import flwr.superlink.main as superlink

    monkeypatch.setattr(superlink, "create_app", superlink.create_app)
    guard_superlink()
    app = superlink.create_app()
    assert next(middleware.cls for middleware in app.user_middleware) is LocalControl
