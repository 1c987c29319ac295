"""A server that asks for shares which together would lay more bare than the sum."""

from typing import Any

import numpy as np
import pytest

from shared.wire import arrays_sha256
from tests.secure.house import Hostile, changed

BOTH = (
    "secure.replay",
    "shares were given already, for another sum; both shares of one organisation would lay its "
    "vector bare",
)


def test_nobody_gets_both_shares_of_one(server: Hostile) -> None:
    server.deal()
    server.mask()
    server.ask("unmask", server.unmasking())
    assert server.refusal("unmask", server.unmasking(server.with_own(3))) == BOTH


def test_nor_the_other_way_round(server: Hostile) -> None:
    server.deal()
    server.mask()
    server.ask("unmask", server.unmasking(server.with_own(3)))
    assert server.refusal("unmask", server.unmasking()) == BOTH


def test_the_organisation_itself_is_not_lost(server: Hostile) -> None:
    server.deal()
    server.mask()
    assert server.refusal("unmask", server.unmasking(server.others(3))) == (
        "secure.participants",
        "this organisation is called lost, and its masked vector has left",
    )


def test_a_sum_of_too_few_is_not_unmasked(server: Hostile) -> None:
    server.deal()
    server.mask()
    assert server.refusal("unmask", server.unmasking(server.with_own(2))) == (
        "secure.participants",
        "only 2 vectors would be in the sum; at least 3 are needed, and it is not unmasked",
    )


def test_who_took_no_part_cannot_be_called_in(server: Hostile) -> None:
    server.deal()
    three = server.with_own(3)
    server.mask(three)
    assert server.refusal("unmask", server.unmasking(server.everybody, three)) == (
        "secure.participants",
        "some are called in that took no part",
    )


def test_the_participants_stay_those_that_the_vector_was_masked_with(server: Hostile) -> None:
    server.deal()
    server.mask()
    three = server.with_own(3)
    assert server.refusal("unmask", server.unmasking(three, three)) == (
        "secure.participants",
        "the vector was masked with other participants",
    )


def unsigned(server: Hostile, place: int) -> tuple[str, str]:
    return (
        "secure.receipts",
        f"{server.roster.signers[place][:12]} has not signed that its vector is of the same "
        "request, masked with the same participants",
    )


def test_nobody_is_called_in_without_a_receipt(server: Hostile) -> None:
    server.deal()
    server.mask()
    last = server.others(3)[-1]
    del server.receipts[last]
    assert server.refusal("unmask", server.unmasking()) == unsigned(server, last)


def test_nor_with_a_receipt_for_other_participants(server: Hostile) -> None:
    server.deal()
    server.mask()
    one, other = server.others(2)
    three = sorted([server.own, one, other])
    key = next(p.key for p in server.puppets if p.key.public == server.roster.signers[one])
    asked = server.masking(one)["keys"]
    hashed = bytes.fromhex(arrays_sha256({"keys": asked}))
    server.receipts[one] = bytes.fromhex(key.sign(server.roster.receipt(three, hashed)))
    assert server.refusal("unmask", server.unmasking()) == unsigned(server, one)


def test_nor_with_a_receipt_for_another_request(server: Hostile) -> None:
    """Who was handed another adapter, or other items, does not count in the sum."""
    server.deal()
    server.mask()
    (one,) = server.others(1)
    key = next(p.key for p in server.puppets if p.key.public == server.roster.signers[one])
    receipt = server.roster.receipt(server.everybody, bytes(32))
    server.receipts[one] = bytes.fromhex(key.sign(receipt))
    assert server.refusal("unmask", server.unmasking()) == unsigned(server, one)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("secure.included", np.arange(4.0), "expected an array secure.included of int64"),
        (
            "secure.included",
            np.array([0, 1, 2, 7]),
            "secure.included are no places in the roster, in order",
        ),
        (
            "secure.receipts",
            np.zeros((4, 63), dtype=np.uint8),
            "expected an array secure.receipts of uint8 [4, 64]",
        ),
        (
            "secure.receipts",
            np.zeros((100_000, 64), dtype=np.uint8),
            "expected an array secure.receipts of uint8 [4, 64]",
        ),
    ],
)
def test_a_request_for_shares_of_another_form_is_refused(
    server: Hostile, name: str, value: Any, sentence: str
) -> None:
    server.deal()
    server.mask()
    assert server.refusal("unmask", changed(server.unmasking(), name, value)) == (
        "request",
        f"secure sum: {sentence}",
    )
