"""A request counts as it was signed, by whom it names, for the kind and the run it was made for."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.gate import Gate
from client.organisation import Organisation
from shared import messages
from shared.chain import countersign
from shared.errors import RefusedError, TacitError
from shared.keys import SigningKey
from shared.messages import KINDS, Request, genuine, parse_request, signed
from shared.wire import Parcel, from_bytes, to_bytes
from tests.agent.house import House, Server, parcel, reply_of

FIELDS = ("run", "round", "plan", "model_sha256", "federation", "anchor", "settings", "signature")


@pytest.fixture(scope="module")
def full(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Request:
    """A request with something in every field."""
    key = SigningKey.load_or_create(tmp_path_factory.mktemp("other") / "key.pem")
    from shared.chain import RECORD_DOMAIN, Head

    digest = "ab" * 32
    head = Head("cd" * 32, key.public, 3, digest, key.sign(RECORD_DOMAIN + digest.encode()))
    arrays = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.arange(4, dtype=np.uint64),
    }
    request = server.unsigned(messages.TRAIN, 1, arrays, anchor=countersign(head, "run", key))
    return signed(messages.TRAIN, request, server.key)


def test_the_request_itself_is_genuine_also_after_its_way_as_bytes(full: Request) -> None:
    assert genuine(messages.TRAIN, full)
    assert genuine(messages.TRAIN, parse_request(from_bytes(to_bytes(parcel(full)))))


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_field_changed_after_signing_is_not_genuine(full: Request, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(FIELDS))
    fields = dict(parcel(full).fields)
    before = fields[name]
    if isinstance(before, int):
        fields[name] = data.draw(st.integers(0, 10**6))
    else:
        at = data.draw(st.integers(0, len(before) - 1))
        letter = data.draw(st.characters(min_codepoint=32, max_codepoint=126))
        cut = data.draw(st.integers(0, 3))
        fields[name] = before[:at] + letter + before[at + cut :]
    try:
        request = parse_request(Parcel(fields, full.arrays))
    except TacitError:
        return
    # Another spelling of the same plan or anchor is the same request.
    assert genuine(messages.TRAIN, request) == (
        dataclasses.replace(request, arrays={}) == dataclasses.replace(full, arrays={})
    )


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_arrays_changed_after_signing_are_not_genuine(full: Request, data: st.DataObject) -> None:
    arrays = {name: value.copy() for name, value in full.arrays.items()}
    name = data.draw(st.sampled_from(sorted(arrays)))
    value = arrays[name]
    match data.draw(st.sampled_from(["bit", "shape", "dtype", "name", "gone", "more", "swapped"])):
        case "bit":
            raw = bytearray(value.tobytes())
            raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
            arrays[name] = np.frombuffer(bytes(raw), value.dtype).reshape(value.shape)
        case "shape":
            arrays[name] = value.reshape(1, *value.shape)
        case "dtype":
            arrays[name] = value.view(np.int32)
        case "name":
            arrays[name + "x"] = arrays.pop(name)
        case "gone":
            del arrays[name]
        case "more":
            arrays["c"] = np.zeros(0, np.float32)
        case "swapped":
            arrays["a"], arrays["b"] = arrays["b"], arrays["a"]
    assert not genuine(messages.TRAIN, dataclasses.replace(full, arrays=arrays))


@pytest.mark.parametrize("kind", KINDS)
def test_a_signature_holds_for_one_kind_alone(server: Server, kind: str) -> None:
    request = signed(kind, server.unsigned(kind, 1), server.key)
    assert [other for other in KINDS if genuine(other, request)] == [kind]


@pytest.fixture(scope="module")
def spoilt(server: Server, stranger: Server) -> dict[str, tuple[str, Parcel]]:
    """What is sent, and as what kind, by name of the attack."""
    good = signed(messages.POPULARITY, server.unsigned(messages.POPULARITY), server.key)
    by_other = signed(messages.POPULARITY, server.unsigned(messages.POPULARITY), stranger.key)
    sent: dict[str, tuple[str, Request]] = {
        "unsigned": (messages.POPULARITY, dataclasses.replace(good, signature="")),
        "no-federation": (messages.POPULARITY, dataclasses.replace(good, federation="")),
        "signed-by-another": (
            messages.POPULARITY,
            dataclasses.replace(by_other, federation=server.key.public),
        ),
        "named-another": (
            messages.POPULARITY,
            dataclasses.replace(good, federation=stranger.key.public),
        ),
        "capitals": (
            messages.POPULARITY,
            dataclasses.replace(good, signature=good.signature.upper()),
        ),
        "capitals-in-the-key": (
            messages.POPULARITY,
            dataclasses.replace(good, federation=good.federation.upper()),
        ),
        "spaces": (messages.POPULARITY, dataclasses.replace(good, signature=good.signature + " ")),
        "half": (messages.POPULARITY, dataclasses.replace(good, signature=good.signature[:64])),
        "zeros": (messages.POPULARITY, dataclasses.replace(good, signature="0" * 128)),
        "another-kind": (messages.COOCCURRENCE, good),
        "as-train": (messages.TRAIN, good),
        "another-run": (messages.POPULARITY, dataclasses.replace(good, run="other")),
        "another-round": (messages.POPULARITY, dataclasses.replace(good, round=1)),
        "without-plan": (messages.POPULARITY, dataclasses.replace(good, plan=None)),
        "arrays-added": (
            messages.POPULARITY,
            dataclasses.replace(good, arrays={"keys": np.zeros(2, np.uint64)}),
        ),
    }
    return {name: (kind, parcel(request)) for name, (kind, request) in sent.items()}


NAMES = (
    "unsigned",
    "no-federation",
    "signed-by-another",
    "named-another",
    "capitals",
    "capitals-in-the-key",
    "spaces",
    "half",
    "zeros",
    "another-kind",
    "as-train",
    "another-run",
    "another-round",
    "without-plan",
    "arrays-added",
)


@pytest.fixture(scope="module")
def running(
    base: Path, server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[House]:
    """One agent for all attacks: none of them changes anything in it but the ledger."""
    values: dict[str, dict[str, Any]] = {
        "organisation": {"name": "house", "declared_users": 20},
        "budget": {"epsilon": 8.0, "delta": 1e-4, "evaluation_share": 1.0},
        "mechanism": {"least_noise_multiplier": 0.0, "most_steps_per_run": 3},
        "federations": {"allowed": (server.key.public,)},
    }
    own = {"base": {"name": str(base), "precision": "float32"}, "machine": {"device": "cpu"}}
    house = House(tmp_path_factory.mktemp("running") / "house", values, own)
    house.write()
    with house.agent():
        yield house


@pytest.mark.parametrize("name", NAMES)
def test_a_request_that_its_server_did_not_sign_is_refused_on_record(
    running: House, spoilt: dict[str, tuple[str, Parcel]], name: str
) -> None:
    assert set(NAMES) == set(spoilt)
    kind, sent = spoilt[name]
    before = len(running.refusals())
    with pytest.raises(RefusedError, match=r"request\.signature"):
        running.access().ask(kind, sent)
    after = running.refusals()
    # A refusal that stands there already for this request is not written again.
    assert len(after) - before in (0, 1)
    assert after[-1].rule == "request.signature"
    assert running.intents() == []


def test_an_approved_federation_gets_no_answer_of_another_s_run(
    make_house: Callable[..., House],
    open_way: Callable[..., Any],
    server: Server,
    stranger: Server,
) -> None:
    """Both are approved; one asks in the run of the other, also for what is stored already."""
    allowed = (server.key.public, stranger.key.public)
    for how in ("here", "socket"):
        rules = {"federations": {"allowed": allowed}, "budget": {"epsilon": 20.0}}
        way = open_way(make_house(how, **rules), how)
        given = reply_of(way.ask(messages.POPULARITY, server.request(messages.POPULARITY)))
        way.ask(messages.DELIVER_STATISTICS, server.request(messages.DELIVER_STATISTICS))
        trained = reply_of(way.ask(messages.TRAIN, server.request(messages.TRAIN, 1)))
        assert given.arrays
        assert trained.arrays
        for kind in KINDS:
            number = 1 if kind == messages.TRAIN else 0
            with pytest.raises(RefusedError, match=r"\[run\] run run is another server's"):
                way.ask(kind, stranger.request(kind, number))
        assert len(way.house.intents()) == 2
        # In a run of its own it is served like any other, and gets other noise.
        own = reply_of(way.ask(messages.POPULARITY, stranger.request(messages.POPULARITY, run="b")))
        assert own.arrays["values"].tobytes() != given.arrays["values"].tobytes()


def test_a_request_made_for_another_organisation_spends_nothing_here(
    make_house: Callable[..., House], open_way: Callable[..., Any], server: Server
) -> None:
    """It carries the anchor of the other's ledger, under the federation's true signature."""
    first, second = (open_way(make_house(name), "here") for name in ("first", "second"))
    head = reply_of(first.ask(messages.JOIN, server.request(messages.JOIN))).head
    assert head is not None
    anchor = countersign(head, "run", server.key)
    request = server.request(messages.POPULARITY, anchor=anchor)
    with pytest.raises(TacitError):
        second.ask(messages.POPULARITY, request)
    assert second.house.intents() == []
    assert reply_of(first.ask(messages.POPULARITY, request)).arrays


def test_a_request_made_for_another_organisation_does_not_fetch_a_stored_answer(
    make_house: Callable[..., House], open_way: Callable[..., Any], server: Server
) -> None:
    """Who has one organisation's copy of a request must not get another's answer with it."""
    first, second = (open_way(make_house(name), "here") for name in ("first", "second"))
    head = reply_of(first.ask(messages.JOIN, server.request(messages.JOIN))).head
    assert head is not None
    anchor = countersign(head, "run", server.key)
    assert reply_of(second.ask(messages.POPULARITY, server.request(messages.POPULARITY))).arrays
    with pytest.raises(TacitError):
        second.ask(messages.POPULARITY, server.request(messages.POPULARITY, anchor=anchor))


def test_a_text_in_another_spelling_is_the_same_request_and_not_a_second_one(
    way: Any, server: Server
) -> None:
    """The plan's text may be spaced otherwise; what counts is the plan."""
    good = server.request(messages.POPULARITY)
    first = reply_of(way.ask(messages.POPULARITY, good))
    fields = dict(good.fields)
    fields["plan"] = json.dumps(json.loads(str(fields["plan"])), indent=1)
    again = reply_of(way.ask(messages.POPULARITY, Parcel(fields, good.arrays)))
    assert again.arrays["values"].tobytes() == first.arrays["values"].tobytes()
    assert len(way.house.intents()) == 1


def test_a_run_that_has_begun_cannot_be_taken_by_who_is_approved_later(
    house: House, server: Server, stranger: Server
) -> None:
    with closing(Organisation(house.directory)) as organisation:
        gate = Gate(organisation)
        gate.ask(messages.POPULARITY, server.request(messages.POPULARITY))
        house.amend(federations={"allowed": (stranger.key.public,)})
        with pytest.raises(RefusedError, match=r"\[run\]"):
            gate.ask(messages.POPULARITY, stranger.request(messages.POPULARITY))
    assert len(house.intents()) == 1


def test_a_key_with_which_anything_is_signed_is_no_federation_s(server: Server) -> None:
    """The neutral element of the curve verifies one signature under every message."""
    weak, nothing = "01" + "0" * 62, "01" + "0" * 126
    forged = dataclasses.replace(server.unsigned(messages.JOIN), federation=weak, signature=nothing)
    assert not genuine(messages.JOIN, forged)
