"""What a server has seen tells which ledgers went backwards, and what it cannot tell is said."""

import dataclasses
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from audit.bundle import read_evidence
from audit.cli import server_privacy
from audit.heads import members, read_heads
from audit.verify import verify_ledger
from shared.chain import Fault, Head, canonical
from shared.entries import Refusal
from shared.errors import PrivacyError
from shared.keys import SigningKey

House = Any
Places = Callable[[Sequence[Fault], str], list[int]]


def head_at(house: House, number: int) -> Head:
    stored = house.stored()
    sealed = stored[number - 1]
    return Head(stored[0].sha256, house.key.public, number, sealed.sha256, sealed.signature)


@pytest.fixture
def command() -> Callable[..., Any]:
    """``tacit server privacy`` with arguments."""
    app = typer.Typer()
    app.command()(server_privacy)
    return lambda *a: CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(v) for v in a])


def test_every_organisation_is_a_row(house: House) -> None:
    (member,) = members(read_heads(house.heads))
    assert (member.name, member.declared_users) == ("org-1", 118)
    assert (member.sequence, member.replies, member.runs) == (17, 6, 1)
    assert not member.faults


def test_a_head_that_goes_backwards_is_found(house: House, places: Places) -> None:
    house.see(head_at(house, 11))
    (member,) = members(read_heads(house.heads))
    assert places(member.faults, "rolled back") == [11]
    assert member.sequence == 17


def test_two_histories_under_one_number_are_found(house: House, places: Places) -> None:
    forked = dataclasses.replace(house, folder=house.folder.with_name("forked"))
    shutil.copytree(house.folder, forked.folder)
    house.append("refusal", "r/1/x", Refusal("plan", "one history"))
    forked.append("refusal", "r/1/x", Refusal("plan", "another history"))
    house.see(head_at(house, 19))
    house.see(head_at(forked, 19))
    (member,) = members(read_heads(house.heads))
    assert places(member.faults, "another hash") == [19]


@pytest.mark.parametrize("number", [0, -3])
def test_a_head_with_a_number_that_no_record_has_is_found(
    house: House, places: Places, number: int
) -> None:
    house.see(dataclasses.replace(head_at(house, 17), sequence=number))
    assert places(read_heads(house.heads).faults, f"numbered {number}") == [0]


def test_a_head_that_was_numbered_otherwise_shows_in_its_ledger(
    house: House, places: Places
) -> None:
    house.see(dataclasses.replace(head_at(house, 17), sequence=18))
    faults = house.verify(heads=True).faults
    assert places(faults, "another record than the one seen outside") == [18]


def test_the_same_head_twice_is_no_fault(house: House) -> None:
    house.see(head_at(house, 17))
    (member,) = members(read_heads(house.heads))
    assert not member.faults


def test_a_second_ledger_of_an_organisation_is_found(
    house: House, places: Places, stranger: SigningKey
) -> None:
    second = dataclasses.replace(house, folder=house.folder.with_name("second"), key=stranger)
    with second.open() as ledger:
        head = ledger.head()
    house.see(head)
    for member in members(read_heads(house.heads)):
        assert places(member.faults, "another ledger too") == [0]


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value["head"].update(sha256="00" * 32),
        lambda value: value["head"].update(sequence=3),
        lambda value: value["head"].update(sequence=-3),
        lambda value: value["head"].update(signature="00" * 64),
        lambda value: value["anchor"].update(sequence=3),
        lambda value: value["anchor"].update(server_key="00" * 32),
        lambda value: value["anchor"].update(at="\u00e9" * 9),
        lambda value: value.update(run="other"),
        lambda value: value.update(name=7),
        lambda value: value.update(surplus=1),
        lambda value: value.update(head=None),
    ],
)
def test_a_line_that_was_changed_is_found(
    house: House, places: Places, change: Callable[[dict[str, Any]], None]
) -> None:
    lines = house.heads.read_text().splitlines()
    value = json.loads(lines[2])
    change(value)
    lines[2] = canonical(value)
    house.heads.write_text("".join(f"{line}\n" for line in lines))
    assert places(read_heads(house.heads).faults, "line 3:") == [0]
    assert places(house.verify(heads=True).faults, "line 3:") == [0]


def test_a_line_that_is_no_json_is_found(house: House, places: Places) -> None:
    with house.heads.open("a") as file:
        file.write("[" * 100_000 + "\n")
    assert places(read_heads(house.heads).faults, "line 7:") == [0]


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(PrivacyError, match=r"heads\.jsonl"):
        read_heads(tmp_path)


def test_without_bundles_it_is_said_what_the_server_cannot_know(
    house: House, command: Callable[..., Any]
) -> None:
    done = command(house.heads)
    assert done.exit_code == 0
    assert "cannot know what org-1 spent" in done.output
    assert "not known" in done.output


def test_with_a_bundle_epsilon_is_shown_and_checked_against_the_heads(
    house: House, command: Callable[..., Any], tmp_path: Path
) -> None:
    out = tmp_path / "found.json"
    done = command(house.heads, "--bundle", house.folder, "--json", out)
    assert done.exit_code == 0
    assert "1.0000" in done.output
    found = json.loads(out.read_text())
    assert (found["sound"], found["checked"][0]["intents"]) == (True, 5)
    house.truncate(16)
    done = command(house.heads, "--bundle", house.folder)
    assert done.exit_code == 1
    assert "record 17: was seen outside" in done.output


def test_a_bundle_of_a_ledger_that_the_server_never_saw_is_a_fault(
    house: House, stranger: SigningKey, command: Callable[..., Any]
) -> None:
    second = dataclasses.replace(house, folder=house.folder.with_name("second"), key=stranger)
    second.open().close()
    done = command(house.heads, "--bundle", second.folder)
    assert done.exit_code == 1
    assert "hold none of this ledger" in done.output


def test_a_run_folder_is_read_with_all_its_ledgers(
    house: House, command: Callable[..., Any], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(house.folder, run / "organisations" / "0001")
    (run / "server").mkdir()
    shutil.copy(house.heads, run / "server" / "heads.jsonl")
    done = command(run)
    assert (done.exit_code, "1.0000" in done.output) == (0, True)


def test_the_verification_stands_beside_its_ledger(house: House) -> None:
    heads = read_heads(house.heads)
    checked = verify_ledger(read_evidence(house.folder), heads=heads)
    (member,) = members(heads, [checked])
    assert member.verification is checked
