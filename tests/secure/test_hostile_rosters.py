"""A server that shows an organisation a roster with other keys, strangers, too few or too many."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.keys import SigningKey
from shared.roster import Announcement
from tests.secure.house import NAME, Hostile, fresh, hostile, line_of
from tests.secure.parts import Arrays, secure_plan

# A point of small order: whatever is multiplied by it is nothing.
LOW_ORDER = bytes(32)
OTHER_PLAN = secure_plan(3, 1, word_bytes=6)

Wrong = Callable[[Hostile], Arrays]


def test_a_plan_with_fewer_in_the_sum_than_the_policy_asks_for_gets_no_keys(folder: Path) -> None:
    with hostile(folder, number=4, least=3, least_participants=4) as server:
        assert server.refusal("keys") == (
            "trust.least_participants",
            "the plan is content with 3 organisations; at least 4 are asked for",
        )


def swapped(change: Callable[[Hostile, Announcement], Announcement]) -> Wrong:
    """A roster in which the first puppet's line is another one."""

    def wrong(server: Hostile) -> Arrays:
        lines = server.announce()
        signer = server.puppets[0].key.public
        lines[signer] = change(server, lines[signer])
        return server.roster_of(lines).to_arrays()

    return wrong


def elsewhere(**fields: Any) -> Wrong:
    """A roster with keys that the first puppet announced somewhere else."""

    def change(server: Hostile, line: Announcement) -> Announcement:
        kept = {name: getattr(server, name) for name in fields}
        for name, value in fields.items():
            setattr(server, name, value)
        request = server.request("keys")
        for name, value in kept.items():
            setattr(server, name, value)
        mechanism = fields.get("mechanism", NAME)
        return Announcement.from_arrays(server.puppets[0].act("keys", request, mechanism))

    return swapped(change)


def of_another_mechanism(server: Hostile, line: Announcement) -> Announcement:
    return Announcement.from_arrays(server.puppets[0].act("keys", server.request("keys"), "step"))


def of_another_server(server: Hostile, line: Announcement) -> Announcement:
    request = server.request("keys")
    object.__setattr__(request, "federation", server.puppets[1].key.public)
    return Announcement.from_arrays(server.puppets[0].act("keys", request, NAME))


SWAPS: dict[str, Wrong] = {
    "a cipher key": swapped(lambda s, line: line_of(line, cipher_key=flipped_key(line.cipher_key))),
    "a mask key": swapped(lambda s, line: line_of(line, mask_key=flipped_key(line.mask_key))),
    "a commitment": swapped(lambda s, line: line_of(line, commitment=bytes(32))),
    "keys under another name": swapped(
        lambda s, line: line_of(
            fresh(s.puppets[1].key, s.roster_of({line.signer: line}).context), signer=line.signer
        )
    ),
    "keys of another attempt": elsewhere(attempt=1),
    "keys of another round": elsewhere(round=1),
    "keys of another run": elsewhere(run="other"),
    "keys under another plan": elsewhere(plan=OTHER_PLAN),
    "keys for another server": swapped(of_another_server),
    "keys for another mechanism": swapped(of_another_mechanism),
}


def flipped_key(key: bytes) -> bytes:
    return bytes([key[0] ^ 1]) + key[1:]


@pytest.mark.parametrize("wrong", SWAPS.values(), ids=SWAPS.keys())
def test_no_shares_are_dealt_under_keys_that_nobody_signed_for_this_attempt(
    server: Hostile, wrong: Wrong
) -> None:
    signer = server.puppets[0].key.public
    assert server.refusal("shares", wrong(server)) == (
        "secure.roster",
        f"secure sum: the keys under the name of {signer[:12]} do not carry its signature for this "
        "attempt",
    )


def test_no_shares_are_dealt_under_a_roster_without_the_organisation(server: Hostile) -> None:
    lines = server.announce()
    del lines[server.victim.ledger.key.public]
    assert server.refusal("shares", server.roster_of(lines).to_arrays()) == (
        "secure.roster",
        "the keys under this organisation's name are not its own",
    )


def test_no_shares_are_dealt_to_organisations_that_nobody_approved(server: Hostile) -> None:
    lines = server.announce()
    key = SigningKey.load_or_create(server.victim.directory / "stranger.pem")
    lines[key.public] = fresh(key, server.roster_of(lines).context)
    assert server.refusal("shares", server.roster_of(lines).to_arrays()) == (
        "trust.members",
        f"{key.public[:12]} in the roster, not among the members that the policy names",
    )


def test_no_shares_are_dealt_to_too_few(server: Hostile) -> None:
    lines = server.announce()
    del lines[server.puppets[0].key.public], lines[server.puppets[1].key.public]
    assert server.refusal("shares", server.roster_of(lines).to_arrays()) == (
        "trust.least_participants",
        "2 organisations, at least 3 in the sum, 1 colluders: a secure sum needs 3 or more, and as "
        "many as there must be",
    )


def test_no_shares_are_dealt_to_more_than_can_be_told_one_tale(folder: Path) -> None:
    with hostile(folder, number=6, least=4) as server:
        arrays = server.roster_of(server.announce()).to_arrays()
        assert server.refusal("shares", arrays) == (
            "trust.least_participants",
            "6 organisations, at least 4 in the sum, 1 colluders: a server that tells each another "
            "tale could take more than 2 out of the sum; allow fewer dropouts",
        )


def test_colluders_are_counted_as_the_policy_says_not_as_the_plan_does(folder: Path) -> None:
    with hostile(folder, number=5, least=4, colluders=3) as server:
        arrays = server.roster_of(server.announce()).to_arrays()
        assert server.refusal("shares", arrays) == (
            "trust.least_participants",
            "5 organisations, at least 4 in the sum, 3 colluders: too few would have to agree; "
            "allow fewer dropouts or colluders",
        )


@pytest.mark.parametrize("field", ["cipher_key", "mask_key"])
def test_no_shares_are_dealt_under_a_key_with_which_anybody_gets_the_same(
    server: Hostile, field: str
) -> None:
    lines = server.announce()
    key, context = server.puppets[0].key, server.roster_of(lines).context
    lines[key.public] = fresh(key, context, **{field: LOW_ORDER})
    rule, sentence = server.refusal("shares", server.roster_of(lines).to_arrays())
    assert rule == "secure.roster"
    short = key.public[:12]
    assert sentence.startswith(f"secure sum: {short}: a public key of a secure sum cannot be used")
    assert server.spent == 0


def unordered(arrays: Arrays) -> Arrays:
    return {name: value[::-1] for name, value in arrays.items()}


def doubled(arrays: Arrays) -> Arrays:
    return {name: np.concatenate([value[:1], value]) for name, value in arrays.items()}


@pytest.mark.parametrize("change", [unordered, doubled])
def test_a_roster_has_one_order_and_everybody_once(
    server: Hostile, change: Callable[[Arrays], Arrays]
) -> None:
    arrays = server.roster_of(server.announce()).to_arrays()
    assert server.refusal("shares", change(arrays)) == (
        "secure.roster",
        "secure sum: the roster is not in order, or names one twice",
    )


FORMS: dict[str, tuple[dict[str, Any], str]] = {
    "no signers": ({"secure.signers": np.zeros(0)}, "a roster of 0 organisations"),
    "too many": (
        {"secure.signers": np.zeros((1001, 32), dtype=np.uint8)},
        "a roster of 1001 organisations",
    ),
    "keys of another type": (
        {"secure.keys": np.zeros((4, 3, 32))},
        "expected an array secure.keys of uint8 [4, 3, 32]",
    ),
    "longer keys": (
        {"secure.keys": np.zeros((4, 3, 33), dtype=np.uint8)},
        "expected an array secure.keys of uint8 [4, 3, 32]",
    ),
    "fewer signatures": (
        {"secure.signatures": np.zeros((3, 64), dtype=np.uint8)},
        "expected an array secure.signatures of uint8 [4, 64]",
    ),
}


@pytest.mark.parametrize(("change", "sentence"), FORMS.values(), ids=FORMS.keys())
def test_a_roster_of_another_form_is_refused(
    server: Hostile, change: Arrays, sentence: str
) -> None:
    arrays = server.roster_of(server.announce()).to_arrays()
    assert server.refusal("shares", {**arrays, **change}) == (
        "secure.roster",
        f"secure sum: {sentence}",
    )


def test_shares_are_dealt_under_one_roster_alone(server: Hostile) -> None:
    server.deal()
    lines = {member.signer: member for member in server.roster.members}
    del lines[server.puppets[0].key.public]
    assert server.refusal("shares", server.roster_of(lines).to_arrays()) == (
        "secure.replay",
        "shares were dealt already, under another roster",
    )
