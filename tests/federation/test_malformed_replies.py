"""Broken and malicious replies: each is refused with its reason, and the round goes on."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from flwr.app.error import Error

from shared.errors import FederationError
from shared.messages import COOCCURRENCE, POPULARITY, Reply, pack_arrays

MakeFederation = Callable[..., Any]
Change = Callable[[RecordDict], RecordDict | Error]

ZERO = {"w": np.zeros((2, 3), np.float32)}


def update(name: str, value: float, declared_users: int = 100) -> Reply:
    return Reply(name, declared_users, 1, {"w": np.full((2, 3), value, np.float32)})


def arrays(**named: Any) -> Change:
    """Send these arrays in place of the honest ones."""
    return lambda good: RecordDict({"reply": good["reply"], "arrays": pack_arrays(named)})


def fields(**named: Any) -> Change:
    """Send these fields in place of the honest ones."""

    def change(good: RecordDict) -> RecordDict:
        record = good["reply"]
        assert isinstance(record, ConfigRecord)
        kept = {name: value for name, value in (dict(record) | named).items() if value is not None}
        return RecordDict({"reply": ConfigRecord(kept), "arrays": good["arrays"]})

    return change


def raw(data: bytes, stype: str = "numpy.ndarray") -> Change:
    """Send bytes that claim to be the array."""
    record = ArrayRecord({"w": Array("float32", (2, 3), stype, data)})
    return lambda good: RecordDict({"reply": good["reply"], "arrays": record})


def npy(header: str) -> bytes:
    """An array's bytes under a header that numpy did not write."""
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(24)


BROKEN: dict[str, tuple[Change, str]] = {
    "nan": (arrays(w=np.full((2, 3), np.nan, np.float32)), "not finite"),
    "infinite": (arrays(w=np.full((2, 3), np.inf, np.float32)), "not finite"),
    "float64": (arrays(w=np.zeros((2, 3))), "float64"),
    "integers": (arrays(w=np.zeros((2, 3), np.int32)), "int32"),
    "other-byte-order": (arrays(w=np.zeros((2, 3), ">f4")), "expected float32"),
    "wrong-shape": (arrays(w=np.zeros((3, 2), np.float32)), r"\(3, 2\)"),
    "no-dimensions": (arrays(w=np.array(0, np.float32)), r"expected float32 \(2, 3\)"),
    "missing-array": (arrays(), "'w'"),
    "unexpected-array": (arrays(w=ZERO["w"], v=ZERO["w"]), "'v'"),
    "huge-norm": (arrays(w=np.full((2, 3), 1e30, np.float32)), "at most"),
    "largest-float32": (arrays(w=np.full((2, 3), 3.4e38, np.float32)), "at most"),
    "stale-round": (fields(round=0), "round 0"),
    "future-round": (fields(round=2), "round 2"),
    "round-is-text": (fields(round="1"), "round"),
    "no-users": (fields(declared_users=0), "declared_users: input should be greater"),
    "fewer-than-no-users": (fields(declared_users=-5), "declared_users: input should be greater"),
    "users-missing": (fields(declared_users=None), "declared_users"),
    "users-are-a-fraction": (fields(declared_users=10.5), "declared_users"),
    "name-missing": (fields(name=None), "name"),
    "name-is-a-number": (fields(name=3), "name"),
    "name-of-another": (fields(name="a"), "two replies under one name"),
    "no-reply-record": (lambda good: RecordDict({"arrays": good["arrays"]}), "reply"),
    "no-arrays-record": (lambda good: RecordDict({"reply": good["reply"]}), "arrays"),
    "records-swapped": (
        lambda good: RecordDict({"reply": good["arrays"], "arrays": good["reply"]}),
        "reply",
    ),
    "empty": (lambda good: RecordDict(), "reply"),
    "error": (lambda good: Error(1000, "the budget is spent"), "the budget is spent"),
    "error-without-reason": (lambda good: Error(7), "error code 7"),
}

UNREADABLE: dict[str, Change] = {
    "no-bytes": raw(b""),
    "not-numpy": raw(b"\x00" * 24),
    "cut-short": raw(b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, "),
    "header-left-open": raw(npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3")),
    "header-of-brackets": raw(npy("((((((((")),
    "header-of-no-type": raw(npy("{'descr': ('<f4',), 'fortran_order': False, 'shape': (2, 3)}")),
    "header-of-minus-one": raw(npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 3)}")),
    "pickle": raw(b"\x80\x04K\x01."),
    "archive": raw(b"PK\x05\x06" + b"\x00" * 18),
    "another-library": raw(b"", stype="torch.tensor"),
}


def check_refused(make_federation: MakeFederation, change: Change, words: str) -> None:
    honest = [update("a", 0.01, 300), update("b", 0.03, 100)]
    federation = make_federation([*honest, update("c", 0.02)], {2: change})
    after = federation.train(ZERO)
    # Exactly what the two others give: (300 * 0.01 + 100 * 0.03) / 400.
    assert after["w"] == pytest.approx(np.full((2, 3), 0.015))
    assert len(federation.reasons) == 1
    assert re.search(words, federation.reasons[0])


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_update_is_refused_and_the_round_goes_on(
    make_federation: MakeFederation, kind: str
) -> None:
    check_refused(make_federation, *BROKEN[kind])


@pytest.mark.parametrize(("asked", "came"), [("float16", "float32"), ("float32", "float16")])
def test_an_update_in_another_precision_than_was_asked_for_is_refused(
    make_federation: MakeFederation, asked: str, came: str
) -> None:
    parts = [(asked, 0.03125), (asked, 0.015625), (came, 0.0)]
    federation = make_federation(
        [
            Reply(name, 100, 1, {"w": np.full((2, 3), value, dtype)})
            for name, (dtype, value) in zip("abc", parts, strict=True)
        ],
        training={"send_precision": asked},
    )
    assert federation.train(ZERO)["w"] == pytest.approx(np.full((2, 3), 0.0234375))
    assert len(federation.reasons) == 1
    assert "float16" in federation.reasons[0]


@pytest.mark.parametrize("kind", UNREADABLE)
def test_bytes_that_are_no_array_are_refused_and_the_round_goes_on(
    make_federation: MakeFederation, kind: str
) -> None:
    check_refused(make_federation, UNREADABLE[kind], "")


@pytest.mark.parametrize("lie", [{"declared_users": 10**6}, {"name": "a"}, {"name": "new"}])
def test_a_node_is_held_to_the_name_and_size_it_joined_with(
    make_federation: MakeFederation, lie: dict[str, Any]
) -> None:
    federation = make_federation([update("a", 0.01), update("b", 0.03), update("c", 9.0)])
    federation.good = [replace(reply, round=0) for reply in federation.good]
    federation.inquiry.join(federation.grid)
    federation.good = [replace(reply, round=1) for reply in federation.good]
    federation.changes[2] = fields(**lie)
    # The liar comes first in the order of names or claims the largest weight; neither helps it.
    assert federation.train(ZERO)["w"] == pytest.approx(np.full((2, 3), 0.02))
    assert re.search(r"its node joined as \('c', 100\)", federation.reasons[0])


def test_honest_updates_all_count(make_federation: MakeFederation) -> None:
    federation = make_federation([update("a", 0.01), update("b", 0.03)])
    assert federation.train(ZERO)["w"] == pytest.approx(np.full((2, 3), 0.02))
    assert federation.reasons == []


def test_a_refusal_says_in_which_round_and_from_which_node(make_federation: MakeFederation) -> None:
    federation = make_federation([update("a", 0.0), update("b", 0.0)], {1: arrays()})
    federation.train(ZERO)
    (refusal,) = federation.inquiry.refusals
    nodes = sorted(federation.grid.get_node_ids())
    assert (refusal.round, refusal.node) == (1, nodes[1])


def test_an_update_as_long_as_all_users_and_their_noise_is_not_refused(
    make_federation: MakeFederation,
) -> None:
    federation = make_federation([update("a", 0.0)])
    mechanism = federation.plan.step
    generator = np.random.default_rng(0)
    noise = generator.normal(0.0, mechanism.deviation / 100, (2, 3))
    longest = np.full((2, 3), 6**-0.5) + noise
    federation.good[0] = Reply("a", 100, 1, {"w": longest.astype(np.float32)})
    federation.train(ZERO)
    assert federation.reasons == []


def test_fewer_replies_than_needed_end_the_round_with_the_reasons(
    make_federation: MakeFederation,
) -> None:
    federation = make_federation(
        [update("a", 0.0), update("b", 0.0), update("c", 0.0)],
        {0: BROKEN["nan"][0], 2: lambda good: Error(1000, "the budget is spent")},
        server={"min_replies": 2},
    )
    with pytest.raises(FederationError) as caught:
        federation.train(ZERO)
    words = str(caught.value)
    assert "round 1: 1 usable replies, 2 needed" in words
    assert "a: " in words
    assert "not finite" in words
    assert "the budget is spent" in words


def test_a_failed_round_leaves_the_optimiser_as_it_was(make_federation: MakeFederation) -> None:
    federation = make_federation(
        [update("a", 0.0)], {0: BROKEN["nan"][0]}, server={"optimizer": "adam"}
    )
    with pytest.raises(FederationError):
        federation.train(ZERO)
    assert (federation.strategy.optimizer.round, federation.strategy.signal.rounds) == (0, 0)


def keyed(name: str, keys: list[int], values: list[float]) -> Reply:
    return Reply(
        name,
        100,
        0,
        {"keys": np.array(keys, np.uint64), "values": np.array(values, np.float32)},
    )


def test_a_broken_popularity_is_left_out_of_the_sum(make_federation: MakeFederation) -> None:
    bad = arrays(keys=np.array([1, 2], np.uint64), values=np.array([np.nan, 1.0], np.float32))
    good = [keyed("a", [1, 2], [5.0, 3.0]), keyed("b", [2, 9], [70.0, 50.0])]
    federation = make_federation(
        [*good, keyed("c", [1, 2], [0.0, 0.0])], {2: bad}, privacy=ONLY_POPULARITY
    )
    found = federation.strategy.statistics(federation.grid)
    assert found["keys"].tolist() == [1, 2, 9]
    assert np.argsort(-found["log_popularity"]).tolist() == [1, 2, 0]
    assert "not finite" in federation.reasons[0]


def test_cooccurrence_is_asked_for_over_the_top_of_the_noisy_popularity(
    make_federation: MakeFederation,
) -> None:
    federation = make_federation(
        [keyed("a", [4, 2, 7, 9], [1.0, 80.0, 90.0, 70.0])], {0: _answers_by_kind()}
    )
    found = federation.strategy.statistics(federation.grid)
    assert federation.asked[COOCCURRENCE]["keys"].tolist() == [7, 2, 9]
    assert found["keys"][found["top"]].tolist() == [7, 2, 9]
    assert found["transition"].shape == (3, 3)
    assert federation.asked[POPULARITY] == {}


def test_without_a_share_for_statistics_nothing_is_asked(make_federation: MakeFederation) -> None:
    shares = {"popularity_share": 0.0, "cooccurrence_share": 0.0, "adapter_share": 1.0}
    federation = make_federation([keyed("a", [1], [1.0])], privacy=shares)
    found = federation.strategy.statistics(federation.grid)
    assert federation.asked == {}
    assert len(found["keys"]) == len(found["top"]) == 0


ONLY_POPULARITY = {"popularity_share": 0.9, "cooccurrence_share": 0.0, "adapter_share": 0.1}


def _answers_by_kind() -> Change:
    """Popularity first, then co-occurrence of what a house of items 9 and 7 has."""
    calls: list[RecordDict] = []

    def change(good: RecordDict) -> RecordDict:
        calls.append(good)
        if len(calls) == 1:
            return good
        changed = arrays(keys=np.array([9, 7], np.uint64), values=np.array([2.0], np.float32))
        answer = changed(good)
        assert isinstance(answer, RecordDict)
        return answer

    return change
