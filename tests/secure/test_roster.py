"""Keys, digests and receipts: both sides have the same, and only under the same roster."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from shared.errors import PrivacyError
from shared.keys import SigningKey
from shared.masks import agreed_key
from shared.roster import MASK_KEY, SELF_MASK, Announcement, Roster, commitment, mask_sign

PRIVATE = [bytes([n]) * 32 for n in (1, 2, 3)]
PUBLIC = [X25519PrivateKey.from_private_bytes(p).public_key().public_bytes_raw() for p in PRIVATE]
CONTEXT = b"c" * 32
# Every point of small order on the curve (RFC 7748, section 6.1; Langley), and their twins above p.
SMALL = (
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
)


def line(place: int) -> Announcement:
    return Announcement(f"{place:064x}", PUBLIC[place], PUBLIC[place], bytes(32), bytes(64))


ROSTER = Roster(CONTEXT, tuple(map(line, range(3))))
OTHERS = [
    Roster(b"d" * 32, ROSTER.members),
    Roster(CONTEXT, ROSTER.members[:2]),
    *(
        Roster(CONTEXT, (*ROSTER.members[:2], replace(ROSTER.members[2], **{field: value})))
        for field, value in (
            ("signer", f"{7:064x}"),
            ("cipher_key", PUBLIC[0]),
            ("mask_key", PUBLIC[0]),
            ("commitment", b"x" * 32),
            ("signature", b"x" * 64),
        )
    ),
]

Derived = Callable[[Roster], bytes]
DERIVED: dict[str, Derived] = {
    "a share's key": lambda roster: roster.share_key(PRIVATE[0], 0, 0, 1),
    "a mask's key": lambda roster: roster.mask_key(PRIVATE[0], 0, 1),
    "a share's digest": lambda roster: roster.share_digest(0, 1, SELF_MASK, bytes(32)),
    "a receipt": lambda roster: roster.receipt([0, 1], bytes(32)),
}


@pytest.mark.parametrize("derived", DERIVED.values(), ids=DERIVED.keys())
def test_whatever_two_agree_on_is_of_one_roster_alone(derived: Derived) -> None:
    """Also where the line that differs is that of a third."""
    found = [derived(roster) for roster in (ROSTER, *OTHERS)]
    assert len(set(found)) == len(found)


def test_two_have_the_same_keys_and_nobody_else_has() -> None:
    assert ROSTER.share_key(PRIVATE[0], 0, 0, 1) == ROSTER.share_key(PRIVATE[1], 1, 0, 1)
    assert ROSTER.mask_key(PRIVATE[0], 0, 1) == ROSTER.mask_key(PRIVATE[1], 1, 0)
    everything = [
        ROSTER.share_key(PRIVATE[a], a, a, b) for a in range(3) for b in range(3) if a != b
    ]
    everything += [ROSTER.mask_key(PRIVATE[a], a, b) for a, b in ((0, 1), (0, 2), (1, 2))]
    assert len(set(everything)) == 9


def test_of_two_one_adds_and_one_subtracts() -> None:
    assert [mask_sign(0, 1), mask_sign(1, 0)] == [1, -1]


def test_a_digest_is_of_one_share_of_one_secret_of_one_pair() -> None:
    found = {
        ROSTER.share_digest(dealer, recipient, kind, share)
        for dealer in range(3)
        for recipient in range(3)
        for kind in (SELF_MASK, MASK_KEY)
        for share in (bytes(32), b"x" * 32)
    }
    assert len(found) == 36


def test_a_receipt_is_of_its_senders_and_of_what_was_asked() -> None:
    asked = [bytes(32), b"x" * 32]
    found = {
        ROSTER.receipt(senders, one) for senders in ([0, 1], [0, 2], [0, 1, 2]) for one in asked
    }
    assert len(found) == 6


def test_a_commitment_is_of_one_attempt() -> None:
    assert commitment(CONTEXT, bytes(32)) != commitment(b"d" * 32, bytes(32))
    assert commitment(CONTEXT, bytes(32)) != commitment(CONTEXT, b"x" * 32)


@pytest.mark.parametrize("field", ["cipher_key", "mask_key"])
@pytest.mark.parametrize("point", SMALL)
def test_points_of_small_order_are_no_keys(point: str, field: str) -> None:
    given = replace(line(0), **{field: bytes.fromhex(point)})
    with pytest.raises(PrivacyError, match="cannot be used"):
        given.check_points()
    with pytest.raises(PrivacyError, match="cannot be used"):
        agreed_key(PRIVATE[0], bytes.fromhex(point), b"")
    line(0).check_points()


def test_a_line_is_genuine_for_its_context_alone(tmp_path: Path) -> None:
    key = SigningKey.load_or_create(tmp_path / "key.pem")
    made = Announcement.signed(key, CONTEXT, PUBLIC[0], PUBLIC[1], bytes(32))
    assert made.genuine(CONTEXT)
    assert not made.genuine(b"d" * 32)
    assert Announcement.from_arrays(made.to_arrays()) == made
    exchanged = replace(made, cipher_key=made.mask_key, mask_key=made.cipher_key)
    assert not exchanged.genuine(CONTEXT)
