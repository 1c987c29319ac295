"""A server that asks for a vector masked with too few, or under shares that are not whole."""

from typing import Any

import numpy as np
import pytest

from tests.secure.house import NAME, Hostile, changed, flipped, fresh


def test_a_vector_is_not_masked_without_the_organisation_itself(server: Hostile) -> None:
    server.deal()
    assert server.refusal("masked", server.masking(server.own, server.others(3))) == (
        "secure.participants",
        "this organisation is not among those named",
    )


def test_a_vector_is_not_masked_with_too_few(server: Hostile) -> None:
    server.deal()
    assert server.refusal("masked", server.masking(server.own, server.with_own(2))) == (
        "secure.participants",
        "only 2 organisations dealt shares; at least 3 are needed",
    )
    assert server.spent == 0


def cannot_be_opened(server: Hostile, place: int) -> tuple[str, str]:
    signer = server.roster.signers[place]
    return "secure.shares", f"the shares of {signer} cannot be opened under this roster"


def test_shares_that_were_exchanged_between_two_senders_do_not_open(server: Hostile) -> None:
    server.deal()
    asked = server.masking(server.own)
    one, other = server.others(2)
    rows = asked["secure.ciphertexts"].copy()
    rows[[one, other]] = rows[[other, one]]
    assert server.refusal("masked", changed(asked, "secure.ciphertexts", rows)) == cannot_be_opened(
        server, one
    )
    assert server.spent == 0


def test_shares_for_another_recipient_do_not_open(server: Hostile) -> None:
    server.deal()
    asked = server.masking(server.own)
    one, other = server.others(2)
    rows = asked["secure.ciphertexts"].copy()
    rows[one] = server.dealt[one]["ciphertexts"][other]
    assert server.refusal("masked", changed(asked, "secure.ciphertexts", rows)) == cannot_be_opened(
        server, one
    )


def test_shares_of_another_attempt_do_not_open(server: Hostile) -> None:
    server.deal()
    (one,) = server.others(1)
    earlier = server.dealt[one]["ciphertexts"][server.own]
    server.attempt = 1
    server.deal()
    asked = server.masking(server.own)
    rows = asked["secure.ciphertexts"].copy()
    rows[one] = earlier
    assert server.refusal("masked", changed(asked, "secure.ciphertexts", rows)) == cannot_be_opened(
        server, one
    )


def test_shares_that_were_dealt_under_another_roster_do_not_open(server: Hostile) -> None:
    """One puppet has keys for the victim, and other ones for the rest."""
    lines = server.announce()
    rest = {m.signer: m for m in server.roster_of(lines).members}
    last = server.puppets[2].key
    rest[last.public] = fresh(last, server.roster_of(lines).context)
    server.deal(lines)
    place = server.roster.signers.index(server.puppets[0].key.public)
    # The puppet begins anew, so that it deals under the other roster; its own keys stay.
    puppet = server.puppets[0]
    puppet.change(roster=[])
    shown = server.roster_of(rest)
    asked = server.request("shares", shown.to_arrays())
    server.dealt[place] = puppet.act("shares", asked, NAME)
    assert server.refusal("masked", server.masking(server.own)) == cannot_be_opened(server, place)
    assert server.spent == 0


@pytest.mark.parametrize("name", ["secure.ciphertexts", "secure.digests"])
def test_shares_that_were_changed_on_the_way_do_not_open(server: Hostile, name: str) -> None:
    server.deal()
    asked = server.masking(server.own)
    last = server.others(3)[-1]
    rows = asked[name].copy()
    rows[last] = flipped(rows[last])
    assert server.refusal("masked", changed(asked, name, rows)) == cannot_be_opened(server, last)


def test_a_vector_is_masked_with_one_set_of_participants_alone(server: Hostile) -> None:
    server.deal()
    server.mask()
    assert server.refusal("masked", server.masking(server.own, server.with_own(3))) == (
        "secure.replay",
        "a vector was masked already, with other participants or of another request",
    )
    assert server.spent == 1


def test_a_vector_is_masked_for_one_request_alone(server: Hostile) -> None:
    server.deal()
    server.mask()
    asked = changed(server.masking(server.own), "keys", np.array([1, 2], dtype=np.uint64))
    assert server.refusal("masked", asked) == (
        "secure.replay",
        "a vector was masked already, with other participants or of another request",
    )
    assert server.spent == 1


PLACES: dict[str, tuple[Any, str]] = {
    "missing": (None, "expected an array secure.senders of int64"),
    "of another type": (np.arange(4.0), "expected an array secure.senders of int64"),
    "a table": (np.zeros((2, 2), dtype=np.int64), "expected an array secure.senders of int64"),
    "not in order": (
        np.array([1, 0, 2]),
        "secure.senders are no places in the roster, in order",
    ),
    "twice": (np.array([0, 1, 1, 2]), "secure.senders are no places in the roster, in order"),
    "negative": (np.array([-1, 0, 1, 2]), "secure.senders are no places in the roster, in order"),
    "beyond": (np.array([0, 1, 2, 4]), "secure.senders are no places in the roster, in order"),
    "huge": (np.arange(100_000), "secure.senders are no places in the roster, in order"),
}


@pytest.mark.parametrize(("value", "sentence"), PLACES.values(), ids=PLACES.keys())
def test_participants_of_another_form_are_refused(
    server: Hostile, value: Any, sentence: str
) -> None:
    server.deal()
    asked = server.masking(server.own)
    if value is None:
        del asked["secure.senders"]
    else:
        asked["secure.senders"] = value
    assert server.refusal("masked", asked) == ("request", f"secure sum: {sentence}")
    assert server.spent == 0


@pytest.mark.parametrize(
    ("name", "value", "form"),
    [
        ("secure.ciphertexts", np.zeros((4, 91), dtype=np.uint8), "[4, 92]"),
        ("secure.ciphertexts", np.zeros((4, 92)), "[4, 92]"),
        ("secure.ciphertexts", np.zeros((3, 92), dtype=np.uint8), "[4, 92]"),
        ("secure.ciphertexts", np.zeros((4, 10**6), dtype=np.uint8), "[4, 92]"),
        ("secure.digests", np.zeros((4, 2, 31), dtype=np.uint8), "[4, 2, 32]"),
        ("secure.digests", np.zeros((4, 32), dtype=np.uint8), "[4, 2, 32]"),
    ],
)
def test_shares_of_another_form_are_refused(
    server: Hostile, name: str, value: Any, form: str
) -> None:
    server.deal()
    asked = changed(server.masking(server.own), name, value)
    assert server.refusal("masked", asked) == (
        "request",
        f"secure sum: expected an array {name} of uint8 {form}",
    )
    assert server.spent == 0
