"""``tacit client approve``: the policy's file and the ledger change together, or not at all."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client.approval import approve, public_key
from client.directory import open_ledger, read_policy
from client.ledger import Ledger, policy_in_force
from shared.chain import read_sealed
from shared.errors import PrivacyError

Tacit = Callable[..., Any]
ONE, TWO = "ab" * 32, "cd" * 32


def recorded(org: Path) -> tuple[str, ...]:
    """Federations that the ledger's last policy allows."""
    return policy_in_force(read_sealed(org / "ledger.sqlite")).federations.allowed


def test_an_approval_is_in_the_file_and_on_record(tacit: Tacit, made: Any) -> None:
    done = tacit(
        "client",
        "approve",
        str(made.org),
        "--federation",
        ONE,
        "--plan",
        "12345678",
        "--plan",
        "abcdef0123",
    )
    assert done.status == 0
    assert f"federations.allowed is ['{ONE}'], was []" in done.out
    policy = read_policy(made.org)
    assert policy.federations.allowed == recorded(made.org) == (ONE,)
    assert policy.federations.plans == ("12345678", "abcdef0123")
    open_ledger(made.org).close()


def test_comments_and_all_other_rules_stay(tacit: Tacit, made: Any) -> None:
    path = made.org / "policy.toml"
    before = "# decided by the board on 3 May\n" + path.read_text()
    path.write_text(before)
    assert tacit("client", "approve", str(made.org), "--federation", ONE).status == 0
    assert path.read_text() == before.replace("allowed = []", f'allowed = ["{ONE}"]')


def test_the_file_keeps_its_mode(made: Any) -> None:
    approve(made.org, [ONE], [])
    assert (made.org / "policy.toml").stat().st_mode & 0o777 == 0o600


def test_a_second_federation_is_added_and_the_first_taken_away(tacit: Tacit, made: Any) -> None:
    approve(made.org, [ONE], ["12345678"])
    approve(made.org, [TWO.upper()], [])
    assert recorded(made.org) == (ONE, TWO)
    assert tacit("client", "approve", str(made.org), "--federation", ONE, "--remove").status == 0
    assert recorded(made.org) == read_policy(made.org).federations.allowed == (TWO,)
    assert read_policy(made.org).federations.plans == ("12345678",)


def test_what_is_approved_already_changes_nothing(tacit: Tacit, made: Any) -> None:
    approve(made.org, [ONE], [])
    before = len(read_sealed(made.org / "ledger.sqlite"))
    done = tacit("client", "approve", str(made.org), "--federation", ONE)
    assert "nothing has changed" in done.out
    assert len(read_sealed(made.org / "ledger.sqlite")) == before


def test_who_is_not_approved_cannot_be_taken_away(tacit: Tacit, made: Any) -> None:
    approve(made.org, [ONE], [])
    done = tacit("client", "approve", str(made.org), "--federation", TWO, "--remove")
    assert done.status == 2
    assert f"does not allow {TWO}; it allows {ONE}" in done.err


@pytest.mark.parametrize(
    "given", [["--federation", "abc"], ["--federation", ONE, "--plan", "1234567"], []]
)
def test_what_is_no_key_or_plan_is_refused_before_anything_is_written(
    tacit: Tacit, made: Any, given: list[str]
) -> None:
    before = (made.org / "policy.toml").read_bytes()
    assert tacit("client", "approve", str(made.org), *given).status == 2
    assert (made.org / "policy.toml").read_bytes() == before
    assert recorded(made.org) == ()


def test_other_changes_are_not_put_on_record_in_passing(tacit: Tacit, made: Any) -> None:
    path = made.org / "policy.toml"
    changed = path.read_text().replace("most_steps_per_round = 100", "most_steps_per_round = 9999")
    path.write_text(changed)
    done = tacit("client", "approve", str(made.org), "--federation", ONE)
    assert done.status == 2
    assert "mechanism.most_steps_per_round is 9999, was 100" in done.err
    assert path.read_text() == changed
    assert recorded(made.org) == ()


def test_the_old_file_stays_when_the_ledger_refuses(
    made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (made.org / "policy.toml").read_bytes()

    # A ledger that refuses at this point only: one that is damaged is found earlier.
    def refuses(*_: object) -> None:
        raise PrivacyError("the disk is full")

    monkeypatch.setattr(Ledger, "amend", refuses)
    with pytest.raises(PrivacyError, match="the disk is full"):
        approve(made.org, [ONE], [])
    assert (made.org / "policy.toml").read_bytes() == before
    assert (made.org / "policy.toml").stat().st_mode & 0o777 == 0o600
    assert recorded(made.org) == ()


def test_a_damaged_ledger_is_told_and_the_file_stays(tacit: Tacit, made: Any) -> None:
    before = (made.org / "policy.toml").read_bytes()
    (made.org / "ledger.sqlite").write_bytes(b"not SQLite" * 100)
    assert tacit("client", "approve", str(made.org), "--federation", ONE).status == 2
    assert (made.org / "policy.toml").read_bytes() == before


def named(org: Path) -> tuple[str, ...]:
    """Members that the ledger's last policy names."""
    return policy_in_force(read_sealed(org / "ledger.sqlite")).trust.members


def test_with_the_first_member_comes_the_organisations_own_key(tacit: Tacit, made: Any) -> None:
    own = public_key(made.org)
    done = tacit("client", "approve", str(made.org), "--member", ONE, "--member", TWO.upper())
    assert done.status == 0
    assert "trust.members is" in done.out
    assert named(made.org) == read_policy(made.org).trust.members == (own, ONE, TWO)
    assert recorded(made.org) == ()
    approve(made.org, members=["ef" * 32])
    assert named(made.org) == (own, ONE, TWO, "ef" * 32)


def test_members_are_taken_away_and_the_own_key_goes_with_the_last(tacit: Tacit, made: Any) -> None:
    own = public_key(made.org)
    approve(made.org, members=[ONE, TWO])
    assert tacit("client", "approve", str(made.org), "--member", ONE, "--remove").status == 0
    assert named(made.org) == (own, TWO)
    refused = tacit("client", "approve", str(made.org), "--member", own, "--remove")
    assert refused.status == 2
    assert "own key stays as long as it names others" in refused.err
    approve(made.org, members=[TWO], remove=True)
    assert named(made.org) == read_policy(made.org).trust.members == ()


@pytest.mark.parametrize("key", ["abc", "g" * 64, ONE + "00"])
def test_what_is_no_key_of_an_organisation_is_refused(tacit: Tacit, made: Any, key: str) -> None:
    before = (made.org / "policy.toml").read_bytes()
    assert tacit("client", "approve", str(made.org), "--member", key).status == 2
    assert (made.org / "policy.toml").read_bytes() == before
    assert named(made.org) == ()
