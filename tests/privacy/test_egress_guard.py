"""Whatever the agent's acts return, nothing leaves but the release that is in the ledger."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

import client.app
from client import gate
from client.agent import Agent
from client.directory import _agents, _gates, register
from shared import messages
from shared.chain import Head
from shared.config import Config, to_run_config
from shared.errors import RefusedError
from shared.keys import SigningKey
from shared.messages import Reply, Request, pack_delivery, pack_request, signed, unpack_reply
from shared.plan import PrivacyPlan, make_plan
from shared.settings import shared_settings
from shared.wire import FAILED, LONGEST_REASON, REFUSED, from_records, to_bytes
from simulations.engine import InProcessGrid

Arrays = dict[str, npt.NDArray[Any]]
OpenAgent = Callable[..., AbstractContextManager[Agent]]
Change = Callable[[Reply], Any]
Act = Callable[[Agent, Request], Reply]

# Stands for what hostile code in the agent has read and would like to send.
SECRET = "user-3 had Item 7"
NOISED = (messages.POPULARITY, messages.COOCCURRENCE, messages.TRAIN, messages.EVALUATE)
SHARES = {
    "popularity_share": 0.5,
    "cooccurrence_share": 0.3,
    "adapter_share": 0.1,
    "evaluation_share": 0.1,
}


@dataclass
class Node:
    """The real ClientApp over an agent, as a federation's engine calls it.

    Attributes:
        agent: registered for the app.
        plan: of all requests.
        adapter: that fits the agent's model.
        grid: calls the app.
        key: of the server that asks.
    """

    agent: Agent
    plan: PrivacyPlan
    adapter: Arrays
    grid: InProcessGrid
    key: SigningKey

    def ask(self, kind: str, arrays: Arrays | None = None, round_number: int = 0) -> Message:
        return self.send(kind, pack_request(self.signed(kind, arrays, round_number, self.plan)))

    def signed(
        self, kind: str, arrays: Arrays | None, round_number: int, plan: PrivacyPlan
    ) -> Request:
        settings = shared_settings(self.agent.config)
        request = Request(
            "run", round_number, plan, "model-of-the-test", arrays or {}, settings=settings
        )
        return signed(kind, request, self.key)

    def send(self, kind: str, content: RecordDict) -> Message:
        (node,) = self.grid.get_node_ids()
        (reply,) = self.grid.send_and_receive([Message(content, node, kind)])
        return reply

    def arrays_for(self, kind: str) -> Arrays:
        """What a request of this kind carries when it is honest."""
        keys = self.agent.catalogue.key_hashes
        delivered: Arrays = {
            "keys": keys,
            "log_popularity": np.zeros(len(keys)),
            "top": np.arange(3),
            "transition": np.zeros((3, 3)),
            "floor": np.array([-2.0]),
        }
        return {
            messages.COOCCURRENCE: {"keys": keys[:5]},
            messages.TRAIN: self.adapter,
            messages.DELIVER_STATISTICS: delivered,
            messages.DELIVER_ADAPTER: dict(pack_delivery(self.adapter, 1.0)),
        }.get(kind, {})


@pytest.fixture
def node(
    open_agent: OpenAgent, make_config: Callable[..., Config], adapter: Arrays, tmp_path: Path
) -> Iterator[Node]:
    config = make_config(**SHARES)
    run_config = to_run_config(config) | {"tacit.directory": str(tmp_path)}
    with open_agent(tmp_path / "organisations" / "0001", **SHARES) as agent:
        register(agent)
        try:
            grid = InProcessGrid(client.app.app, run_config, 1)
            plan = make_plan(config, users=6, organisations=1)
            key = SigningKey.load_or_create(tmp_path / "server.pem")
            yield Node(agent, plan, adapter, grid, key)
        finally:
            _agents.pop(agent.directory)
            _gates.pop(agent.directory, None)


@pytest.fixture
def acts(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Act], Act]], None]:
    """Puts something else in the place of every act of the agent."""

    def use(wrap: Callable[[Act], Act]) -> None:
        for kind, act in list(gate.ACTS.items()):
            monkeypatch.setitem(gate.ACTS, kind, wrap(act))

    return use


@pytest.fixture
def hostile(acts: Callable[[Callable[[Act], Act]], None]) -> Callable[[Change], None]:
    """Makes the agent change every reply before the guard sees it."""

    def use(change: Change) -> None:
        acts(lambda act: lambda agent, request: change(act(agent, request)))

    return use


def check_nothing_leaves(node: Node, reply: Message) -> None:
    """Neither content nor a word of it."""
    assert reply.has_error()
    assert not reply.has_content()
    assert reply.error.code in (REFUSED, FAILED)
    assert SECRET not in str(reply.error.reason)


def check_dropped(node: Node, reply: Message) -> None:
    """Nothing of the content is in the reply, and the ledger says that it was dropped."""
    assert reply.has_error()
    assert not reply.has_content()
    assert reply.error.code == REFUSED
    assert SECRET not in str(reply.error.reason)
    assert "dropped the reply" in str(reply.error.reason)
    assert "egress" in [refusal.rule for refusal in node.agent.ledger.refusals()]


def fields(**changed: Any) -> Change:
    """The reply with some fields changed."""
    return lambda good: dataclasses.replace(good, **changed)


def arrays(alter: Callable[[Arrays], Arrays]) -> Change:
    """The reply with other arrays."""
    return lambda good: dataclasses.replace(good, arrays=alter(dict(good.arrays)))


def values(alter: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> Change:
    return arrays(lambda given: given | {"values": alter(given["values"])})


def first(value: float) -> Change:
    """The reply with its first value replaced."""
    return values(lambda v: np.concatenate([[np.float32(value)], v[1:]]).astype(np.float32))


CHANGES: dict[str, Change] = {
    "another-name": fields(name=SECRET),
    "name-is-no-text": fields(name=(SECRET,)),
    "the-true-size": fields(declared_users=6),
    "size-as-text": fields(declared_users=SECRET),
    "another-round": fields(round=7),
    "round-as-text": fields(round=SECRET),
    "head-is-text": fields(head=SECRET),
    "head-is-a-table": fields(head={"note": SECRET}),
    "no-head": fields(head=None),
    "array-more": arrays(lambda given: given | {"more": np.zeros(2, np.float32)}),
    "array-missing": arrays(lambda given: {"keys": given["keys"]}),
    "no-arrays": arrays(lambda given: {}),
    "name-of-an-array": arrays(lambda given: {"keys": given["keys"], SECRET: given["values"]}),
    "keys-of-others": arrays(lambda given: given | {"keys": given["keys"] + np.uint64(1)}),
    "keys-in-another-order": arrays(lambda given: given | {"keys": given["keys"][::-1]}),
    "float64": values(lambda v: v.astype(np.float64)),
    "another-shape": values(lambda v: v[:-1]),
    "another-rank": values(lambda v: v[None]),
    "far-larger": values(lambda v: np.tile(v, 50)),
    "another-byte-order": values(lambda v: v.astype(">f4")),
    "nan": first(np.nan),
    "infinite": first(np.inf),
    "one-value-changed": first(1.25),
    "noise-taken-off": values(np.round),
    "zeros": values(np.zeros_like),
    "no-dtype-of-numbers": values(lambda v: v.astype("S8")),
    "objects": values(lambda v: v.astype(object)),
    "text-for-an-array": arrays(lambda given: given | {"values": SECRET}),
}


# Of a type that the guard's own comparison stumbles over: dropped, but with no sentence for it.
BREAK_THE_CHECK = {"head-is-text", "head-is-a-table", "text-for-an-array"}


@pytest.mark.parametrize("name", CHANGES)
def test_a_reply_that_is_not_as_it_should_be_is_dropped(
    node: Node, hostile: Callable[[Change], None], name: str
) -> None:
    hostile(CHANGES[name])
    check_nothing_leaves(node, node.ask(messages.POPULARITY))


@pytest.mark.parametrize("name", sorted(CHANGES.keys() - BREAK_THE_CHECK))
def test_what_was_dropped_is_in_the_ledger(
    node: Node, hostile: Callable[[Change], None], name: str
) -> None:
    hostile(CHANGES[name])
    check_dropped(node, node.ask(messages.POPULARITY))


def test_a_reply_as_it_should_be_passes_bit_for_bit(
    node: Node, hostile: Callable[[Change], None]
) -> None:
    made: list[Reply] = []

    def keep(reply: Reply) -> Reply:
        made.append(reply)
        return reply

    hostile(keep)
    rounds = {messages.TRAIN: 1, messages.DELIVER_ADAPTER: 3, messages.EVALUATE: 4}
    for kind in (
        messages.JOIN,
        messages.PLAN,
        messages.POPULARITY,
        messages.COOCCURRENCE,
        messages.DELIVER_STATISTICS,
        messages.TRAIN,
        messages.DELIVER_ADAPTER,
        messages.EVALUATE,
    ):
        reply = node.ask(kind, node.arrays_for(kind), rounds.get(kind, 0))
        assert not reply.has_error(), (kind, reply)
        given, passed = made[-1], unpack_reply(reply.content, 0)
        assert dataclasses.replace(passed, arrays={}) == dataclasses.replace(given, arrays={})
        assert {n: (v.dtype, v.tobytes()) for n, v in passed.arrays.items()} == {
            n: (v.dtype, v.tobytes()) for n, v in given.arrays.items()
        }
        assert bool(passed.arrays) == (kind in NOISED)
    assert node.agent.ledger.refusals() == ()


@pytest.mark.parametrize("came", [np.float16, np.float32])
def test_an_update_in_another_precision_than_the_adapter_came_in_is_dropped(
    node: Node, hostile: Callable[[Change], None], came: type[np.floating[Any]]
) -> None:
    asked = {name: value.astype(came) for name, value in node.arrays_for(messages.TRAIN).items()}
    other = np.float32 if came is np.float16 else np.float16
    hostile(arrays(lambda given: {name: value.astype(other) for name, value in given.items()}))
    check_dropped(node, node.ask(messages.TRAIN, asked, 1))
    (refusal,) = node.agent.ledger.refusals()
    assert "expected" in refusal.sentence


def test_bytes_hidden_behind_an_array_do_not_pass(
    node: Node, hostile: Callable[[Change], None]
) -> None:
    """The array is a window into a larger buffer that holds more."""

    def hide(value: npt.NDArray[Any]) -> npt.NDArray[Any]:
        room = np.frombuffer(bytearray(value.tobytes() + SECRET.encode() * 8), np.uint8)
        shown: npt.NDArray[Any] = room[: value.nbytes].view(value.dtype)
        return shown

    hostile(values(hide))
    reply = node.ask(messages.POPULARITY)
    assert not reply.has_error()
    for array in reply.content["arrays"].values():
        assert SECRET.encode() not in array.data
    sent = messages.reply_parcel(unpack_reply(reply.content, 0))
    assert SECRET.encode() not in to_bytes(sent)


def test_what_a_reply_carries_beside_its_fields_does_not_pass(
    node: Node, hostile: Callable[[Change], None]
) -> None:
    @dataclass(frozen=True)
    class Wider(Reply):
        note: str = SECRET

    def widen(good: Reply) -> Reply:
        return Wider(**{f.name: getattr(good, f.name) for f in dataclasses.fields(good)})

    hostile(widen)
    reply = node.ask(messages.POPULARITY)
    assert not reply.has_error()
    assert SECRET not in str(reply.content)


def test_a_node_s_number_in_a_reply_does_not_pass(
    node: Node, hostile: Callable[[Change], None]
) -> None:
    hostile(fields(node=1234567))
    assert "1234567" not in str(node.ask(messages.POPULARITY).content)


@pytest.mark.parametrize("made", [None, SECRET, {"name": SECRET}, b"bytes", 3], ids=repr)
def test_what_is_no_reply_does_not_pass(
    node: Node, hostile: Callable[[Change], None], made: Any
) -> None:
    hostile(lambda _: made)
    check_nothing_leaves(node, node.ask(messages.JOIN))


@pytest.mark.parametrize("kind", NOISED)
def test_what_the_agent_never_released_does_not_pass(
    node: Node, acts: Callable[[Callable[[Act], Act]], None], kind: str
) -> None:
    """An act makes a reply of its own: right in every form, but with no intent behind it."""
    identity, keys = node.agent.identity, node.agent.catalogue.key_hashes
    made: dict[str, Arrays] = {
        messages.POPULARITY: {"keys": keys, "values": np.zeros(len(keys), np.float32)},
        messages.COOCCURRENCE: {"keys": keys[:2], "values": np.zeros(1, np.float32)},
        messages.TRAIN: node.adapter,
        messages.EVALUATE: {"values": np.zeros(3, np.float32)},
    }
    forged = Reply(
        identity.name, identity.declared_users, 1, made[kind], head=node.agent.ledger.head()
    )
    acts(lambda _: lambda agent, request: forged)
    check_dropped(node, node.ask(kind, node.arrays_for(kind), 1))
    assert node.agent.ledger.events() == ()


def test_a_release_does_not_pass_as_the_answer_to_another_request(
    node: Node, hostile: Callable[[Change], None]
) -> None:
    earlier = node.ask(messages.POPULARITY).content
    replayed = unpack_reply(earlier, 0)
    identity, head = node.agent.identity, node.agent.ledger.head()
    later = Reply(identity.name, identity.declared_users, 1, replayed.arrays, head=head)
    hostile(lambda good: later)
    check_dropped(node, node.ask(messages.TRAIN, node.adapter, 1))


def test_arrays_do_not_leave_with_a_reply_that_has_none(
    node: Node, hostile: Callable[[Change], None]
) -> None:
    hostile(arrays(lambda given: {"values": np.zeros(3, np.float32)}))
    for kind in (messages.JOIN, messages.PLAN):
        check_dropped(node, node.ask(kind))


def with_head(head: Head) -> Change:
    return fields(head=head)


@pytest.mark.parametrize(
    "spoil",
    [
        {"sequence": 10**6},
        {"sequence": 0},
        {"sequence": -1},
        {"sha256": "ab" * 32},
        {"ledger": "ab" * 32},
        {"key": "ab" * 32},
        {"signature": "ab" * 64},
        {"signature": SECRET},
    ],
    ids=str,
)
def test_a_head_that_is_not_this_ledgers_is_dropped(
    node: Node, hostile: Callable[[Change], None], spoil: dict[str, Any]
) -> None:
    node.ask(messages.JOIN)
    hostile(with_head(dataclasses.replace(node.agent.ledger.head(), **spoil)))
    check_dropped(node, node.ask(messages.POPULARITY))


def test_a_head_from_before_the_release_is_dropped(
    node: Node, hostile: Callable[[Change], None]
) -> None:
    """It would hide from the server that anything was spent."""
    before = node.agent.ledger.head()
    hostile(with_head(before))
    check_dropped(node, node.ask(messages.POPULARITY))


def test_the_text_of_an_exception_stays_at_home(
    node: Node, acts: Callable[[Callable[[Act], Act]], None]
) -> None:
    def fails(*_: object) -> Any:
        raise KeyError(SECRET)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("client.agent.popularity_sum", fails)
        check_nothing_leaves(node, node.ask(messages.POPULARITY))
    acts(lambda _: fails)
    check_nothing_leaves(node, node.ask(messages.POPULARITY, round_number=1))
    assert SECRET not in str(node.agent.ledger.refusals())


@pytest.mark.parametrize(
    "place", ["client.gate.check_reply", "client.egress._check_fields", "client.gate.reply_parcel"]
)
def test_a_check_that_breaks_lets_nothing_through(
    node: Node, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def breaks(*_: object) -> None:
        raise KeyError(SECRET)

    monkeypatch.setattr(place, breaks)
    for kind in (messages.JOIN, messages.POPULARITY):
        check_nothing_leaves(node, node.ask(kind))


def test_a_reason_that_the_ledger_does_not_have_stays_at_home(
    node: Node, acts: Callable[[Callable[[Act], Act]], None]
) -> None:
    def refuses(text: str) -> Callable[[Act], Act]:
        def act(*_: object) -> Reply:
            raise RefusedError(text)

        return lambda _: act

    for text in (SECRET, f"house refuses: [egress] {SECRET}", SECRET * 10_000):
        acts(refuses(text))
        check_nothing_leaves(node, node.ask(messages.POPULARITY))


def test_a_true_reason_with_more_behind_it_stays_at_home(
    node: Node, acts: Callable[[Callable[[Act], Act]], None]
) -> None:
    def tells_more(act: Act) -> Act:
        def told(agent: Agent, request: Request) -> Reply:
            try:
                return act(agent, request)
            except RefusedError as error:
                raise RefusedError(f"{error}; {SECRET}") from error

        return told

    acts(tells_more)
    greedy = dataclasses.replace(node.plan, delta=0.5)
    request = node.signed(messages.POPULARITY, None, 0, greedy)
    check_nothing_leaves(node, node.send(messages.POPULARITY, pack_request(request)))


def test_a_reason_of_the_policy_is_told_and_no_longer_than_need_be(node: Node) -> None:
    greedy = dataclasses.replace(node.plan, delta=0.5)
    request = node.signed(messages.POPULARITY, None, 0, greedy)
    reply = node.send(messages.POPULARITY, pack_request(request))
    assert "[budget.delta]" in str(reply.error.reason)
    long = dataclasses.replace(node.plan, steps=10**2500)
    request = node.signed(messages.POPULARITY, None, 0, long)
    reply = node.send(messages.POPULARITY, pack_request(request))
    assert reply.has_error()
    assert len(str(reply.error.reason)) <= LONGEST_REASON


def test_an_act_that_is_not_known_to_the_guard_is_not_asked(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Request] = []

    def secret(agent: Agent, request: Request) -> Reply:
        asked.append(request)
        identity, head = agent.identity, agent.ledger.head()
        return Reply(identity.name, identity.declared_users, 0, {}, head=head)

    monkeypatch.setitem(gate.ACTS, "query.secret", secret)
    access = client.app.agent_of(node.grid._contexts[next(iter(node.grid.get_node_ids()))])
    with pytest.raises(RefusedError, match="none of kind"):
        access.ask("query.secret", parcel_of(node.signed("query.secret", None, 0, node.plan)))
    assert asked == []


def parcel_of(request: Request) -> Any:
    return from_records(pack_request(request), "request")


@pytest.mark.parametrize(
    "content",
    [
        RecordDict(),
        RecordDict({"request": ConfigRecord({"run": "run"})}),
        RecordDict({"request": ConfigRecord({}), "arrays": ArrayRecord(), "more": ArrayRecord()}),
    ],
    ids=["empty", "half", "more"],
)
def test_what_is_no_message_is_refused_with_a_sentence_before_it_reaches_the_agent(
    node: Node, content: RecordDict, acts: Callable[[Callable[[Act], Act]], None]
) -> None:
    acts(lambda act: lambda agent, request: pytest.fail("it was asked"))
    for kind in (messages.JOIN, messages.POPULARITY, messages.TRAIN):
        reply = node.send(kind, content)
        assert reply.has_error()
        assert "message: " in str(reply.error.reason)


@pytest.mark.parametrize(
    "fields_of_it",
    [{}, {"run": "run"}, {"run": "run", "round": 0, "secret": 1}],
    ids=["none", "few", "unknown"],
)
def test_a_malformed_request_is_refused_with_a_sentence_and_on_record(
    node: Node, fields_of_it: dict[str, Any]
) -> None:
    content = RecordDict({"request": ConfigRecord(fields_of_it), "arrays": ArrayRecord()})
    for kind in (messages.JOIN, messages.POPULARITY, messages.TRAIN):
        reply = node.send(kind, content)
        assert reply.has_error()
        assert "message: " in str(reply.error.reason)
    assert {refusal.rule for refusal in node.agent.ledger.refusals()} == {"request"}


def test_cooccurrence_over_items_that_were_not_asked_for_is_dropped(
    node: Node, hostile: Callable[[Change], None]
) -> None:
    keys = node.agent.catalogue.key_hashes
    hostile(arrays(lambda given: given | {"keys": keys[10:15]}))
    check_dropped(node, node.ask(messages.COOCCURRENCE, {"keys": keys[:5]}))
