"""The courier: a fresh process for every message that knows neither models nor data."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from client.courier import SocketAgent
from shared import messages
from shared.errors import FederationError, TacitError
from shared.wire import REFUSED, UNREACHABLE, from_bytes, to_bytes
from tests.agent.house import House, Server, reply_of, wait_for

ROOT = Path(__file__).parents[2]
HEAVY = (
    "torch",
    "transformers",
    "peft",
    "opacus",
    "duckdb",
    "dp_accounting",
    "scipy",
    "pandas",
    "pyarrow",
    "sqlite3",
)
# What Flower's runtime does with a message that has reached a node.
CARRIES = """
import json, sys
from pathlib import Path
from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
import client.app
from shared.wire import from_bytes, from_records, to_bytes, to_records
kind, asked, answered, agent = sys.argv[1:]
context = Context(run_id=1, node_id=7, node_config={"agent": agent}, state=RecordDict(),
                  run_config={})
content = to_records(from_bytes(Path(asked).read_bytes()), "request")
message = Message(content, dst_node_id=7, message_type=kind)
message.metadata.__dict__["_message_id"] = "1"
reply = client.app.app(message, context)
told = {"modules": sorted(sys.modules)}
if reply.has_error():
    told |= {"code": reply.error.code, "reason": reply.error.reason}
else:
    Path(answered).write_bytes(to_bytes(from_records(reply.content, "reply")))
print(json.dumps(told))
"""


def carry(tmp_path: Path, kind: str, request: object, agent: object) -> dict[str, object]:
    """Run the courier for one message, as Flower does; what it has to say."""
    asked = tmp_path / "asked"
    asked.write_bytes(to_bytes(request))  # type: ignore[arg-type]
    arguments = [kind, str(asked), str(tmp_path / "answered"), str(agent)]
    done = subprocess.run(
        [sys.executable, "-c", CARRIES, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_the_courier_carries_a_message_without_model_data_or_accounting(
    house: House, server: Server, tmp_path: Path
) -> None:
    with house.agent():
        request = server.request(messages.POPULARITY)
        told = carry(tmp_path, messages.POPULARITY, request, house.socket)
        carried = reply_of(from_bytes((tmp_path / "answered").read_bytes()))
        straight = reply_of(house.access().ask(messages.POPULARITY, request))
    modules = told["modules"]
    assert isinstance(modules, list)
    loaded = {name.partition(".")[0] for name in modules}
    assert not loaded & set(HEAVY)
    own = {name for name in modules if name.partition(".")[0] in ("client", "shared")}
    assert own <= {
        "client",
        "client.app",
        "client.courier",
        "shared",
        "shared.errors",
        "shared.stages",
        "shared.wire",
    }
    assert carried.arrays["values"].tobytes() == straight.arrays["values"].tobytes()


def test_an_agent_that_does_not_run_is_told_in_a_sentence(
    house: House, server: Server, tmp_path: Path
) -> None:
    told = carry(tmp_path, messages.JOIN, server.request(messages.JOIN), house.socket)
    assert told["code"] == UNREACHABLE
    assert "agent does not answer" in str(told["reason"])


@pytest.mark.parametrize("place", ["nowhere/agent.sock", "x" * 300, "asked", ".", "7"])
def test_a_wrong_socket_is_told_in_a_sentence(server: Server, tmp_path: Path, place: str) -> None:
    told = carry(tmp_path, messages.JOIN, server.request(messages.JOIN), tmp_path / place)
    assert "agent does not answer" in str(told["reason"])


def test_a_refusal_comes_back_as_the_reason(house: House, stranger: Server, tmp_path: Path) -> None:
    with house.agent():
        told = carry(tmp_path, messages.JOIN, stranger.request(messages.JOIN), house.socket)
    assert told["code"] == REFUSED
    assert "federations.allowed" in str(told["reason"])


def test_a_kind_that_is_not_known_goes_no_further(server: Server, tmp_path: Path) -> None:
    with pytest.raises(FederationError, match="none of kind"):
        SocketAgent(tmp_path / "agent.sock").ask("query.secret", server.request(messages.JOIN))


def test_an_agent_that_dies_in_the_middle_of_the_work_is_told_in_a_sentence(
    house: House, server: Server, tmp_path: Path
) -> None:
    (house.directory / "hold").touch()

    def kill(pid: int) -> None:
        wait_for(house.directory / "computed")
        os.kill(pid, signal.SIGKILL)

    with house.agent() as process:
        assert process.pid is not None
        killer = threading.Thread(target=kill, args=(process.pid,))
        killer.start()
        request = server.request(messages.POPULARITY)
        told = carry(tmp_path, messages.POPULARITY, request, house.socket)
        killer.join()
    assert "agent does not answer" in str(told["reason"])


OK = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n"
ANSWERS = {
    "nothing": b"",
    "half-a-head": b"HTTP/1.1 200",
    "half-a-body": OK + b"half",
    "garbage": OK.replace(b"1000", b"7") + b"garbage",
    "no-http": b"\0\1\2\3" * 100,
    "odd-status": b"HTTP/1.1 418 no\r\ncontent-length: 0\r\n\r\n",
    "redirect": b"HTTP/1.1 307 no\r\nlocation: http://elsewhere/\r\ncontent-length: 0\r\n\r\n",
    "reason-is-no-table": b"HTTP/1.1 403 no\r\ncontent-length: 2\r\n\r\n[]",
    "reason-is-long": b"HTTP/1.1 403 no\r\ncontent-length: 100013\r\n\r\n"
    + b'{"reason":"'
    + b"x" * 100_000
    + b'"}',
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_that_is_none_is_told_in_a_sentence(
    server: Server, tmp_path: Path, name: str
) -> None:
    """A stand-in for an agent that breaks in the middle of its answer."""
    path = tmp_path / "agent.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(path))
        listening.listen()

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1 << 20)
                connection.sendall(ANSWERS[name])

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(TacitError) as told:
            SocketAgent(path, 20.0).ask(messages.JOIN, server.request(messages.JOIN))
        thread.join()
    assert "agent" in str(told.value) or "message" in str(told.value) or "xxx" in str(told.value)
    assert len(str(told.value)) <= 2000
