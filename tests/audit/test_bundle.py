"""A bundle says what its ledger says, and any change to it is found by an outsider."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from audit.bundle import LONGEST_LINE, read_evidence, write_bundle
from audit.cli import audit_app
from audit.verify import Verification, verify_ledger
from shared.chain import Fault, canonical, chain_faults, head_faults
from shared.errors import PrivacyError

House = Any
Places = Callable[[Sequence[Fault], str], list[int]]


@pytest.fixture
def bundle(house: House, tmp_path: Path) -> Path:
    """A bundle of a sound ledger of 18 records; line 0 is the header, line 7 record 7."""
    path = tmp_path / "ledger.bundle"
    write_bundle(read_evidence(house.folder), path)
    return path


def verify(path: Path, **options: Any) -> Verification:
    return verify_ledger(read_evidence(path), **options)


def edit(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    lines = path.read_text().splitlines()
    path.write_text("".join(f"{line}\n" for line in change(lines)))


def test_a_bundle_holds_what_the_ledger_holds(house: House, bundle: Path) -> None:
    ledger, exported = read_evidence(house.folder), read_evidence(bundle)
    assert exported.stored == ledger.stored
    assert exported.anchors == ledger.anchors
    assert verify(bundle, key=house.key.public) == house.verify(key=house.key.public)


def test_a_bundle_of_a_bundle_is_the_same(bundle: Path, tmp_path: Path) -> None:
    write_bundle(read_evidence(bundle), tmp_path / "again")
    assert (tmp_path / "again").read_text().splitlines()[1:] == bundle.read_text().splitlines()[1:]


def test_a_bundle_of_another_key_is_found(bundle: Path, places: Places) -> None:
    assert places(verify(bundle, key="00" * 32).faults, "another key than the one given") == [1]


def test_two_lines_in_each_others_place_are_found(bundle: Path, places: Places) -> None:
    edit(bundle, lambda lines: [*lines[:7], lines[8], lines[7], *lines[9:]])
    assert places(verify(bundle).faults, "missing or moved") == [7, 8, 9]


def test_a_line_taken_out_is_found(bundle: Path, places: Places) -> None:
    edit(bundle, lambda lines: lines[:7] + lines[8:])
    faults = verify(bundle).faults
    assert places(faults, "missing or moved") == [7]
    assert places(faults, "the bundle holds 17") == [0]


def test_an_end_cut_off_is_found_though_the_header_was_changed_too(
    bundle: Path, places: Places
) -> None:
    header = {**json.loads(bundle.read_text().splitlines()[0]), "records": 12}
    edit(bundle, lambda lines: [canonical(header), *lines[1:13]])
    assert places(verify(bundle).faults, "deleted or rolled back") == [14]


@pytest.mark.parametrize(
    "change",
    [
        lambda line: line.replace('":"', '": "', 1),
        lambda line: line[:-1] + ',"surplus":1}',
        lambda line: line.replace('"record"', '"rekord"'),
        lambda line: '{"record":7,"signature":"00"}',
        lambda line: '{"record":NaN,"signature":"00"}',
        lambda line: '{"record":"\\ud800","signature":"00"}',
        lambda line: '["record"]',
        lambda line: "[" * 100_000,
        lambda line: "",
    ],
)
def test_a_line_that_cannot_be_read_is_found(
    bundle: Path, places: Places, change: Callable[[str], str]
) -> None:
    edit(bundle, lambda lines: [*lines[:7], change(lines[7]), *lines[8:]])
    faults = verify(bundle).faults
    assert places(faults, "its line in the bundle cannot be read") == [7]
    assert places(faults, "not a ledger record") == [7]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("public_key", "00" * 32, "another key than the bundle's header"),
        ("ledger", "00" * 32, "not the opening record"),
        ("records", 40, "the header says 40 records"),
        ("anchors", [], "no table"),
        ("anchors", {"00" * 32: "{}"}, "countersignature"),
    ],
)
def test_a_header_that_says_other_than_the_records_is_found(
    bundle: Path, places: Places, name: str, value: Any, words: str
) -> None:
    header = {**json.loads(bundle.read_text().splitlines()[0]), name: value}
    edit(bundle, lambda lines: [canonical(header), *lines[1:]])
    assert places(verify(bundle).faults, words)


@pytest.mark.parametrize(
    "header", ["", "{}", '{"tacit_bundle":1}', "[" * 5000, '{"tacit_bundle":2,"records":1}']
)
def test_a_file_without_a_header_is_refused(tmp_path: Path, header: str) -> None:
    (tmp_path / "x").write_text(header + "\n")
    with pytest.raises(PrivacyError, match="bundle"):
        read_evidence(tmp_path / "x")


def test_a_line_of_ten_megabytes_is_refused_with_its_number(bundle: Path) -> None:
    edit(bundle, lambda lines: [*lines[:7], "x" * 10_000_000, *lines[8:]])
    with pytest.raises(PrivacyError, match="line 8 is longer"):
        read_evidence(bundle)


def test_a_record_longer_than_a_bundle_carries_is_not_exported(
    house: House, tmp_path: Path
) -> None:
    number = house.append("refusal", "x", {"rule": "x", "sentence": "y" * LONGEST_LINE})
    with pytest.raises(PrivacyError, match=f"record {number} is longer"):
        write_bundle(read_evidence(house.folder), tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


def test_nothing_is_overwritten(house: House, bundle: Path) -> None:
    with pytest.raises(PrivacyError, match="exists already"):
        write_bundle(read_evidence(bundle), house.path)


def test_a_damaged_ledger_is_exported_with_its_damage_and_said_so(
    house: House, tmp_path: Path, places: Places
) -> None:
    house.tamper("UPDATE records SET record = 'x' || record WHERE sequence = 7")
    out = tmp_path / "out"
    done = CliRunner().invoke(audit_app, ["export", str(house.folder), "--out", str(out)])
    assert done.exit_code == 1
    assert "damaged" in done.output
    assert places(verify(out).faults, "not a ledger record") == [7]


def test_an_outsider_verifies_with_the_public_key_alone(house: House, bundle: Path) -> None:
    run = CliRunner().invoke
    sound = run(audit_app, ["verify", str(bundle), "--key", house.key.public])
    assert (sound.exit_code, "No fault found" in sound.output) == (0, True)
    other = run(audit_app, ["verify", str(bundle), "--key", house.server.public])
    assert (other.exit_code, "record 1:" in other.output) == (1, True)


def test_a_key_is_taken_from_a_file_too(house: House, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(house.key.public.upper() + "\n")
    done = CliRunner().invoke(audit_app, ["verify", str(bundle), "--key", str(tmp_path / "key")])
    assert done.exit_code == 0


def test_control_characters_of_a_ledger_do_not_reach_the_terminal(
    house: House, tmp_path: Path
) -> None:
    hostile = house.intent("step", 4, noise_multiplier=0.0)
    house.append("intent", "\x1b[2Jx", hostile)
    done = CliRunner().invoke(
        audit_app, ["verify", str(house.folder), "--json", str(tmp_path / "found.json")]
    )
    assert done.exit_code == 1
    assert "\x1b" not in done.output
    assert "\\x1b[2Jx" in done.output
    assert json.loads((tmp_path / "found.json").read_text())["sound"] is False


@pytest.fixture(scope="module")
def content(_house: House, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Bytes of a sound bundle."""
    path = tmp_path_factory.mktemp("bundle") / "sound"
    write_bundle(read_evidence(_house.folder), path)
    return path.read_bytes()


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_any_changed_byte_is_found(
    content: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    # The time of the export is the one thing in a bundle that nobody has signed.
    free = content.index(b'"exported_at":"') + len(b'"exported_at":"')
    at = data.draw(st.integers(0, len(content) - 1))
    letter = content[at : at + 1].swapcase()[0]
    other = data.draw(st.one_of(st.just(letter), st.integers(0, 255)))
    if other == content[at] or free <= at < free + 29:
        return
    path = tmp_path_factory.getbasetemp() / "changed"
    path.write_bytes(content[:at] + bytes([other]) + content[at + 1 :])
    try:
        found = read_evidence(path)
    except PrivacyError:
        return
    faults = [*found.faults, *chain_faults(found.stored)]
    assert faults or head_faults(found.stored, found.anchors, strict=True)
