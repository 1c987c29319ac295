"""What an outsider finds where sums are secure: both figures, who took part, what was repeated."""

from collections.abc import Callable, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scipy.optimize import brentq
from scipy.stats import norm

from audit.bundle import read_evidence
from audit.explain import explain_ledger, paragraph
from audit.forecast import forecast, print_forecast
from audit.report import write_report
from audit.tables import print_egress, print_verification
from client.serving.ledger_view import LedgerView
from client.serving.privacy import privacy_of
from shared.chain import Fault
from shared.departures import list_egress
from shared.entries import Amendment
from shared.spending import read_contents
from shared.words import epsilon_text, factor_text

House = Any
Places = Callable[[Sequence[Fault], str], list[int]]


def exact_epsilon(*multipliers: float) -> float:
    """Of Gaussian releases over all users at delta 5e-4 (Balle and Wang 2018, theorem 8)."""
    mu = sum(sigma**-2 for sigma in multipliers) ** 0.5

    def excess(epsilon: float) -> float:
        above = norm.cdf(mu / 2 - epsilon / mu)
        return float(above - np.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu) - 5e-4)

    return float(brentq(excess, 0.0, 60.0))


def figures(house: House) -> tuple[float, float]:
    """Joint and alone epsilon of what stands in the ledger; each house adds 1 / sqrt(6)."""
    names = ("popularity", "cooccurrence", "step")
    sigmas = [house.plan.mechanism(name).noise_multiplier for name in names]
    return exact_epsilon(*sigmas), exact_epsilon(*(s * 0.408248290463863 for s in sigmas))


def amended(house: House, **trust: Any) -> None:
    """Put other rules of trust in force, as ``tacit policy amend`` does."""
    rules = house.policy.trust.model_copy(update=trust)
    house.policy = house.policy.model_copy(update={"trust": rules})
    house.append("policy", None, Amendment(house.policy.to_record(), house.policy.sha256))


def shown(print_: Callable[..., None], *values: Any) -> str:
    console = Console(width=200, record=True, file=StringIO())
    print_(console, *values)
    return " ".join(console.export_text().replace("\N{NBSP}", " ").split())


def page(folder: Path) -> str:
    out = folder.parent / "page.html"
    write_report(read_evidence(folder), out)
    return " ".join(out.read_text(encoding="utf-8").replace("\N{NBSP}", " ").split())


def test_an_honest_ledger_of_secure_sums_is_sound_and_private(secure_house: House) -> None:
    found = secure_house.verify()
    assert not found.faults
    assert not found.not_private
    joint, alone = figures(secure_house)
    (spent,) = found.spent
    assert spent.pld == spent.joint == pytest.approx(joint, abs=1e-3)
    assert spent.alone == pytest.approx(alone, abs=5e-3)
    assert spent.alone > 2.0 * spent.joint
    sums = found.sums
    assert (sums.secure, sums.simulated, sums.plain, sums.least, sums.colluders) == (3, 0, 0, 7, 1)
    assert (found.binds, found.members) == ("joint", 8)


def test_a_policy_that_counts_alone_is_held_to_it_from_then_on(
    secure_house: House, places: Places
) -> None:
    amended(secure_house, binds="alone")
    found = secure_house.verify()
    assert not found.faults
    assert found.spent[0].pld == found.spent[0].alone
    intent = secure_house.intent("step", 2)
    number = secure_house.append("intent", "r/2/step", intent)
    (fault,) = [f for f in secure_house.verify().faults if f.sequence == number]
    assert "(alone) at delta 0.0005; the budget in force was 1" in fault.sentence


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda keys: keys[:6], "[trust.least_participants]"),
        (lambda keys: (), "[trust.least_participants]"),
        (lambda keys: (*keys[:7], "5e" * 32), "[trust.members]"),
        (lambda keys: (*keys[:7], keys[6]), "[trust.members]"),
        (lambda keys: keys[1:], "this organisation is not among the participants"),
    ],
    ids=["too few", "none", "a stranger", "one twice", "without its own key"],
)
def test_who_took_part_is_checked_again(
    secure_house: House,
    places: Places,
    change: Callable[[tuple[str, ...]], tuple[str, ...]],
    words: str,
) -> None:
    secure_house.participants = change(secure_house.participants)
    number = secure_house.append("intent", "r/2/step", secure_house.intent("step", 2))
    assert places(secure_house.verify().faults, words) == [number]


def test_a_share_that_leaves_the_sum_without_whole_noise_is_found(
    secure_house: House, places: Places
) -> None:
    intent = secure_house.intent("step", 2, noise_share=0.3)
    number = secure_house.append("intent", "r/2/step", intent)
    found = secure_house.verify()
    assert places(found.faults, "[trust.colluders]") == [number]
    assert "not whole" in found.not_private[0]
    assert found.sums.colluders == -1
    (account,) = read_contents(secure_house.stored()).accounts
    assert account.epsilon == account.epsilon_joint == float("inf")
    assert account.epsilon_alone < 10.0


def test_a_policy_of_a_federation_that_names_nobody_is_no_ground_for_a_secure_sum(
    secure_house: House, places: Places
) -> None:
    amended(secure_house, members=())
    number = secure_house.append("intent", "r/2/step", secure_house.intent("step", 2))
    assert places(secure_house.verify().faults, "a server could invent some") == [number]


def test_a_further_attempt_counts_again_and_is_no_fault(secure_house: House) -> None:
    before = secure_house.verify().spent[0].joint
    with secure_house.open() as ledger:
        request = "r/1/step/1"
        intent = ledger.reserve(request, secure_house.intent("step", 1), secure_house.plan)
        left = secure_house.number_of("release", "r/1/step")
        body = dict(secure_house.record(left).body)
    secure_house.append("release", request, {**body, "intent": intent})
    found = secure_house.verify()
    assert not found.faults
    assert found.spent[0].joint > before


def protocol(house: House, request: str, **changes: Any) -> int:
    body = dict(house.record(house.number_of("release", "r/1/unmask_step")).body)
    return int(house.append("release", request, {**body, **changes}))


def test_shares_that_unmask_without_an_intent_are_found(
    secure_house: House, places: Places
) -> None:
    number = protocol(secure_house, "r/2/unmask_step")
    again = protocol(secure_house, "r/1/unmask_step/1")
    assert places(secure_house.verify().faults, "unmask a sum left without an intent") == [
        number,
        again,
    ]


def test_shares_that_unmask_what_was_never_masked_are_found(
    house: House, secure_house: House, places: Places
) -> None:
    body = dict(secure_house.record(secure_house.number_of("release", "r/1/unmask_step")).body)
    number = house.append("release", "r/1/unmask_step", body)
    assert places(house.verify().faults, "unmask a sum left without an intent") == [number]


def test_shares_that_unmask_one_sum_twice_are_found(secure_house: House, places: Places) -> None:
    protocol(secure_house, "r/1/unmask_step")
    assert not secure_house.verify().faults
    number = protocol(secure_house, "r/1/unmask_step", sha256="cc" * 32)
    assert places(secure_house.verify().faults, "answered before with other arrays") == [number]


def test_keys_may_be_made_anew_until_something_is_masked_with_them(
    secure_house: House, places: Places
) -> None:
    protocol(secure_house, "r/2/keys_step")
    protocol(secure_house, "r/2/keys_step", sha256="cc" * 32)
    assert not secure_house.verify().faults
    number = protocol(secure_house, "r/1/keys_step", sha256="cc" * 32)
    assert places(secure_house.verify().faults, "answered before with other arrays") == [number]


def test_arrays_that_only_say_they_belong_to_the_protocol_are_found(
    secure_house: House, places: Places
) -> None:
    one = protocol(secure_house, "r/2/step")
    two = protocol(secure_house, "r/2/join")
    three = protocol(secure_house, "r/2/keys_step", intent=3)
    faults = secure_house.verify().faults
    assert places(faults, "its request is no phase of one") == [one, two]
    assert places(faults, "names an intent") == [three]


def test_a_release_under_the_name_of_a_phase_is_answered_once(
    secure_house: House, places: Places
) -> None:
    intent = secure_house.append("intent", "r/2/keys_step", secure_house.intent("step", 2))
    changes = {"mechanism": "step", "intent": intent}
    protocol(secure_house, "r/2/keys_step", **changes)
    number = protocol(secure_house, "r/2/keys_step", **changes, sha256="cc" * 32)
    assert places(secure_house.verify().faults, "answered before with other arrays") == [number]


def test_the_terminal_tells_both_figures_and_what_they_rest_on(secure_house: House) -> None:
    found = secure_house.verify()
    text = shown(print_verification, found, True, True)
    (spent,) = found.spent
    assert f"joint {spent.joint:.4f}: holds against the server and 1 other organisation" in text
    assert f"alone {spent.alone:.4f}: holds where everybody else is against it" in text
    assert "the budget counts joint" in text
    assert "3 releases in a secure sum: the server sees nothing but the sum of 7 or more" in text
    assert "Only the 8 keys of the policy count in it" in text
    listed = shown(print_egress, list_egress(secure_house.stored()))
    assert "keys of a secure sum of step" in listed
    assert "unmask of a secure sum of popularity" in listed


def test_the_page_tells_both_figures_and_against_whom_they_hold(secure_house: House) -> None:
    text = page(secure_house.folder)
    joint, alone = (epsilon_text(e) for e in _spent(secure_house))
    assert f"Epsilon {joint} against the server and 1 other organisation at most" in text
    assert f"Epsilon {alone} where everybody else is against this organisation" in text
    assert "added the rest of the noise. The budget counts this one." in text
    assert "the server and 1 other organisation at most, together could see from outside" in text
    assert f"a factor of at most {factor_text(_spent(secure_house)[0])}" in text
    assert "3 releases in a secure sum" in text
    assert "own part 0.408" in text
    assert "NOT PRIVATE" not in text
    assert "Anybody who sees all that left" not in text
    amended(secure_house, binds="alone")
    text = page(secure_house.folder)
    assert f"a factor of at most {factor_text(_spent(secure_house)[1])}" in text
    assert "Anybody who sees all that left" in text


def test_the_view_of_privacy_has_both_figures(secure_house: House) -> None:
    view = privacy_of(LedgerView(secure_house.path).read())
    joint, alone = _spent(secure_house)
    (budget,) = view.budgets
    assert (budget.binds, budget.spent, budget.joint) == ("joint", joint, joint)
    assert budget.alone == alone
    assert (budget.colluders, budget.secure, budget.least_participants) == (1, 3, 7)
    assert view.members == 8
    assert budget.points[-1].epsilon == joint
    kinds = [(line.run, line.round, line.kind) for line in view.releases]
    assert kinds[0] == ("r", "1", "unmask_step")
    assert view.releases[0].mechanism is None
    assert view.runs[0].epsilon == pytest.approx(joint, rel=2e-3)
    protocol(secure_house, "r/1/keys_step/3")
    assert privacy_of(LedgerView(secure_house.path).read()).releases[0].kind == "keys_step"
    amended(secure_house, binds="alone")
    view = privacy_of(LedgerView(secure_house.path).read())
    assert view.budgets[0].spent == alone
    assert view.runs[0].epsilon == pytest.approx(alone, rel=2e-3)


def test_a_ledger_without_a_secure_sum_is_told_to_have_none(house: House) -> None:
    text = page(house.folder)
    assert "5 releases of its own: the server sees each, with its noise" in text
    assert "<dt>Joint</dt>" not in text
    found = house.verify()
    assert found.spent[0].joint == found.spent[0].alone == found.spent[0].pld
    assert found.sums.colluders is None


def test_an_explanation_and_a_forecast_go_by_the_figure_that_binds(secure_house: House) -> None:
    contents = read_contents(secure_house.stored())
    joint, alone = _spent(secure_house)
    made = explain_ledger(contents)
    assert made.epsilon == joint
    text = paragraph(made)
    assert "The attacker is the server and 1 other organisation at most, together" in text
    assert f"against all others together epsilon is {epsilon_text(alone)}" in text
    sigma = secure_house.plan.step.noise_multiplier
    ahead = forecast(contents)
    assert ahead.setting.noise_multiplier == sigma
    assert f"epsilon {epsilon_text(joint)} (joint) of 1" in shown(print_forecast, ahead)
    amended(secure_house, binds="alone")
    contents = read_contents(secure_house.stored())
    assert explain_ledger(contents).epsilon == alone
    assert "The attacker sees everything that left" in paragraph(explain_ledger(contents))
    part = forecast(contents).setting.noise_multiplier
    assert part == pytest.approx(sigma * 0.408248290463863, rel=1e-12)


def _spent(house: House) -> tuple[float, float]:
    (spent,) = house.verify().spent
    return spent.joint, spent.alone
