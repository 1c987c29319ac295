"""The gate of an organisation: every request passes on its way in, every answer on its way out.

A request is parsed, its signature checked against the server that it names, and that server against
those that the policy allows, before the agent hears of it. An answer passes the egress guard. What
is refused is in the ledger, and the asker is told no more than stands there.
"""

import logging
from collections.abc import Callable
from typing import Protocol

from client.agent import Agent
from client.egress import check_reply, name_of, on_record
from client.ledger import Ledger, refused
from shared import messages
from shared.entries import Refusal
from shared.errors import ConfigError, FederationError, RefusedError, TacitError
from shared.judge import judge_asker
from shared.messages import Reply, Request, genuine, parse_request, reply_parcel
from shared.settings import shared_settings
from shared.wire import PHASE_OF, Parcel

LOGGER = logging.getLogger(__name__)

# Refusals of strangers that one process writes down: nobody may fill an organisation's disk.
MOST_STRANGERS = 1000
LONGEST_KIND = 100

ACTS: dict[str, Callable[[Agent, Request], Reply]] = {
    messages.JOIN: Agent.join,
    messages.PLAN: Agent.plan,
    messages.POPULARITY: Agent.popularity,
    messages.COOCCURRENCE: Agent.cooccurrence,
    messages.DELIVER_STATISTICS: Agent.deliver_statistics,
    messages.TRAIN: Agent.train,
    messages.EVALUATE: Agent.evaluate,
    messages.DELIVER_ADAPTER: Agent.deliver_adapter,
}


def _phase(phase: str, mechanism: str) -> Callable[[Agent, Request], Reply]:
    return lambda agent, request: agent.aggregate(request, phase, mechanism)


ACTS |= {kind: _phase(phase, mechanism) for kind, (phase, mechanism) in PHASE_OF.items()}


class Home(Protocol):
    """Where a gate finds the ledger and the agent of its organisation.

    Attributes:
        approval_needed: whether a policy that names no federation lets nobody ask.
    """

    approval_needed: bool

    def ledger(self) -> Ledger:
        """The ledger, under the policy that is in force now."""
        ...

    def agent(self, kind: str, request: Request) -> Agent:
        """The agent under a request's settings.

        Raises:
            TacitError: if they cannot be used here.
        """
        ...


class Resident:
    """The home of an agent that was made for one run: a simulation's."""

    approval_needed = False

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._settings = shared_settings(agent.config)

    def ledger(self) -> Ledger:
        """The agent's."""
        return self._agent.ledger

    def agent(self, kind: str, request: Request) -> Agent:
        """The agent, if the request is of its run.

        Raises:
            FederationError: if it has other settings.
        """
        if request.settings != self._settings:
            raise FederationError("message: its settings are not those of the agent's run")
        return self._agent


class Gate:
    """``shared.wire.AgentAccess`` in the agent's own process; one request at a time.

    Args:
        home: of the organisation.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._strangers = 0

    def ask(self, kind: str, request: Parcel) -> Parcel:
        """Answer a request, or refuse it with a sentence that the ledger has.

        Raises:
            RefusedError: the sentence.
            FederationError: if there is no answer for a reason that stays in the agent's own log.
        """
        try:
            return reply_parcel(self._answer(kind, request))
        except _ToldError as error:
            raise RefusedError(str(error)) from error
        except Exception as error:
            # Its text may quote data.
            LOGGER.exception("a message of kind %.100r could not be answered", kind)
            raise FederationError(
                "the organisation could not answer; its own log says why"
            ) from error

    def _answer(self, kind: str, parcel: Parcel) -> Reply:
        place = kind[:LONGEST_KIND]
        try:
            name = name_of(kind)
            request = parse_request(parcel)
        except TacitError as error:
            unknown = [Refusal("request", str(error))]
            raise self._refused(place, unknown, stranger=True) from error
        place = request.identifier(name)
        self._check_asker(kind, place, request)
        try:
            agent = self._home.agent(kind, request)
            reply = ACTS[kind](agent, request)
        except RefusedError as error:
            raise self._told(place, str(error)) from error
        except (ConfigError, FederationError) as error:
            raise self._refused(place, [Refusal("request", str(error))]) from error
        except Exception as error:
            # Its text may quote data, or name files.
            LOGGER.exception("%s could not be answered", place)
            sentence = f"{type(error).__name__}; the agent's own log says more"
            raise self._refused(place, [Refusal("request", sentence)]) from error
        try:
            check_reply(kind, request, reply, agent)
        except RefusedError as error:
            LOGGER.error("egress guard: %s", error)
            raise _ToldError("the egress guard dropped the reply; the ledger says why") from error
        return reply

    def _check_asker(self, kind: str, place: str, request: Request) -> None:
        """Refuse who does not sign, who may not ask, and who asks in another's run."""
        ledger = self._home.ledger()
        policy = ledger.policy
        found = []
        if not genuine(kind, request):
            sentence = "it does not carry the signature of the server that it names"
            found.append(Refusal("request.signature", sentence))
        elif self._home.approval_needed and not policy.federations.allowed:
            found.append(
                Refusal(
                    "federations.allowed", "no federation was approved here: tacit client approve"
                )
            )
        else:
            plan = None if request.plan is None else request.plan.sha256
            found += judge_asker(policy, request.federation, plan)
            found += self._unknown_members(request)
            if policy.federations.plans and plan is None and kind != messages.JOIN:
                found.append(Refusal("federations.plans", "the request carries no plan"))
            owner = ledger.federation_of(request.run)
            if owner not in (None, request.federation):
                found.append(Refusal("run", f"run {request.run} is another server's"))
        if found:
            raise self._refused(place, found, stranger=True)

    def _unknown_members(self, request: Request) -> list[Refusal]:
        """Where an agent is deployed, only organisations that were approved here count in a sum."""
        secure = request.plan is not None and request.plan.secure
        if not (secure and self._home.approval_needed) or self._home.ledger().policy.trust.members:
            return []
        sentence = "no organisation was approved here to add up with: tacit client approve --member"
        return [Refusal("trust.members", sentence)]

    def _refused(self, place: str, refusals: list[Refusal], stranger: bool = False) -> "_ToldError":
        ledger = self._home.ledger()
        known = ledger.refusals_of(place)
        for refusal in refusals:
            if refusal.shortened() in known:
                continue
            if stranger:
                self._strangers += 1
            if stranger and self._strangers > MOST_STRANGERS:
                LOGGER.warning("not in the ledger, which has enough: %s: %s", place, refusal.rule)
            else:
                ledger.record_refusal(place, refusal)
        return _ToldError(str(refused(ledger.policy.organisation.name, refusals)))

    def _told(self, place: str, reason: str) -> "_ToldError":
        if on_record(reason, [place], self._home.ledger()):
            return _ToldError(reason)
        LOGGER.error("a reason that is not in the ledger: %s", reason)
        return _ToldError("the organisation refused; its own log says why")


class _ToldError(Exception):
    """A sentence that may leave."""
