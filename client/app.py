"""The ClientApp, a courier: carries each message to the organisation's agent and the answer back.

Where an organisation is deployed, this code comes with the run and Flower starts it anew for every
message, as a user who cannot read the organisation's files. The node config's ``agent`` says where
the agent's socket is. In a simulation the agent is in this process.
"""

from pathlib import Path

from flwr.app import Context, Message
from flwr.app.error import Error
from flwr.clientapp import ClientApp

from client.courier import SocketAgent
from shared.errors import RefusedError, TacitError, UnreachableError
from shared.wire import (
    FAILED,
    LONGEST_REASON,
    PHASE_OF,
    REFUSED,
    UNREACHABLE,
    AgentAccess,
    from_records,
    to_records,
)

app = ClientApp()


@app.query("join")
def join(message: Message, context: Context) -> Message:
    """Say who this organisation is and which size it declares."""
    return carry(message, context)


@app.query("plan")
def plan(message: Message, context: Context) -> Message:
    """Judge a plan before anything of it runs."""
    return carry(message, context)


@app.query("popularity")
def popularity(message: Message, context: Context) -> Message:
    """Release the private popularity P."""
    return carry(message, context)


@app.query("cooccurrence")
def cooccurrence(message: Message, context: Context) -> Message:
    """Release the private co-occurrence G."""
    return carry(message, context)


@app.query("deliver_statistics")
def deliver_statistics(message: Message, context: Context) -> Message:
    """Take the federation's statistics."""
    return carry(message, context)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Run private steps and release the update."""
    return carry(message, context)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Release noised sums of ranking quality."""
    return carry(message, context)


@app.query("deliver_adapter")
def deliver_adapter(message: Message, context: Context) -> Message:
    """Take the federation's adapter."""
    return carry(message, context)


def aggregate(message: Message, context: Context) -> Message:
    """A phase of a secure sum: announce keys, deal shares, or give those that unmask it."""
    return carry(message, context)


for phase in PHASE_OF:
    app.query(phase.removeprefix("query."))(aggregate)


def carry(message: Message, context: Context) -> Message:
    """The agent's answer to a message, or its refusal."""
    try:
        request = from_records(message.content, "request")
        reply = agent_of(context).ask(message.metadata.message_type, request)
    except TacitError as error:
        codes = {RefusedError: REFUSED, UnreachableError: UNREACHABLE}
        code = codes.get(type(error), FAILED)
        return Message(Error(code, str(error)[:LONGEST_REASON]), reply_to=message)
    return Message(to_records(reply, "reply"), reply_to=message)


def agent_of(context: Context) -> AgentAccess:
    """The agent of the node that a message has reached."""
    socket = context.node_config.get("agent")
    if socket:
        return SocketAgent(Path(str(socket)))
    # Only here: it imports torch, which a deployed courier does not have.
    from client.directory import gate_for

    return gate_for(context)
