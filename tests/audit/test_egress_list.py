"""The list of everything that left is complete, and harmless to open."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from audit.bundle import read_evidence, write_bundle
from audit.cli import audit_app
from audit.egress import write_csv
from shared.departures import list_egress

House = Any


def test_every_release_is_listed_with_its_mechanism_and_bytes(house: House) -> None:
    found = list_egress(house.stored())
    assert [(d.request, d.mechanism, d.release.size_bytes) for d in found.departures] == [
        ("r/0/join", "public fields", 0),
        ("r/0/popularity", "popularity", 12),
        ("r/0/cooccurrence", "cooccurrence", 12),
        ("r/1/step", "step", 12),
        ("r/2/step", "step", 12),
        ("r/3/step", "step", 12),
    ]
    assert [(d.record, d.refusal.rule) for d in found.denials] == [(18, "plan")]


def test_totals_are_those_of_the_list(house: House) -> None:
    totals = {t.mechanism: (t.releases, t.size_bytes) for t in list_egress(house.stored()).totals()}
    assert totals == {
        "cooccurrence": (1, 12),
        "popularity": (1, 12),
        "public fields": (1, 0),
        "step": (3, 36),
    }


def test_an_answer_that_left_again_is_marked(
    house: House, make_release: Callable[..., Any]
) -> None:
    intent = house.number_of("intent", "r/1/step")
    house.append("release", "r/1/step", make_release("step", intent))
    found = list_egress(house.stored())
    assert [d.record for d in found.departures if d.again] == [19]


def test_a_bundle_lists_what_its_ledger_lists(house: House, tmp_path: Path) -> None:
    write_bundle(read_evidence(house.folder), tmp_path / "bundle")
    bundle = read_evidence(tmp_path / "bundle")
    assert list_egress(bundle.stored) == list_egress(house.stored())


def test_the_command_prints_the_list_and_writes_it(house: House, tmp_path: Path) -> None:
    out = tmp_path / "egress.csv"
    done = CliRunner(env={"COLUMNS": "200"}).invoke(
        audit_app, ["egress", str(house.folder), "--csv", str(out)]
    )
    assert done.exit_code == 0
    assert "popularity" in done.output
    assert "the plan has no further step" in done.output
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert "r/0/popularity" in [row["request"] for row in rows]
    assert [row["bytes"] for row in rows] == ["0", "12", "12", "12", "12", "12"]


def test_the_command_says_that_a_damaged_ledger_may_hide_a_release(house: House) -> None:
    house.tamper("UPDATE records SET record = '{}' WHERE sequence = 7")
    assert list_egress(read_evidence(house.folder).stored).unread == [7]
    done = CliRunner().invoke(audit_app, ["egress", str(house.folder)])
    assert (done.exit_code, "may be wrong" in done.output) == (1, True)


@pytest.mark.parametrize("request_name", ["=cmd()", "+1", "-1", "@x", "\tx"])
def test_a_spreadsheet_runs_nothing_of_what_a_server_named(
    house: House, tmp_path: Path, make_release: Callable[..., Any], request_name: str
) -> None:
    house.append("release", request_name, make_release("none", 0))
    write_csv(list_egress(house.stored()), tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="") as file:
        *_, last = csv.DictReader(file)
    assert last["request"] == f"'{request_name}"
