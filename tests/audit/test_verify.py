"""A sound ledger passes; whatever is done to its records from outside is found and named."""

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.bundle import Evidence, read_evidence
from audit.verify import verify_ledger
from shared.accounting import epsilon_checked
from shared.chain import Fault, Record, Sealed, canonical, chain_faults, seal
from shared.errors import PrivacyError
from shared.keys import SigningKey

House = Any
Places = Callable[[Sequence[Fault], str], list[int]]

NEWEST_IN_ANCHORS = 14
NEWEST_IN_HEADS = 17


def test_a_sound_ledger_has_no_fault(house: House) -> None:
    found = house.verify(heads=True, key=house.key.public, server_key=house.server.public)
    assert not found.faults
    assert not found.not_private
    assert (found.records, found.intents, found.releases, found.refusals) == (18, 5, 6, 1)
    assert found.bytes_out == 5 * 12


def test_epsilon_is_that_of_the_plan_by_three_accountants(house: House) -> None:
    (spent,) = house.verify().spent
    assert spent.pld == epsilon_checked(house.plan.events(), 5e-4)
    assert spent.pld <= spent.prv <= spent.pld + 0.03
    assert spent.pld < spent.rdp


def test_verifying_leaves_the_folder_as_it_was(house: House) -> None:
    def contents() -> dict[str, bytes]:
        return {f.name: f.read_bytes() for f in house.folder.iterdir() if f.is_file()}

    before = contents()
    house.verify()
    assert contents() == before


def test_the_newest_record_that_a_server_has_seen_is_named(house: House) -> None:
    (witness,) = house.verify().witnesses
    assert (witness.server_key, witness.sequence) == (house.server.public, NEWEST_IN_ANCHORS)
    (witness,) = house.verify(heads=True).witnesses
    assert witness.sequence == NEWEST_IN_HEADS


def test_a_ledger_that_no_server_has_seen_is_said_to_be_so(house: House, places: Places) -> None:
    (house.folder / "anchors.json").unlink()
    found = house.verify(server_key="00" * 32)
    assert places(found.notices, "no server has countersigned") == [0]


@pytest.mark.parametrize("column", ["record", "sha256", "signature"])
def test_a_flipped_bit_is_found_at_its_record(house: House, column: str) -> None:
    sealed = house.stored()[6]
    value = {"record": sealed.text, "sha256": sealed.sha256, "signature": sealed.signature}[column]
    flipped = value[:9] + chr(ord(value[9]) ^ 1) + value[10:]
    house.tamper(f"UPDATE records SET {column} = ? WHERE sequence = 7", (flipped,))
    assert 7 in [fault.sequence for fault in house.verify().faults]


def test_bytes_that_are_no_text_are_found_at_their_record(house: House, places: Places) -> None:
    house.tamper("UPDATE records SET record = CAST(X'7BFF7D' AS TEXT) WHERE sequence = 7")
    assert places(house.verify().faults, "not a ledger record") == [7]


@pytest.mark.parametrize(
    ("column", "value"), [("kind", "refusal"), ("request", "other"), ("request", None)]
)
def test_a_record_filed_under_another_name_is_found(
    house: House, places: Places, column: str, value: str | None
) -> None:
    house.tamper(f"UPDATE records SET {column} = ? WHERE sequence = 7", (value,))
    assert places(house.verify().faults, "filed under another") == [7]


def test_a_gap_in_the_numbering_of_the_table_is_found(house: House, places: Places) -> None:
    house.tamper("UPDATE records SET sequence = 40 WHERE sequence = 18")
    assert places(house.verify().faults, "filed under another") == [18]


def test_two_records_in_each_others_place_are_found(house: House, places: Places) -> None:
    house.tamper("UPDATE records SET sequence = 100 WHERE sequence = 7")
    house.tamper("UPDATE records SET sequence = 7 WHERE sequence = 8")
    house.tamper("UPDATE records SET sequence = 8 WHERE sequence = 100")
    assert places(house.verify().faults, "missing or moved") == [7, 8, 9]


def test_a_record_deleted_in_the_middle_is_found(house: House, places: Places) -> None:
    house.tamper("DELETE FROM records WHERE sequence = 7")
    assert places(house.verify().faults, "missing or moved") == [7]


def test_a_deleted_record_is_not_reported_for_every_one_after_it(
    house: House, places: Places
) -> None:
    house.tamper("DELETE FROM records WHERE sequence = 7")
    assert places(house.verify().faults, "it is numbered") == [7]


def test_a_deleted_opening_is_found(house: House, places: Places) -> None:
    house.tamper("DELETE FROM records WHERE sequence = 1")
    assert 1 in places(house.verify().faults, "opens once")


def test_an_emptied_ledger_is_found(house: House, places: Places) -> None:
    house.truncate(0)
    assert places(house.verify().faults, "is empty") == [0]


def test_an_end_cut_off_alone_looks_sound_and_is_said_to_be_possible(
    house: House, places: Places
) -> None:
    house.truncate(NEWEST_IN_ANCHORS + 1)
    found = house.verify()
    assert not found.faults
    assert places(found.notices, "could be missing") == [NEWEST_IN_ANCHORS]


def test_an_end_cut_off_is_found_by_the_anchors_beside_it(house: House, places: Places) -> None:
    house.truncate(NEWEST_IN_ANCHORS - 1)
    assert places(house.verify().faults, "deleted or rolled back") == [NEWEST_IN_ANCHORS]


def test_an_end_cut_off_is_found_by_the_servers_heads(house: House, places: Places) -> None:
    house.truncate(NEWEST_IN_HEADS - 1)
    assert places(house.verify(heads=True).faults, "deleted or rolled back") == [NEWEST_IN_HEADS]


def test_an_old_copy_put_back_and_continued_is_found(house: House, places: Places) -> None:
    old = house.folder.with_name("old")
    house.truncate(NEWEST_IN_HEADS - 3)
    (house.folder / "anchors.json").unlink()
    shutil.copytree(house.folder, old)
    continued = dataclasses.replace(house, folder=old, anchor=None)
    for request in ("r/8/join", "r/9/join", "r/10/join"):
        with continued.open() as ledger:
            ledger.record_refusal(request, _refusal())
    faults = continued.verify(heads=True).faults
    assert places(faults, "another record than the one seen outside") == [NEWEST_IN_HEADS]


def test_a_record_of_another_ledger_is_found(
    house: House, places: Places, stranger: SigningKey
) -> None:
    other = dataclasses.replace(house, folder=house.folder.with_name("other"), key=stranger)
    with other.open() as ledger:
        ledger.record_refusal("r/1/step", _refusal())
    foreign = other.stored()[1]
    house.tamper(
        "UPDATE records SET record = ?, sha256 = ?, signature = ? WHERE sequence = 7",
        (foreign.text, foreign.sha256, foreign.signature),
    )
    faults = house.verify().faults
    assert places(faults, "not by the organisation's key") == [7]
    assert places(faults, "missing or moved") == [7, 8]


def test_an_early_record_of_the_same_ledger_repeated_is_found(house: House, places: Places) -> None:
    again = house.stored()[1]
    house.insert(19, "release", "r/0/join", again)
    assert places(house.verify().faults, "it is numbered 2") == [19]


def test_a_chain_signed_anew_by_the_same_organisation_needs_a_witness(house: House) -> None:
    records = [house.record(n) for n in range(1, 19) if house.record(n).kind != "anchor"]
    records[0] = dataclasses.replace(records[0], at="2026-01-01T00:00:00.000+00:00")
    house.rewrite(_renumbered(records), house.key)
    (house.folder / "anchors.json").unlink()
    assert not house.verify(key=house.key.public).faults
    assert house.verify(heads=True).faults


@pytest.mark.parametrize("witness", ["key", "heads", "anchors"])
def test_a_chain_signed_anew_with_another_key_is_found(
    house: House, places: Places, stranger: SigningKey, witness: str
) -> None:
    records = [house.record(n) for n in range(1, 19) if house.record(n).kind != "anchor"]
    body = {**records[0].body, "public_key": stranger.public}
    records[0] = dataclasses.replace(records[0], body=body)
    house.rewrite(_renumbered(records), stranger)
    if witness != "anchors":
        (house.folder / "anchors.json").unlink()
        assert not house.verify().faults
    if witness == "key":
        assert places(house.verify(key=house.key.public).faults, "another key than") == [1]
    elif witness == "heads":
        faults = house.verify(heads=True).faults
        assert places(faults, "made in its place") == [0]
        assert places(faults, "hold none of this ledger") == [0]
    else:
        assert places(house.verify().faults, "another ledger in its place") == [0]


def test_a_number_changed_and_all_after_it_hashed_anew_is_found(
    house: House, places: Places
) -> None:
    stored = house.stored()
    previous = stored[5].sha256
    for number in range(7, 19):
        record = house.record(number)
        body = dict(record.body)
        if number == 7:
            body["noise_multiplier"] = "0.9"
        sealed = seal(dataclasses.replace(record, previous=previous, body=body), house.key)
        house.tamper(
            "UPDATE records SET record = ?, sha256 = ? WHERE sequence = ?",
            (sealed.text, sealed.sha256, number),
        )
        previous = sealed.sha256
    assert places(house.verify().faults, "not by the organisation's key") == list(range(7, 19))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.replace(":", ": ", 1),
        lambda text: text[:-1] + ',"extra":1}',
        lambda text: text.replace('"sequence":7', '"sequence":7.0'),
        lambda text: text.replace('"sequence":7', '"sequence":NaN'),
        lambda text: text.replace('"sequence":7', '"sequence":1e400'),
        lambda text: text.replace('"sequence":7', '"sequence":' + "9" * 5000),
        lambda text: text.replace('"sequence":7', '"sequence":true'),
        lambda text: text.replace('"version":1', '"version":2'),
        lambda text: text.replace('"request":"r/0/cooccurrence"', '"request":0'),
        lambda text: text.replace('"request":"r/0/cooccurrence"', '"request":[]'),
        lambda text: "[" * 100_000 + "]" * 100_000,
        lambda text: '{"a":' * 100_000 + "1" + "}" * 100_000,
        lambda text: '"\\ud800"',
        lambda text: "",
        lambda text: "null",
        lambda text: "7",
    ],
)
def test_what_is_no_record_is_found_though_the_real_key_signed_it(
    house: House, places: Places, spoil: Callable[[str], str]
) -> None:
    text = spoil(house.stored()[6].text)
    sealed = _signed(text, house.key)
    house.tamper(
        "UPDATE records SET record = ?, sha256 = ?, signature = ? WHERE sequence = 7",
        (sealed.text, sealed.sha256, sealed.signature),
    )
    assert places(house.verify().faults, "not a ledger record") == [7]


@pytest.mark.parametrize("depth", [50, 150, 250, 300, 320, 340, 400, 600, 900, 1000])
def test_a_nested_policy_is_found_at_any_depth(house: House, depth: int) -> None:
    policy: Any = "deep"
    for _ in range(depth):
        policy = {"a": policy}
    text = (
        canonical(
            {
                "version": 1,
                "sequence": 19,
                "previous": house.stored()[-1].sha256,
                "at": "2030-01-01T00:00:00.000+00:00",
                "kind": "policy",
                "request": None,
                "body": {"policy": {"a": policy}, "policy_sha256": ""},
            }
        )
        if depth < 900
        else '{"a":' * depth + "1" + "}" * depth
    )
    house.insert(19, "policy", None, _signed(text, house.key))
    assert 19 in [fault.sequence for fault in house.verify().faults]


def test_a_record_of_ten_megabytes_is_found(house: House, places: Places) -> None:
    number = house.append("refusal", "r/1/x", {"rule": "x", "sentence": "y" * 10_000_000})
    assert places(house.verify().faults, "more than any real record") == [number]


def test_unreadable_anchors_are_a_fault(house: House, places: Places) -> None:
    (house.folder / "anchors.json").write_text("{")
    assert places(house.verify().faults, "cannot be read") == [0]


@pytest.mark.parametrize("change", [{"sequence": 0}, {"sequence": -40}, {"at": "yesterday"}])
def test_forged_anchors_beside_the_ledger_are_found(
    house: House, places: Places, change: dict[str, Any]
) -> None:
    path = house.folder / "anchors.json"
    (server, text), *_ = json.loads(path.read_text()).items()
    path.write_text(json.dumps({server: canonical({**json.loads(text), **change})}))
    assert places(house.verify().faults, "countersignature") == [0]


def test_an_anchor_under_another_servers_name_is_found(house: House, places: Places) -> None:
    path = house.folder / "anchors.json"
    (text,) = json.loads(path.read_text()).values()
    path.write_text(json.dumps({"00" * 32: text}))
    assert places(house.verify().faults, "another server's key") == [0]


def test_heads_signed_by_another_server_are_found(house: House, places: Places) -> None:
    found = house.verify(heads=True, server_key="00" * 32)
    assert len(places(found.faults, "signed by another server")) == 6
    assert not found.witnesses


@pytest.fixture(scope="module")
def sound(_house: House) -> Evidence:
    """What reading the ledger gives, before anything is changed in it."""
    return read_evidence(_house.folder)


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_any_changed_byte_of_any_record_is_found(sound: Evidence, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(sound.stored) - 1))
    sealed = sound.stored[place]
    column = data.draw(st.sampled_from(["text", "sha256", "signature"]))
    value: str = getattr(sealed, column)
    at = data.draw(st.integers(0, len(value) - 1))
    # Half of the draws change the case of a letter: two spellings of the same bytes.
    other = data.draw(st.sampled_from([value[at].swapcase(), chr(data.draw(st.integers(1, 255)))]))
    if other == value[at]:
        return
    changed = dataclasses.replace(sealed, **{column: value[:at] + other + value[at + 1 :]})
    stored = [*sound.stored[:place], changed, *sound.stored[place + 1 :]]
    assert place + 1 in [fault.sequence for fault in chain_faults(stored)]


def test_a_faulty_record_shows_in_the_whole_verification(sound: Evidence) -> None:
    last = sound.stored[-1]
    stored = [*sound.stored[:-1], dataclasses.replace(last, signature="00" * 64)]
    assert verify_ledger(dataclasses.replace(sound, stored=stored)).faults


def test_what_is_no_ledger_is_refused_with_a_sentence(tmp_path: Path) -> None:
    for name, content in (("a", b""), ("b", b"user,item\n"), ("c", b"SQLite format 3\0" * 9)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(PrivacyError, match="ledger"):
            read_evidence(tmp_path / name)
    with pytest.raises(PrivacyError, match="no such ledger"):
        read_evidence(tmp_path)


def test_the_commands_run_without_torch(house: House) -> None:
    script = (
        "import sys; from audit.cli import audit_app\n"
        "try: audit_app(['verify', sys.argv[1]])\n"
        "except SystemExit as end: code = end.code\n"
        "heavy = {'torch', 'opacus', 'flwr', 'transformers'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(house.folder)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "No fault found" in done.stdout


def test_the_command_line_starts_without_the_accountants() -> None:
    script = "import sys, audit.cli; sys.exit(' '.join({'scipy', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.stderr.strip() == b""


def _refusal() -> Any:
    from shared.entries import Refusal

    return Refusal("plan", "no further step")


def _signed(text: str, key: SigningKey) -> Sealed:
    from shared.chain import RECORD_DOMAIN, sha256_text

    digest = sha256_text(text)
    return Sealed(text, digest, key.sign(RECORD_DOMAIN + digest.encode()))


def _renumbered(records: Sequence[Record]) -> list[Record]:
    """Records whose releases name their intents at the places that those will have."""
    intents = {r.request: n for n, r in enumerate(records, start=1) if r.kind == "intent"}
    return [
        dataclasses.replace(r, body={**r.body, "intent": intents.get(r.request, 0)})
        if r.kind == "release"
        else r
        for r in records
    ]
