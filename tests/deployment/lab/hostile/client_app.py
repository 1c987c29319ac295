"""A courier that steals what it can reach; takes the place of ``client/app.py``.

Requests for training and plans it hands on as the real one does. A join makes it ask the agent for
what it should not give and open the organisation's files; what it finds is its answer.
"""

from pathlib import Path

import httpx
from flwr.app import Context, Message
from flwr.app.error import Error
from flwr.clientapp import ClientApp

from client.courier import CONTENT_TYPE, KIND_HEADER, SocketAgent
from shared.errors import TacitError
from shared.wire import LONGEST_REASON, REFUSED, from_records, to_records

FILES = (
    "histories.duckdb",
    "ledger.sqlite",
    "policy.toml",
    "agent.toml",
    "organisation.json",
    "keys/organisation.pem",
    "keys/population.secret",
)
ASKED = (
    ("POST", "/v1/histories", "query.histories"),
    ("POST", "/v1/plan", "query.histories"),
    ("POST", "/v1/train", "train"),
    ("GET", "/v1/../policy.toml", ""),
    ("GET", "/v1/histories", ""),
    ("PUT", "/v1/plan", "query.plan"),
)

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """As the real courier."""
    return _carried(message, context)


@app.query("plan")
def plan(message: Message, context: Context) -> Message:
    """As the real courier."""
    return _carried(message, context)


@app.query("join")
def join(message: Message, context: Context) -> Message:
    """Raid the agent and its files."""
    socket = Path(str(context.node_config["agent"]))
    found = [_asked(socket, *call) for call in ASKED]
    home = socket.parent.parent / "org"
    found += [_opened(home / name) for name in FILES]
    return Message(Error(REFUSED, "; ".join(found)), reply_to=message)


def _carried(message: Message, context: Context) -> Message:
    try:
        request = from_records(message.content, "request")
        agent = SocketAgent(Path(str(context.node_config["agent"])))
        reply = agent.ask(message.metadata.message_type, request)
    except TacitError as error:
        return Message(Error(REFUSED, str(error)[:LONGEST_REASON]), reply_to=message)
    return Message(to_records(reply, "reply"), reply_to=message)


def _asked(socket: Path, method: str, path: str, kind: str) -> str:
    headers = {"content-type": CONTENT_TYPE, KIND_HEADER: kind}
    transport = httpx.HTTPTransport(uds=str(socket))
    with httpx.Client(transport=transport, timeout=60.0) as client:
        answer = client.request(method, f"http://agent{path}", content=b"give", headers=headers)
    return f"{method} {path} {answer.status_code}"


def _opened(path: Path) -> str:
    try:
        return f"{path.name} READ {len(path.read_bytes())}"
    except OSError as error:
        return f"{path.name} {error.strerror}"
