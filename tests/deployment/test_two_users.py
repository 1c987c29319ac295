"""Agent and SuperNode as two operating-system users: the courier sees the socket and no more."""

import sys

import pytest
from lab.federation import TWO_USERS, Federation, finished
from lab.processes import wait_until
from lab.user import ids

pytestmark = pytest.mark.slow


def test_the_courier_user_cannot_open_the_organisations_files(federation: Federation) -> None:
    books = federation.houses[TWO_USERS]
    files = [path for path in books.org.rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"policy.toml", "ledger.sqlite", "histories.duckdb", "organisation.pem"} <= names
    command = ["sh", "-c", 'for f; do cat "$f" > /dev/null && echo "OPENED $f"; done; true', "sh"]
    tried = [*command, *(str(path) for path in files)]
    said = finished(books.lab.start(books.name, "theft", books.as_node_user(tried), {}))
    assert said.count("Permission denied") == len(files)
    assert "OPENED" not in said
    own = [*command, str(books.node_folder / "key")]
    assert "OPENED" in finished(books.lab.start(books.name, "own", books.as_node_user(own), {}))


def test_the_courier_user_reaches_the_agent_through_the_sockets_group(
    federation: Federation,
) -> None:
    books = federation.houses[TWO_USERS]
    user, group, _ = ids()
    assert (books.socket.stat().st_uid, books.socket.stat().st_gid) == (0, group)
    assert books.socket.stat().st_mode & 0o777 == 0o660
    ask = (
        "import httpx, sys; t = httpx.HTTPTransport(uds=sys.argv[1]); "
        "print(httpx.Client(transport=t).get('http://agent/v1/health').json())"
    )
    command = books.as_node_user([sys.executable, "-c", ask, str(books.socket)])
    said = finished(books.lab.start(books.name, "health", command, {"HOME": "/"}))
    assert "'ready': True" in said
    assert user != 0


def test_supernodes_end_with_their_command_and_leave_nothing(federation: Federation) -> None:
    tools = federation.houses["tools"]
    assert tools.node_process.terminate() == 0
    wait_until(lambda: not tools.lab.find("flower-", "tools"), "nothing of Flower's is left")
