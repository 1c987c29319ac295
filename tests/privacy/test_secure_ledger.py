"""The ledger of an organisation whose sums are secure: two figures, repeats, protocol replies."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client.ledger import Ledger
from shared.accounting import Event, epsilon_checked
from shared.entries import Intent, Release
from shared.errors import PrivacyError, RefusedError
from shared.plan import PrivacyPlan
from shared.policy import Policy

Intend = Callable[..., Intent]
MakePolicy = Callable[..., Policy]
OpenLedger = Callable[..., Ledger]


@pytest.fixture
def house(
    open_ledger: OpenLedger, make_secure_policy: MakePolicy, roster: tuple[str, ...], tmp_path: Path
) -> Callable[..., Ledger]:
    """The ledger of one of eight organisations, under a policy that fits the secure plan."""
    with open_ledger(tmp_path, make_secure_policy()) as ledger:
        own = ledger.head().key

    def opened(epsilon: float = 8.0, **trust: Any) -> Ledger:
        folder = tmp_path / f"{epsilon}"
        (folder / "keys").mkdir(parents=True, exist_ok=True)
        key = tmp_path / "keys" / "organisation.pem"
        (folder / "keys" / "organisation.pem").write_bytes(key.read_bytes())
        (folder / "keys" / "organisation.pem").chmod(0o600)
        return open_ledger(folder, make_secure_policy(epsilon, members=(own, *roster[1:]), **trust))

    return opened


@pytest.fixture
def reserve(
    intend: Intend, secure_plan: PrivacyPlan, roster: tuple[str, ...]
) -> Callable[..., int]:
    """Reserve a release of the secure plan, as an agent does."""

    def made(ledger: Ledger, name: str, number: int, attempt: int = 0) -> int:
        intent = intend(
            secure_plan.mechanism(name),
            secure_plan,
            round=number,
            participants=(ledger.head().key, *roster[1:]),
        )
        again = f"/{attempt}" if attempt else ""
        return ledger.reserve(f"run/{number}/{name}{again}", intent, secure_plan)

    return made


def test_a_run_fits_jointly_what_it_does_not_fit_alone(
    house: Callable[..., Ledger], reserve: Callable[..., int], secure_plan: PrivacyPlan
) -> None:
    with house() as ledger:
        reserve(ledger, "popularity", 0)
        assert ledger.spent() == ledger.spent("joint") < 8.0
        assert ledger.spent("alone") == epsilon_checked(
            [secure_plan.mechanism("popularity").event(1, "alone")], 1e-4
        )
        assert ledger.spent("alone") > 8.0
        assert ledger.private()
    with (
        house(7.99, binds="alone") as ledger,
        pytest.raises(RefusedError, match=r"\[budget.epsilon\].*the whole plan"),
    ):
        reserve(ledger, "popularity", 0)


def test_a_policy_that_changes_what_binds_counts_all_that_went_before_by_it(
    house: Callable[..., Ledger],
    reserve: Callable[..., int],
    make_secure_policy: MakePolicy,
) -> None:
    with house(30.0) as ledger:
        reserve(ledger, "popularity", 0)
        joint, alone = ledger.spent("joint"), ledger.spent("alone")
        assert joint < 8.0 < alone < 30.0
        strict = make_secure_policy(alone - 0.5, members=ledger.policy.trust.members, binds="alone")
        ledger.amend(strict)
        assert ledger.spent() == alone
        with pytest.raises(RefusedError, match=f"from {alone:.3f}"):
            reserve(ledger, "step", 1)


def test_a_further_attempt_is_refused_where_the_budget_is_planned_to_the_brim(
    house: Callable[..., Ledger], reserve: Callable[..., int]
) -> None:
    with house() as ledger:
        for name, number in (("popularity", 0), ("cooccurrence", 0), ("step", 1), ("step", 2)):
            reserve(ledger, name, number)
        before = ledger.spent()
        reserve(ledger, "step", 3)
        with pytest.raises(RefusedError, match=r"\[budget.epsilon\]"):
            reserve(ledger, "cooccurrence", 0, 1)
        assert before < ledger.spent() < 8.0


def test_a_further_attempt_that_fits_costs_like_the_first(
    house: Callable[..., Ledger], reserve: Callable[..., int], secure_plan: PrivacyPlan
) -> None:
    with house(20.0) as ledger:
        reserve(ledger, "popularity", 0)
        reserve(ledger, "popularity", 0, 1)
        sigma = secure_plan.mechanism("popularity").noise_multiplier
        assert ledger.events() == (Event(1.0, sigma, 2),)
        with pytest.raises(RefusedError, match="has spent its budget already"):
            reserve(ledger, "popularity", 0, 1)


def protocol(content: str, intent: int = 0) -> Release:
    return Release("protocol", intent, content * 32, 96, ("keys uint8 [3, 32]",), ("name",))


def test_replies_of_the_protocol_are_recorded_without_an_intent(
    house: Callable[..., Ledger], reserve: Callable[..., int]
) -> None:
    with house() as ledger:
        ledger.record_release("run/0/keys_popularity", protocol("aa"))
        # Nothing is masked with them yet.
        ledger.record_release("run/0/keys_popularity", protocol("ab"))
        with pytest.raises(PrivacyError, match="run/0/popularity has no intent"):
            ledger.record_release("run/0/unmask_popularity", protocol("ac"))
        reserve(ledger, "popularity", 0)
        ledger.record_release("run/0/keys_popularity", protocol("ab"))
        with pytest.raises(PrivacyError, match="was answered with other arrays"):
            ledger.record_release("run/0/keys_popularity", protocol("aa"))
        ledger.record_release("run/0/unmask_popularity", protocol("ac"))
        ledger.record_release("run/0/unmask_popularity", protocol("ac"))
        with pytest.raises(PrivacyError, match="was answered with other arrays"):
            ledger.record_release("run/0/unmask_popularity", protocol("ad"))
        with pytest.raises(PrivacyError, match="run/0/popularity/1 has no intent"):
            ledger.record_release("run/0/unmask_popularity/1", protocol("ae"))
        assert len(ledger.releases()) == 5


@pytest.mark.parametrize(
    "request_",
    ["run/0/popularity", "run/0/join", "run/0/keys_secrets", "run/x/keys_step", "", "keys_step"],
)
def test_arrays_are_no_reply_of_the_protocol_because_they_say_so(
    house: Callable[..., Ledger], request_: str
) -> None:
    with house() as ledger:
        with pytest.raises(PrivacyError, match="no phase of a secure sum"):
            ledger.record_release(request_, protocol("aa"))
        with pytest.raises(PrivacyError, match="no phase of a secure sum"):
            ledger.record_release("run/0/keys_step", protocol("aa", 2))
        assert ledger.releases() == ()
