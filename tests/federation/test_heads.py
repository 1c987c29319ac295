"""The server's memory of ledgers: a head that contradicts it is refused, the round goes on."""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, RecordDict

from server.heads import HeadBook
from shared.chain import NOTHING_BEFORE, Anchor, Head, Record, canonical, seal
from shared.errors import FederationError, RunError
from shared.keys import SigningKey
from shared.messages import Reply

MakeFederation = Callable[..., Any]

ZERO = {"w": np.zeros((2, 3), np.float32)}
VALUES = (0.01, 0.03, 0.05)


class House:
    """An organisation's chain of records, of which only the heads are looked at here."""

    def __init__(self, folder: Path, name: str = "c") -> None:
        self.name = name
        self.key = SigningKey.load_or_create(folder / f"{name}.pem")
        self.heads: list[Head] = []
        self.begin()

    def begin(self, at: str = "2026-05-01T12:00:00+00:00") -> Head:
        """Begin a ledger (anew)."""
        self.heads = []
        return self.append({"at": at})

    def append(self, body: dict[str, Any]) -> Head:
        """One record more; returns the head."""
        previous = self.heads[-1].sha256 if self.heads else NOTHING_BEFORE
        kind = "refusal" if self.heads else "open"
        record = Record(len(self.heads) + 1, previous, "", kind, None, body)
        sealed = seal(record, self.key)
        ledger = self.heads[0].ledger if self.heads else sealed.sha256
        self.heads.append(
            Head(ledger, self.key.public, record.sequence, sealed.sha256, sealed.signature)
        )
        return self.heads[-1]

    def reply(self, head: Head | None, value: float = 0.5, number: int = 1) -> Reply:
        """An update of one value, with a head."""
        return Reply(self.name, 100, number, {"w": np.full((2, 3), value, np.float32)}, head=head)


@pytest.fixture
def house(tmp_path: Path) -> House:
    made = House(tmp_path / "keys")
    for number in range(3):
        made.append({"number": number})
    return made


@pytest.fixture
def book(tmp_path: Path) -> HeadBook:
    return HeadBook(tmp_path / "server")


def check_refused(make_federation: MakeFederation, house: House, head: Head, words: str) -> None:
    """A reply with this head is refused in the second round; the two others count."""
    others = [
        Reply(name, 100, 1, {"w": np.full((2, 3), value, np.float32)})
        for name, value in (("a", 0.01), ("b", 0.03))
    ]
    federation = make_federation([*others, house.reply(house.heads[2], 0.05)])
    assert federation.train(ZERO)["w"] == pytest.approx(np.full((2, 3), 0.03))
    federation.good = [replace(reply, round=2) for reply in [*others, house.reply(head)]]
    assert federation.train(ZERO, 2)["w"] == pytest.approx(np.full((2, 3), 0.02))
    (reason,) = federation.reasons
    assert words in reason


def fields(**changed: Any) -> Callable[[RecordDict], RecordDict]:
    """A reply with other fields."""

    def change(content: RecordDict) -> RecordDict:
        record = content["reply"]
        assert isinstance(record, ConfigRecord)
        return RecordDict(
            {"reply": ConfigRecord(dict(record) | changed), "arrays": content["arrays"]}
        )

    return change


def check_left_out(
    make_federation: MakeFederation, house: House, change: Callable[[RecordDict], RecordDict]
) -> None:
    """A changed reply is refused in the first round; the other counts."""
    honest = Reply("a", 100, 1, {"w": np.full((2, 3), 0.02, np.float32)})
    federation = make_federation([honest, house.reply(house.heads[0], 0.0)], {1: change})
    assert federation.train(ZERO)["w"] == pytest.approx(np.full((2, 3), 0.02))
    assert len(federation.reasons) == 1


def test_a_ledger_that_was_rolled_back_is_refused(
    make_federation: MakeFederation, house: House
) -> None:
    check_refused(make_federation, house, house.heads[1], "it was rolled back")


def test_another_record_in_the_place_of_one_that_was_seen_is_refused(
    make_federation: MakeFederation, house: House
) -> None:
    fork = House.__new__(House)
    fork.name, fork.key, fork.heads = house.name, house.key, house.heads[:2]
    check_refused(make_federation, house, fork.append({"number": 99}), "it was rolled back")


def test_a_second_ledger_under_the_same_key_is_refused(
    make_federation: MakeFederation, house: House, tmp_path: Path
) -> None:
    second = House(tmp_path / "keys")
    second.begin("2027-01-01T00:00:00+00:00")
    for number in range(9):
        second.append({"number": number})
    check_refused(make_federation, house, second.heads[-1], "another ledger under the same key")


@pytest.mark.parametrize(
    "spoil",
    [{"signature": "ab" * 64}, {"signature": ""}, {"sha256": "ab" * 32}, {"key": "ab" * 32}],
    ids=str,
)
def test_a_head_that_its_key_did_not_sign_is_refused(
    make_federation: MakeFederation, house: House, spoil: dict[str, str]
) -> None:
    forged = replace(house.heads[3], **spoil)
    check_refused(make_federation, house, forged, "not signed by its key")


@pytest.mark.parametrize("sequence", [2**53, 2**60, -(2**60), 0, -1])
def test_a_number_that_no_record_has_is_refused(
    make_federation: MakeFederation, house: House, sequence: int
) -> None:
    impossible = json.dumps(dataclasses.asdict(replace(house.heads[3], sequence=sequence)))
    check_left_out(make_federation, house, fields(head=impossible))


@pytest.mark.parametrize("text", ["{", "[]", "3", '{"ledger": 1}', "x" * 100_000])
def test_text_that_is_no_head_is_refused(
    make_federation: MakeFederation, house: House, text: str
) -> None:
    check_left_out(make_federation, house, fields(head=text))


def test_a_declared_size_beyond_all_people_is_refused(
    make_federation: MakeFederation, house: House
) -> None:
    check_left_out(make_federation, house, fields(declared_users=2**60))


def test_a_repeated_head_is_no_fault(make_federation: MakeFederation, house: House) -> None:
    federation = make_federation([house.reply(house.heads[2], 0.5)])
    federation.train(ZERO)
    federation.good = [house.reply(house.heads[2], 0.5, number=2)]
    federation.train(ZERO, 2)
    assert federation.reasons == []


def test_each_node_is_handed_the_signature_under_its_own_last_head(
    make_federation: MakeFederation, tmp_path: Path
) -> None:
    houses = [House(tmp_path / "keys", name) for name in ("a", "b")]
    federation = make_federation([house.reply(house.heads[0], 0.01) for house in houses])
    federation.train(ZERO)
    assert all(request.anchor is None for _, request in federation.requests)
    federation.requests.clear()
    federation.good = [house.reply(house.append({}), 0.01, number=2) for house in houses]
    federation.train(ZERO, 2)
    for node, request in federation.requests:
        assert request.anchor is not None
        assert request.anchor.genuine()
        assert request.federation == request.anchor.server_key == federation.inquiry.book.key.public
        assert request.anchor.sha256 == houses[node].heads[0].sha256
        assert request.anchor.run == "run"


def test_a_restarted_server_remembers(tmp_path: Path, book: HeadBook, house: House) -> None:
    book.see(replace(house.reply(house.heads[3]), node=5), "run")
    again = HeadBook(tmp_path / "server")
    assert again.key.public == book.key.public
    with pytest.raises(FederationError, match="rolled back"):
        again.see(house.reply(house.heads[2]), "another-run")
    again.see(house.reply(house.append({"later": True})), "another-run")


def test_a_second_ledger_is_refused_by_a_restarted_server_too(
    tmp_path: Path, book: HeadBook, house: House
) -> None:
    """What was refused is kept as proof, and does not take the place of what was seen first."""
    book.see(house.reply(house.heads[2]), "run")
    second = House(tmp_path / "keys")
    second.begin("2027-01-01T00:00:00+00:00")
    for number in range(9):
        second.append({"number": number})
    for run in ("run", "another-run"):
        restarted = HeadBook(tmp_path / "server")
        with pytest.raises(FederationError, match="another ledger"):
            restarted.see(second.reply(second.heads[-1]), run)
        restarted.see(house.reply(house.append({"run": run})), run)


def test_a_reply_without_a_head_is_passed_over(book: HeadBook, house: House) -> None:
    book.see(house.reply(None), "run")
    assert book.anchor_for(0) is None
    assert not book.path.exists()


def lines_of(book: HeadBook, house: House) -> list[dict[str, Any]]:
    for head in house.heads:
        book.see(house.reply(head), "run")
    return [json.loads(line) for line in book.path.read_text().splitlines()]


def test_what_is_kept_is_each_head_with_the_servers_signature(book: HeadBook, house: House) -> None:
    kept = lines_of(book, house)
    assert [line["head"] for line in kept] == [dataclasses.asdict(head) for head in house.heads]
    for line in kept:
        anchor = Anchor.from_json(canonical(line["anchor"]))
        assert anchor.server_key == book.key.public
        assert (line["name"], line["declared_users"], line["run"]) == ("c", 100, "run")


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: "",
        lambda line: canonical(line)[:-9],
        lambda line: "[]",
        lambda line: canonical({"head": line["head"]}),
        lambda line: canonical(line | {"anchor": line["anchor"] | {"run": "other"}}),
        lambda line: canonical(line | {"head": line["head"] | {"sequence": 1}}),
        lambda line: canonical(line | {"head": line["head"] | {"sha256": "ab" * 32}}),
    ],
    ids=["empty", "cut", "list", "no-anchor", "other-anchor", "rolled-back-head", "other-head"],
)
def test_a_damaged_memory_is_refused_with_the_line(
    tmp_path: Path, book: HeadBook, house: House, damage: Callable[[dict[str, Any]], str]
) -> None:
    lines = [canonical(line) for line in lines_of(book, house)]
    lines[2] = damage(json.loads(lines[2]))
    book.path.write_text("\n".join(lines) + "\n")
    with pytest.raises(RunError, match=r"heads\.jsonl: line 3 .*restore the file"):
        HeadBook(tmp_path / "server")


def test_a_memory_of_another_server_is_refused(
    tmp_path: Path, book: HeadBook, house: House
) -> None:
    lines_of(book, house)
    (tmp_path / "server" / "server.pem").unlink()
    with pytest.raises(RunError, match=r"heads\.jsonl: line 1"):
        HeadBook(tmp_path / "server")
