"""``tacit client check``: each check of the organisation and of its machine, red and green."""

import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from client.approval import public_key
from client.outcomes import Outcome
from client.own_data import source
from client.settings import AgentSettings, settings_path
from shared.keys import SigningKey
from tests.client_cli.looking import amend, found, replace

Tacit = Callable[..., Any]
FEDERATION = "ab" * 32


def test_a_made_and_approved_organisation_has_nothing_that_failed(tacit: Tacit, made: Any) -> None:
    assert tacit("client", "approve", str(made.org), "--federation", FEDERATION).status == 0
    done = tacit("client", "check", str(made.org), "--json")
    states = {one["name"]: one["state"] for one in json.loads(done.out)}
    assert done.status == 0
    assert states == {
        "folder": "ok",
        "permissions": "ok",
        "policy": "ok",
        "ledger": "ok",
        "federation": "ok",
        "secure sums": "ok",
        "data": "ok",
        "data source": "ok",
        "model weights": "ok",
        "model": "ok",
        "socket": "ok",
        "agent": "warning",
        "SuperNode": "ok",
        "disk": "ok",
        "randomness": "ok",
        "open files": "ok",
        "SuperLink": "skipped",
    }


def test_one_that_failed_gives_exit_status_1_and_a_cure(tacit: Tacit, made: Any) -> None:
    done = tacit("client", "check", str(made.org), "--quick")
    assert done.status == 1
    assert "failed  federation: no federation is approved" in done.out
    assert f"-> tacit client approve {made.org} --federation KEY" in done.out


def test_no_folder_at_all_is_one_failure_and_no_traceback(tacit: Tacit, tmp_path: Path) -> None:
    done = tacit("client", "check", str(tmp_path / "nowhere"), "--quick")
    assert done.status == 1
    assert "has no organisation.json" in done.out


@pytest.mark.parametrize("name", ["ledger.sqlite", "keys/organisation.pem", "histories.duckdb"])
def test_a_missing_file_is_named_and_not_made_anew(made: Any, name: str) -> None:
    (made.org / name).unlink()
    outcome = found(made, "folder")
    assert outcome.state == "failed"
    assert name in outcome.sentence
    assert not (made.org / name).exists()


@pytest.mark.parametrize("name", [".", "keys/organisation.pem", "keys/population.secret"])
def test_what_others_could_read_is_named(made: Any, name: str) -> None:
    assert found(made, "permissions").state == "ok"
    path = made.org / name
    path.chmod(path.stat().st_mode | 0o040)
    outcome = found(made, "permissions")
    assert outcome.state == "failed"
    assert str(path) in outcome.cure


def test_a_changed_policy_that_is_not_on_record_fails_until_it_is(tacit: Tacit, made: Any) -> None:
    replace(made.org / "policy.toml", "most_steps_per_round = 100", "most_steps_per_round = 7")
    outcome = found(made, "policy")
    assert outcome.state == "failed"
    assert "mechanism.most_steps_per_round is 7, was 100" in outcome.sentence
    # The ledger itself is sound all the same.
    assert found(made, "ledger").state == "ok"
    assert tacit("policy", "amend", str(made.org)).status == 0
    assert found(made, "policy").state == "ok"


def test_a_policy_that_is_none_names_its_key(made: Any) -> None:
    replace(made.org / "policy.toml", "most_steps_per_round", "most_steps_per_rond")
    outcome = found(made, "policy")
    assert outcome.state == "failed"
    assert "most_steps_per_round" in outcome.sentence


def test_a_ledger_signed_by_another_key_fails(made: Any) -> None:
    key = made.org / "keys" / "organisation.pem"
    key.unlink()
    SigningKey.load_or_create(key)
    outcome = found(made, "ledger")
    assert outcome.state == "failed"
    assert "tacit audit verify" in outcome.sentence


def test_a_ledger_that_is_none_fails(made: Any) -> None:
    (made.org / "ledger.sqlite").write_bytes(b"not SQLite" * 100)
    assert found(made, "ledger").state == "failed"
    assert found(made, "policy").state == "failed"


@pytest.mark.parametrize(("spent", "state"), [(7.0, "ok"), (7.5, "warning"), (8.0, "failed")])
def test_a_budget_that_runs_out_is_told(
    made: Any, monkeypatch: pytest.MonkeyPatch, spent: float, state: str
) -> None:
    # Pretended: to spend it takes a run.
    monkeypatch.setattr("client.readiness.Ledger.spent", lambda _: spent)
    assert found(made, "ledger").state == state


def test_an_approval_turns_the_check_green(tacit: Tacit, made: Any) -> None:
    assert found(made, "federation").state == "failed"
    tacit("client", "approve", str(made.org), "--federation", FEDERATION)
    assert found(made, "federation").state == "ok"


def test_the_key_by_which_others_name_an_organisation_is_told(made: Any) -> None:
    assert public_key(made.org) in found(made, "secure sums").sentence


def of_secure_sums(made: Any, tacit: Tacit, old: str = "", new: str = "") -> None:
    """The policy that init writes for secure sums of three, with one thing changed, on record."""
    for before, after in (
        ('noise = "own"', 'noise = "shared"'),
        ("least_noise_share = 1.0", "least_noise_share = 0.7071067811865475"),
        ('binds = "alone"', 'binds = "joint"'),
    ):
        replace(made.org / "policy.toml", before, after)
    if old:
        replace(made.org / "policy.toml", old, new)
    assert tacit("policy", "amend", str(made.org)).status == 0


def test_a_secure_sum_needs_members_with_this_organisation_among_them(
    tacit: Tacit, made: Any
) -> None:
    of_secure_sums(made, tacit)
    own = public_key(made.org)
    outcome = found(made, "secure sums")
    assert outcome.state == "failed"
    assert "no organisation is named" in outcome.sentence
    assert f"key, {own}, by another way than the server" in outcome.cure
    assert f"tacit client approve {made.org} --member KEY" in outcome.cure
    tacit("client", "approve", str(made.org), "--member", "ab" * 32)
    outcome = found(made, "secure sums")
    assert outcome.state == "failed"
    assert "2 organisations are named; 3 must be in a sum" in outcome.sentence
    tacit("client", "approve", str(made.org), "--member", "cd" * 32)
    outcome = found(made, "secure sums")
    assert outcome.state == "ok"
    assert "3 or more of 3 organisations, up to 1 colluders, the budget binds joint" in (
        outcome.sentence
    )
    assert "with abababababab, cdcdcdcdcdcd" in outcome.sentence
    amend(made, tacit, f'"{own}"', f'"{"ef" * 32}"')
    outcome = found(made, "secure sums")
    assert outcome.state == "failed"
    assert outcome.cure == f"tacit client approve {made.org} --member {own}"


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('["gaussian", "discrete"]', '["gaussian"]', "mechanism.distribution lacks discrete"),
        ("colluders = 1", "colluders = 3", "too few would have to agree"),
        ("= 0.7071067811865475", "= 0.75", "least_noise_share is 0.75; where 3 organisations"),
        ("simulated_sum = false", "simulated_sum = true", "for experiments alone"),
    ],
)
def test_rules_of_secure_sums_that_no_plan_can_keep_are_told(
    tacit: Tacit, made: Any, old: str, new: str, told: str
) -> None:
    of_secure_sums(made, tacit, old, new)
    outcome = found(made, "secure sums")
    assert outcome.state == "failed"
    assert told in outcome.sentence
    assert outcome.cure == (
        f"change {made.org / 'policy.toml'}, then: tacit policy amend {made.org}"
    )


def test_more_members_than_one_sum_can_have_are_warned_of(tacit: Tacit, made: Any) -> None:
    of_secure_sums(made, tacit)
    keys = [part for n in range(4) for part in ("--member", f"{n:064x}")]
    assert tacit("client", "approve", str(made.org), *keys).status == 0
    outcome = found(made, "secure sums")
    assert outcome.state == "warning"
    assert "not with all of them at once" in outcome.sentence


def test_settings_that_are_wrong_are_told_with_their_key(tacit: Tacit, made: Any) -> None:
    replace(settings_path(made.org), 'device = "auto"', 'devise = "auto"')
    done = tacit("client", "check", str(made.org), "--quick")
    assert done.status == 1
    assert "did you mean machine.device" in done.out
    assert "policy 0" not in done.err


def test_a_damaged_store_is_cured_by_refresh(made: Any) -> None:
    (made.org / "histories.duckdb").write_bytes(b"not DuckDB")
    outcome = found(made, "data")
    assert outcome.state == "failed"
    assert outcome.cure == f"tacit client refresh {made.org} --whole"


def test_a_declared_size_far_from_the_true_one_is_warned_of(tacit: Tacit, made: Any) -> None:
    assert found(made, "data").state == "ok"
    amend(made, tacit, "declared_users = 10", "declared_users = 5")
    outcome = found(made, "data")
    assert outcome.state == "warning"
    assert "5 users are declared, there are 12" in outcome.sentence


def own_source(made: Any, shop: Path, folder: Path) -> Path:
    """A source of this test's own, named in the settings."""
    copy = folder / "shop"
    shutil.copytree(shop, copy)
    replace(settings_path(made.org), f'source = "{shop}"', f'source = "{copy}"')
    return copy


def test_a_source_that_was_changed_after_it_was_read_is_warned_of(
    made: Any, shop: Path, tmp_path: Path
) -> None:
    copy = own_source(made, shop, tmp_path)
    read_at = (made.org / "histories.duckdb").stat().st_mtime
    for path in copy.iterdir():
        os.utime(path, (read_at - 60, read_at - 60))
    assert found(made, "data source").state == "ok"
    os.utime(copy / "interactions.csv", (read_at + 60, read_at + 60))
    outcome = found(made, "data source")
    assert outcome.state == "warning"
    assert outcome.cure == f"tacit client refresh {made.org}"


def test_a_source_that_is_gone_fails(made: Any, shop: Path, tmp_path: Path) -> None:
    copy = own_source(made, shop, tmp_path)
    (copy / "interactions.csv").unlink()
    assert found(made, "data source").state == "failed"


def test_a_database_is_asked_unless_in_a_hurry(made: Any, tmp_path: Path) -> None:
    database = tmp_path / "shop.sqlite"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE interactions (user TEXT, item TEXT, time INTEGER)")
        connection.execute("CREATE TABLE items (item TEXT, title TEXT)")
        connection.commit()
    settings = settings_path(made.org)
    before = next(line for line in settings.read_text().splitlines() if line.startswith("source ="))
    replace(settings, before, f'source = "sqlite:///{database}"')
    assert found(made, "data source").state == "skipped"
    assert found_source(made).state == "ok"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("DROP TABLE items")
        connection.commit()
    outcome = found_source(made)
    assert outcome.state == "failed"
    assert "items" in outcome.sentence


def found_source(made: Any) -> Outcome:
    """The outcome for the data source, which is asked."""
    return source(made.org, AgentSettings.load(settings_path(made.org)), quick=False)
