"""Whatever a ClientApp answers, nothing leaves but the release that the ledger has on record."""

import dataclasses
import io
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.app.error import Error
from flwr.clientapp import ClientApp

import client.app
from client.agent import Agent
from client.directory import _agents, register
from client.egress import LONGEST_REASON, REFUSED, guard
from shared import messages
from shared.chain import Head, canonical
from shared.config import Config, to_run_config
from shared.messages import (
    Reply,
    Request,
    pack_arrays,
    pack_delivery,
    pack_request,
    unpack_reply,
)
from shared.plan import PrivacyPlan, make_plan
from simulations.engine import InProcessGrid

Arrays = dict[str, npt.NDArray[Any]]
OpenAgent = Callable[..., AbstractContextManager[Agent]]
Change = Callable[[RecordDict], RecordDict]

# Stands for what a hostile ClientApp has read and would like to send.
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
    """

    agent: Agent
    plan: PrivacyPlan
    adapter: Arrays
    grid: InProcessGrid

    def ask(self, kind: str, arrays: Arrays | None = None, round_number: int = 0) -> Message:
        request = Request("run", round_number, self.plan, "model-of-the-test", arrays or {})
        return self.send(kind, pack_request(request))

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
            yield Node(agent, make_plan(config, users=6, organisations=1), adapter, grid)
        finally:
            _agents.pop(agent.directory)


@pytest.fixture
def hostile(monkeypatch: pytest.MonkeyPatch) -> Callable[[Change], None]:
    """Makes the ClientApp change every reply before the guard sees it."""
    honest = client.app._answer

    def use(change: Change) -> None:
        def answer(message: Message, context: Context, act: Any) -> Message:
            reply = honest(message, context, act)
            return Message(change(reply.content), reply_to=message)

        monkeypatch.setattr(client.app, "_answer", answer)

    return use


def check_dropped(node: Node, reply: Message) -> None:
    """Nothing of the content is in the reply, and the ledger says that it was dropped."""
    assert reply.has_error()
    assert not reply.has_content()
    assert reply.error.code == REFUSED
    assert SECRET not in str(reply.error.reason)
    assert "dropped the reply" in str(reply.error.reason)
    assert "egress" in [refusal.rule for refusal in node.agent.ledger.refusals()]


def fields(**changed: Any) -> Change:
    """The reply with some fields changed, added or, where None, left out."""

    def change(good: RecordDict) -> RecordDict:
        record = good["reply"]
        assert isinstance(record, ConfigRecord)
        kept = {n: v for n, v in (dict(record) | changed).items() if v is not None}
        return RecordDict({"reply": ConfigRecord(kept), "arrays": good["arrays"]})

    return change


def arrays(alter: Callable[[Arrays], Arrays]) -> Change:
    """The reply with other arrays."""

    def change(good: RecordDict) -> RecordDict:
        given = unpack_reply(good, 0).arrays
        return RecordDict({"reply": good["reply"], "arrays": pack_arrays(alter(dict(given)))})

    return change


def values(alter: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> Change:
    return arrays(lambda given: given | {"values": alter(given["values"])})


def first(value: float) -> Change:
    """The reply with its first value replaced."""
    return values(lambda v: np.concatenate([[np.float32(value)], v[1:]]).astype(np.float32))


def records(**more: Any) -> Change:
    return lambda good: RecordDict({**good, **more})


CHANGES: dict[str, Change] = {
    "metrics-record": records(metrics=MetricRecord({"loss": 0.25})),
    "config-record": records(notes=ConfigRecord({"note": SECRET})),
    "array-record": records(more=pack_arrays({"w": np.zeros(3, np.float32)})),
    "record-missing": lambda good: RecordDict({"reply": good["reply"]}),
    "record-of-another-kind": lambda good: RecordDict(
        {"reply": good["reply"], "arrays": ConfigRecord({"a": 1})}
    ),
    "field-more": fields(users=3),
    "field-missing": fields(declared_users=None),
    "another-name": fields(name=SECRET),
    "the-true-size": fields(declared_users=6),
    "size-as-text": fields(declared_users=SECRET),
    "another-round": fields(round=7),
    "head-is-text": fields(head=SECRET),
    "no-head": fields(head=""),
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
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_reply_that_is_not_as_it_should_be_is_dropped(
    node: Node, hostile: Callable[[Change], None], name: str
) -> None:
    hostile(CHANGES[name])
    check_dropped(node, node.ask(messages.POPULARITY))


def test_a_reply_as_it_should_be_passes_bit_for_bit(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Message] = []
    honest = client.app._answer

    def keeps(message: Message, context: Context, act: Any) -> Message:
        made.append(honest(message, context, act))
        return made[-1]

    monkeypatch.setattr(client.app, "_answer", keeps)
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
        given, passed = unpack_reply(made[-1].content, 0), unpack_reply(reply.content, 0)
        assert dataclasses.replace(passed, arrays={}) == dataclasses.replace(given, arrays={})
        assert {n: (v.dtype, v.tobytes()) for n, v in passed.arrays.items()} == {
            n: (v.dtype, v.tobytes()) for n, v in given.arrays.items()
        }
        assert bool(passed.arrays) == (kind in NOISED)
    assert node.agent.ledger.refusals() == ()


def test_bytes_hidden_behind_an_array_do_not_pass(
    node: Node, hostile: Callable[[Change], None]
) -> None:
    def hide(good: RecordDict) -> RecordDict:
        record = good["arrays"]
        assert isinstance(record, ArrayRecord)
        hidden = {
            name: Array(a.dtype, a.shape, a.stype, a.data + SECRET.encode())
            for name, a in record.items()
        }
        return RecordDict({"reply": good["reply"], "arrays": ArrayRecord(hidden)})

    hostile(hide)
    reply = node.ask(messages.POPULARITY)
    if reply.has_content():
        for array in reply.content["arrays"].values():
            assert SECRET.encode() not in array.data
            assert array.data == packed(array.numpy())


def packed(value: npt.NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, value, allow_pickle=False)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", NOISED)
def test_what_the_agent_never_released_does_not_pass(
    node: Node, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The ClientApp makes a reply of its own: right in every form, but with no intent behind it."""
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
    content = messages.pack_reply(forged)
    monkeypatch.setattr(
        client.app, "_answer", lambda message, *_: Message(content, reply_to=message)
    )
    check_dropped(node, node.ask(kind, node.arrays_for(kind), 1))
    assert node.agent.ledger.events() == ()


def test_a_release_does_not_pass_as_the_answer_to_another_request(
    node: Node, hostile: Callable[[Change], None]
) -> None:
    earlier = node.ask(messages.POPULARITY).content
    replayed = unpack_reply(earlier, 0)
    identity, head = node.agent.identity, node.agent.ledger.head()
    later = Reply(identity.name, identity.declared_users, 1, replayed.arrays, head=head)
    hostile(lambda good: messages.pack_reply(later))
    check_dropped(node, node.ask(messages.TRAIN, node.adapter, 1))


def test_arrays_do_not_leave_with_a_reply_that_has_none(
    node: Node, hostile: Callable[[Change], None]
) -> None:
    hostile(arrays(lambda given: {"values": np.zeros(3, np.float32)}))
    for kind in (messages.JOIN, messages.PLAN):
        check_dropped(node, node.ask(kind))


def with_head(head: Head) -> Change:
    return fields(head=canonical(dataclasses.asdict(head)))


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
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise KeyError(SECRET)

    for place in ("client.agent.popularity_sum", "client.app._answer"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(place, fails)
            reply = node.ask(messages.POPULARITY)
        assert reply.has_error()
        assert SECRET not in str(reply.error)
        assert SECRET not in str(node.agent.ledger.refusals())


def test_a_check_that_breaks_lets_nothing_through(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: object) -> None:
        raise KeyError(SECRET)

    monkeypatch.setattr("client.egress.checked", breaks)
    reply = node.ask(messages.JOIN)
    assert reply.has_error()
    assert SECRET not in str(reply.error)


def test_a_reason_that_the_ledger_does_not_have_stays_at_home(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reasons(text: str) -> Callable[..., Message]:
        return lambda message, *_: Message(Error(0, text), reply_to=message)

    for text in (SECRET, f"house refuses: [egress] {SECRET}", SECRET * 10_000):
        monkeypatch.setattr(client.app, "_answer", reasons(text))
        reply = node.ask(messages.POPULARITY)
        assert reply.error.code == REFUSED
        assert SECRET not in str(reply.error.reason)


def test_a_reason_of_the_policy_is_told_and_no_longer_than_need_be(node: Node) -> None:
    greedy = dataclasses.replace(node.plan, delta=0.5)
    request = Request("run", 0, greedy, "model-of-the-test", {})
    reply = node.send(messages.POPULARITY, pack_request(request))
    assert "[budget.delta]" in str(reply.error.reason)
    long = dataclasses.replace(node.plan, steps=10**2500)
    request = Request("run", 0, long, "model-of-the-test", {})
    reply = node.send(messages.POPULARITY, pack_request(request))
    assert reply.has_error()
    assert len(str(reply.error.reason)) <= LONGEST_REASON


def test_a_reply_of_a_kind_that_is_not_known_is_dropped(node: Node) -> None:
    """The ClientApp has a handler of its own; the guard stands before that one too."""
    app = ClientApp(mods=[guard])

    @app.query("secret")
    def secret(message: Message, context: Context) -> Message:
        identity, head = node.agent.identity, node.agent.ledger.head()
        reply = Reply(identity.name, identity.declared_users, 0, {}, head=head)
        return Message(messages.pack_reply(reply), reply_to=message)

    run_config = to_run_config(node.agent.config)
    run_config |= {"tacit.directory": str(node.agent.directory.parents[1])}
    node.grid = InProcessGrid(app, run_config, 1)
    check_dropped(node, node.ask("query.secret"))


@pytest.mark.parametrize(
    "content",
    [
        RecordDict(),
        RecordDict({"request": ConfigRecord({"run": "run"})}),
        RecordDict({"request": ConfigRecord({}), "arrays": ArrayRecord()}),
    ],
    ids=["empty", "half", "no-fields"],
)
def test_a_malformed_request_is_refused_with_a_sentence_and_on_record(
    node: Node, content: RecordDict
) -> None:
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
