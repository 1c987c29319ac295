"""The ClientApp: carries each message to the organisation's agent and the answer back."""

from collections.abc import Callable

from flwr.app import Context, Message
from flwr.app.error import Error
from flwr.clientapp import ClientApp

from client.agent import Agent
from client.directory import agent_for
from shared.errors import TacitError
from shared.messages import Reply, Request, pack_reply, unpack_request

# Flower's own codes end at 5xx; this one says that the organisation refused, and the reason says
# why.
REFUSED = 1000

app = ClientApp()


@app.query("join")
def join(message: Message, context: Context) -> Message:
    """Say who this organisation is and which size it declares."""
    return _answer(message, context, Agent.join)


@app.query("popularity")
def popularity(message: Message, context: Context) -> Message:
    """Release the private popularity P."""
    return _answer(message, context, Agent.popularity)


@app.query("cooccurrence")
def cooccurrence(message: Message, context: Context) -> Message:
    """Release the private co-occurrence G."""
    return _answer(message, context, Agent.cooccurrence)


@app.query("deliver_statistics")
def deliver_statistics(message: Message, context: Context) -> Message:
    """Take the federation's statistics."""
    return _answer(message, context, Agent.deliver_statistics)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Run private steps and release the update."""
    return _answer(message, context, Agent.train)


@app.query("deliver_adapter")
def deliver_adapter(message: Message, context: Context) -> Message:
    """Take the federation's adapter."""
    return _answer(message, context, Agent.deliver_adapter)


def _answer(message: Message, context: Context, act: Callable[[Agent, Request], Reply]) -> Message:
    try:
        reply = act(agent_for(context), unpack_request(message.content))
    except TacitError as error:
        return Message(Error(REFUSED, str(error)), reply_to=message)
    return Message(pack_reply(reply), reply_to=message)
