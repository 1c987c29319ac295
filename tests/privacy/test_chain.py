"""Records have one form, name the one before, and cannot be taken back once a server has signed."""

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

import pytest
import rfc8785
from hypothesis import example, given
from hypothesis import strategies as st

from shared.chain import (
    NOTHING_BEFORE,
    Anchor,
    Fault,
    Head,
    Record,
    Sealed,
    canonical,
    chain_faults,
    countersign,
    head_faults,
    parse_head,
    seal,
)
from shared.errors import PrivacyError
from shared.keys import SigningKey

AT = "2030-01-01T00:00:00.000+00:00"

# RFC 8785, section 3.2.2 (input) and 3.2.3 (sorted output).
RFC_INPUT = r"""{
  "numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
  "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
  "literals": [null, true, false]
}"""
RFC_OUTPUT = (
    '{"literals":[null,true,false],'
    '"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
    r'"string":"€$\u000f\nA' + "'" + r'B\"\\\\\"/"}'
)


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    """Of the organisation."""
    return SigningKey.load_or_create(tmp_path_factory.mktemp("keys") / "organisation.pem")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    """Of the server."""
    return SigningKey.load_or_create(tmp_path_factory.mktemp("keys") / "server.pem")


@pytest.fixture
def chain(key: SigningKey) -> list[Sealed]:
    """Five records."""
    sealed: list[Sealed] = []
    previous = NOTHING_BEFORE
    for number in range(1, 6):
        body = {"public_key": key.public} if number == 1 else {"n": str(number)}
        kind = "open" if number == 1 else "refusal"
        sealed.append(seal(Record(number, previous, AT, kind, f"r/{number}", body), key))
        previous = sealed[-1].sha256
    return sealed


def head_of(chain: Sequence[Sealed], key: SigningKey, number: int = 5) -> Head:
    sealed = chain[number - 1]
    return Head(chain[0].sha256, key.public, number, sealed.sha256, sealed.signature)


def places(faults: Sequence[Fault]) -> list[int]:
    return sorted({fault.sequence for fault in faults})


def test_the_canonical_form_is_that_of_the_standard() -> None:
    assert canonical(json.loads(RFC_INPUT)) == RFC_OUTPUT


# Half of the texts and numbers within what the standard library writes canonically, half beyond.
TEXTS = st.text(st.characters(max_codepoint=127)) | st.text()
NUMBERS = st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner),
    max_leaves=20,
)


@given(VALUES)
@example({"\uffff": 1, "\U00010000": 2})  # Sorted by UTF-16 the other way round.
@example({'\x7f\x00\x1f"\\/': [2**53 - 1, True, None]})
@example({"a": [1.0, 1e30]})
def test_the_fast_way_to_the_canonical_form_is_the_library_s(value: Any) -> None:
    assert canonical(value).encode() == rfc8785.dumps(value)


@pytest.mark.parametrize("value", [2**53, -(2**53), {1: "a"}, {"a": math.nan}, b"a", {"a"}])
def test_what_has_no_canonical_form_is_refused(value: Any) -> None:
    with pytest.raises(rfc8785.CanonicalizationError):
        canonical(value)


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=9),
        st.recursive(
            st.none() | st.booleans() | st.text(st.characters(exclude_categories=["Cs"])),
            lambda inner: st.lists(inner, max_size=3),
            max_leaves=5,
        ),
        max_size=4,
    )
)
def test_a_record_reads_back_as_it_was_written(body: dict[str, Any]) -> None:
    record = Record(3, "ab" * 32, AT, "refusal", None, body)
    assert Record.parse(record.text()) == record


def test_a_sound_chain_has_no_fault(chain: list[Sealed], key: SigningKey) -> None:
    assert chain_faults(chain) == chain_faults(chain, key.public) == []


def test_no_chain_is_a_fault() -> None:
    assert places(chain_faults([])) == [0]


def test_a_chain_under_another_key_than_expected_is_found(
    chain: list[Sealed], server: SigningKey
) -> None:
    assert places(chain_faults(chain, server.public)) == [1, 2, 3, 4, 5]


def test_a_signature_of_another_record_is_found(chain: list[Sealed]) -> None:
    chain[2] = dataclasses.replace(chain[2], signature=chain[3].signature)
    assert places(chain_faults(chain)) == [3]


def test_a_deleted_record_is_found_once(chain: list[Sealed]) -> None:
    assert places(chain_faults(chain[:2] + chain[3:])) == [3]


def test_a_deleted_opening_is_found(chain: list[Sealed]) -> None:
    assert 1 in places(chain_faults(chain[1:]))


def test_a_second_opening_is_found(chain: list[Sealed], key: SigningKey) -> None:
    again = Record(6, chain[-1].sha256, AT, "open", None, {"public_key": key.public})
    assert places(chain_faults([*chain, seal(again, key)])) == [6]


def test_a_signature_made_for_another_purpose_is_none(chain: list[Sealed], key: SigningKey) -> None:
    bare = dataclasses.replace(chain[4], signature=key.sign(chain[4].sha256.encode()))
    assert places(chain_faults([*chain[:4], bare])) == [5]


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"version": True},
        {"sequence": "3"},
        {"sequence": 3.5},
        {"sequence": True},
        {"previous": None},
        {"at": 7},
        {"kind": ["refusal"]},
        {"request": 0},
        {"request": False},
        {"request": []},
        {"request": {}},
        {"body": []},
        {"body": "x"},
        {"surplus": 1},
    ],
)
def test_a_record_with_another_field_or_type_is_refused(
    chain: list[Sealed], change: dict[str, Any]
) -> None:
    text = canonical({**json.loads(chain[2].text), **change})
    with pytest.raises(PrivacyError, match="not a ledger record"):
        Record.parse(text)


def test_a_head_is_read_back(chain: list[Sealed], key: SigningKey) -> None:
    head = head_of(chain, key)
    assert parse_head(canonical(dataclasses.asdict(head))) == head
    assert head.genuine()


def test_a_head_with_another_hash_is_not_genuine(chain: list[Sealed], key: SigningKey) -> None:
    assert not dataclasses.replace(head_of(chain, key), sha256="00" * 32).genuine()


def test_a_server_does_not_sign_what_the_organisation_did_not(
    chain: list[Sealed], key: SigningKey, server: SigningKey
) -> None:
    forged = dataclasses.replace(head_of(chain, key), signature="00" * 64)
    with pytest.raises(PrivacyError, match="not signed by its key"):
        countersign(forged, "run", server)


@pytest.mark.parametrize(
    "change",
    [
        {"ledger": "00" * 32},
        {"sequence": 4},
        {"sha256": "00" * 32},
        {"run": "other"},
        {"at": AT},
        {"server_key": "00" * 32},
    ],
)
def test_every_field_of_an_anchor_is_signed(
    chain: list[Sealed], key: SigningKey, server: SigningKey, change: dict[str, Any]
) -> None:
    anchor = countersign(head_of(chain, key), "run", server)
    assert Anchor.from_json(anchor.to_json()) == anchor
    with pytest.raises(PrivacyError, match="signature"):
        Anchor.from_json(dataclasses.replace(anchor, **change).to_json())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        "[" * 100_000,
        '{"ledger":1}',
        '{"at":"","ledger":"","run":"","server_key":"","sequence":1e400,"sha256":"","signature":""}',
        '{"at":"","ledger":"","run":"\\ud800","sequence":1,"server_key":"","sha256":"",'
        '"signature":""}',
        '{"at":"","ledger":"","run":"","sequence":99999999999999999999,"server_key":"",'
        '"sha256":"","signature":""}',
        '{"at":"","at":"","ledger":"","run":"","sequence":1,"server_key":"","sha256":"",'
        '"signature":""}',
    ],
)
def test_what_is_no_anchor_is_refused(text: str) -> None:
    with pytest.raises(PrivacyError):
        Anchor.from_json(text)


@pytest.mark.parametrize("spoil", ['"sequence":99999999999999999999', '"sequence":"5"'])
def test_what_is_no_head_is_refused(chain: list[Sealed], key: SigningKey, spoil: str) -> None:
    text = canonical(dataclasses.asdict(head_of(chain, key)))
    with pytest.raises(PrivacyError, match="not a ledger head"):
        parse_head(text.replace('"sequence":5', spoil))


def test_a_name_that_is_no_text_makes_no_head(chain: list[Sealed], key: SigningKey) -> None:
    text = canonical(dataclasses.asdict(head_of(chain, key)))
    with pytest.raises(PrivacyError, match="not a ledger head"):
        parse_head(text.replace('"sha256":"', '"sha256":"\\ud800'))


def test_a_record_that_was_seen_and_is_gone_is_found(
    chain: list[Sealed], key: SigningKey, server: SigningKey
) -> None:
    anchor = countersign(head_of(chain, key), "run", server)
    assert head_faults(chain, [anchor]) == []
    assert places(head_faults(chain[:4], [anchor])) == [5]


def test_a_record_that_was_seen_otherwise_is_found(chain: list[Sealed], key: SigningKey) -> None:
    seen = dataclasses.replace(head_of(chain, key, 3), sha256="00" * 32)
    assert places(head_faults(chain, [seen])) == [3]


@pytest.mark.parametrize("number", [0, -1, -5, -40])
def test_a_head_with_a_number_that_no_record_has_is_found(
    chain: list[Sealed], key: SigningKey, number: int
) -> None:
    seen = dataclasses.replace(head_of(chain, key), sequence=number)
    assert places(head_faults(chain, [seen])) == [number]


def test_the_head_of_another_ledger_counts_only_where_it_must_not_be(
    chain: list[Sealed], key: SigningKey
) -> None:
    other = dataclasses.replace(head_of(chain, key), ledger="00" * 32)
    assert head_faults(chain, [other]) == []
    assert places(head_faults(chain, [other], strict=True)) == [0]
