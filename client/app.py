"""The ClientApp: carries each message to the organisation's agent and the answer back."""

from collections.abc import Callable

from flwr.app import Context, Message
from flwr.app.error import Error
from flwr.clientapp import ClientApp

from client.agent import Agent
from client.directory import agent_for
from client.egress import REFUSED, guard
from shared.errors import RefusedError, TacitError
from shared.messages import Reply, Request, pack_reply, unpack_request

app = ClientApp(mods=[guard])


@app.query("join")
def join(message: Message, context: Context) -> Message:
    """Say who this organisation is and which size it declares."""
    return _answer(message, context, Agent.join)


@app.query("plan")
def plan(message: Message, context: Context) -> Message:
    """Judge a plan before anything of it runs."""
    return _answer(message, context, Agent.plan)


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


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Release noised sums of ranking quality."""
    return _answer(message, context, Agent.evaluate)


@app.query("deliver_adapter")
def deliver_adapter(message: Message, context: Context) -> Message:
    """Take the federation's adapter."""
    return _answer(message, context, Agent.deliver_adapter)


def _answer(message: Message, context: Context, act: Callable[[Agent, Request], Reply]) -> Message:
    agent = agent_for(context)
    try:
        request = unpack_request(message.content)
        reply = act(agent, request)
    except RefusedError as error:
        return Message(Error(REFUSED, str(error)), reply_to=message)
    except TacitError as error:
        # On record as well: a refusal of the policy is there already, a malformed request is not.
        kind = message.metadata.message_type
        refusal = agent.releases.refuse(kind, "request", str(error))
        return Message(Error(REFUSED, str(refusal)), reply_to=message)
    return Message(pack_reply(reply), reply_to=message)
