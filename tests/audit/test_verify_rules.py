"""What the real key has signed and the rules forbid is found, and named with its record."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from client.ledger import Ledger
from shared.accounting import Event, epsilon_checked
from shared.chain import Fault, countersign
from shared.entries import Amendment, Opening, to_body
from shared.keys import SigningKey

House = Any
Places = Callable[[Sequence[Fault], str], list[int]]


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"noise_multiplier": 0.39}, "mechanism.least_noise_multiplier"),
        ({"noise_multiplier": 0.0}, "mechanism.least_noise_multiplier"),
        ({"noise_share": 0.5}, "mechanism.least_noise_share"),
        ({"sensitivity": 1.5}, "mechanism.greatest_clipping_norm"),
        ({"count": 101}, "mechanism.most_steps_per_round"),
        ({"noise": "none"}, "mechanism.noise"),
        ({"noise": "shared"}, "mechanism.noise"),
        ({"noise": "shared"}, "trust.simulated_sum"),
        ({"secret_randomness": False}, "mechanism.allow_repeatable_noise"),
        ({"mechanism": "popularity", "sensitivity": 2.0}, "mechanism.sensitivity"),
    ],
)
def test_an_intent_that_the_policy_forbids_is_found(
    house: House, places: Places, changes: dict[str, Any], rule: str
) -> None:
    number = house.append("intent", "r/4/step", house.intent("step", 4, **changes))
    assert places(house.verify().faults, f"[{rule}]") == [number]


@pytest.mark.parametrize(
    "changes",
    [
        {"noise_multiplier": math.nan},
        {"noise_multiplier": math.inf},
        {"noise_multiplier": -1.0},
        {"sampling_rate": 0.0},
        {"sampling_rate": 1.5},
        {"sampling_rate": math.nan},
        {"noise_share": 0.0},
        {"count": 0},
        {"count": -5},
        {"count": 10**400},
        {"mechanism": "gossip"},
        {"distribution": "uniform"},
        {"aggregation": "hidden"},
        {"aggregation": "secure"},
    ],
)
def test_an_intent_that_nobody_can_account_is_found_and_no_epsilon_is_stated(
    house: House, places: Places, changes: dict[str, Any]
) -> None:
    number = house.append("intent", "r/4/step", house.intent("step", 4, **changes))
    found = house.verify()
    assert places(found.faults, "cannot be accounted") == [number]
    assert places(found.faults, "epsilon cannot be stated") == [0]
    assert not found.spent


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("noise_multiplier", "1e400"),
        ("noise_multiplier", "3.50"),
        ("noise_multiplier", 3.5),
        ("count", 1),
        ("count", "01"),
        ("round", "1"),
        ("secret_randomness", 1),
        ("run", 7),
        ("surplus", "x"),
    ],
)
def test_an_intent_in_another_form_is_found_and_no_epsilon_is_stated(
    house: House, places: Places, field: str, value: Any
) -> None:
    body = {**to_body(house.intent("step", 4)), field: value}
    number = house.append("intent", "r/4/step", body)
    found = house.verify()
    assert places(found.faults, "not a whole intent") == [number]
    assert not found.spent


def test_the_intent_that_passes_the_budget_is_named(house: House, places: Places) -> None:
    cheap = house.intent("step", 4, noise_multiplier=1e6)
    dear = house.intent("step", 5, noise_multiplier=1.0)
    house.append("intent", "r/4/step", cheap)
    number = house.append("intent", "r/5/step", dear)
    house.append("intent", "r/6/step", dataclasses.replace(cheap, round=6))
    assert places(house.verify().faults, "the budget in force was 1") == [number]


def test_a_budget_that_was_raised_does_not_excuse_what_went_before(
    house: House, places: Places
) -> None:
    number = house.append("intent", "r/5/step", house.intent("step", 5, noise_multiplier=1.0))
    amend(house, epsilon=5.0)
    assert places(house.verify().faults, "the budget in force was 1") == [number]


def test_a_budget_that_was_lowered_later_is_no_fault(house: House) -> None:
    amend(house, epsilon=0.5)
    assert not house.verify().faults


def test_a_raised_budget_allows_more(house: House) -> None:
    policy = amend(house, epsilon=5.0)
    intent = house.intent("step", 5, noise_multiplier=1.0, policy=policy.sha256)
    house.append("intent", "r/5/step", intent)
    assert not house.verify().faults


def test_budgets_of_their_own_count_each_federation_alone(house: House, places: Places) -> None:
    one, two = "11" * 32, "22" * 32
    policy = amend(house, shared_by_federations=False, allowed=(one, two))
    for number, server in enumerate((one, two)):
        for round_number in range(2):
            intent = house.intent(
                "step",
                round_number,
                run=f"s{number}",
                noise_multiplier=4.0,
                federation=server,
                policy=policy.sha256,
            )
            last = house.append("intent", f"s{number}/{round_number}/step", intent)
    found = house.verify()
    assert not found.faults
    whole, nobody, *each = found.spent
    assert (whole.federation, nobody.federation) == (None, "")
    assert [s.federation for s in each] == [one, two]
    assert each[0].pld == epsilon_checked([Event(1.0, 4.0, 2)], 5e-4) < whole.pld
    assert whole.pld > 1.0
    intent = house.intent("step", 9, "s1", noise_multiplier=4.0, federation=two)
    house.append("intent", "s1/9/step", dataclasses.replace(intent, policy=policy.sha256))
    assert places(house.verify().faults, "of federation 222222222222") == [last + 1]


def test_a_server_that_the_policy_does_not_name_is_found(house: House, places: Places) -> None:
    policy = amend(house, allowed=("11" * 32,))
    intent = house.intent("step", 4, federation="33" * 32, policy=policy.sha256)
    number = house.append("intent", "r/4/step", intent)
    assert places(house.verify().faults, "[federations.allowed]") == [number]


def test_an_intent_under_another_policy_than_the_one_in_force_is_found(
    house: House, places: Places
) -> None:
    amend(house, epsilon=9.0)
    intent = house.intent("step", 4, noise_multiplier=1e5)
    number = house.append("intent", "r/4/step", intent)
    assert places(house.verify().faults, "another policy than the one in force") == [number]


def test_a_policy_that_is_not_the_one_its_hash_names_is_found(house: House, places: Places) -> None:
    number = house.append("policy", None, Amendment(house.policy.to_record(), "00" * 32))
    assert places(house.verify().faults, "not that of the policy") == [number]


def test_a_policy_that_cannot_be_read_is_found_and_allows_nothing(
    house: House, places: Places
) -> None:
    number = house.append("policy", None, Amendment({"budget": {}}, "00" * 32))
    house.append("intent", "r/4/step", house.intent("step", 4, noise_multiplier=1e5))
    faults = house.verify().faults
    assert number in places(faults, "the recorded policy")
    assert places(faults, "no policy that can be read") == [number + 1]


def test_a_second_opening_is_found(house: House, places: Places) -> None:
    number = house.append("open", None, dict(house.record(1).body))
    assert places(house.verify().faults, "opens once") == [number]


@pytest.mark.parametrize(
    "change",
    [{"unit": "interaction"}, {"adjacency": "replace one user"}, {"purpose": "marketing"}],
)
def test_another_promise_than_is_accounted_is_found(
    house: House, change: dict[str, Any], places: Places
) -> None:
    body = {**house.record(1).body, **change}
    house.rewrite([dataclasses.replace(house.record(1), body=body)], house.key)
    faults = house.verify().faults
    assert 1 in places(faults, "purpose") + places(faults, "promises")


def test_a_second_intent_of_a_request_is_found(house: House, places: Places) -> None:
    first = house.number_of("intent", "r/1/step")
    number = house.append("intent", "r/1/step", house.intent("step", 1))
    assert places(house.verify().faults, f"has an intent already, record {first}") == [number]


def test_a_run_that_changes_its_plan_is_found(house: House, places: Places) -> None:
    number = house.append("intent", "r/4/step", house.intent("step", 4, plan="00" * 32))
    assert places(house.verify().faults, "began under another plan") == [number]


def test_a_release_without_an_intent_is_found(
    house: House, places: Places, make_release: Callable[..., Any]
) -> None:
    number = house.append("release", "r/7/step", make_release("step", 0))
    assert places(house.verify().faults, "without an intent of its own") == [number]


def test_a_release_on_the_intent_of_another_request_is_found(
    house: House, places: Places, make_release: Callable[..., Any]
) -> None:
    other = house.number_of("intent", "r/1/step")
    number = house.append("release", "r/7/step", make_release("step", other))
    assert places(house.verify().faults, "without an intent of its own") == [number]


def test_a_release_that_names_another_record_than_its_intent_is_found(
    house: House, places: Places, make_release: Callable[..., Any]
) -> None:
    other = house.number_of("intent", "r/1/step")
    house.append("intent", "r/7/step", house.intent("step", 7, noise_multiplier=1e6))
    number = house.append("release", "r/7/step", make_release("step", other))
    assert places(house.verify().faults, "without an intent of its own") == [number]


def test_a_release_before_its_intent_is_found(
    house: House, places: Places, make_release: Callable[..., Any]
) -> None:
    number = house.append("release", "r/7/step", make_release("step", 20))
    house.append("intent", "r/7/step", house.intent("step", 7, noise_multiplier=1e5))
    assert places(house.verify().faults, "without an intent of its own") == [number]


def test_a_release_by_another_mechanism_than_its_intent_is_found(
    house: House, places: Places, make_release: Callable[..., Any]
) -> None:
    intent = house.append("intent", "r/7/x", house.intent("step", 7, noise_multiplier=1e5))
    number = house.append("release", "r/7/x", make_release("evaluation", intent))
    assert places(house.verify().faults, "is for step") == [number]


def test_a_second_answer_to_a_request_is_found(
    house: House, places: Places, make_release: Callable[..., Any]
) -> None:
    intent = house.number_of("intent", "r/1/step")
    number = house.append("release", "r/1/step", make_release("step", intent, "ef"))
    assert places(house.verify().faults, "answered before with other arrays") == [number]


def test_the_same_answer_again_is_no_fault(house: House, make_release: Callable[..., Any]) -> None:
    intent = house.number_of("intent", "r/1/step")
    house.append("release", "r/1/step", make_release("step", intent))
    assert not house.verify().faults


def test_arrays_among_public_fields_are_found(
    house: House, places: Places, make_release: Callable[..., Any]
) -> None:
    release = dataclasses.replace(make_release("none", 0), arrays=("users int64 [9]",))
    number = house.append("release", "r/7/join", release)
    assert places(house.verify().faults, "no mechanism made") == [number]


def test_a_field_that_the_policy_keeps_is_found(
    house: House, places: Places, make_release: Callable[..., Any]
) -> None:
    release = dataclasses.replace(make_release("none", 0), fields=("name", "loss"))
    number = house.append("release", "r/7/join", release)
    assert places(house.verify().faults, "[egress.fields] loss") == [number]


def test_an_intent_without_a_release_is_a_notice(house: House, places: Places) -> None:
    number = house.append("intent", "r/4/step", house.intent("step", 4, noise_multiplier=1e6))
    found = house.verify()
    assert not found.faults
    assert places(found.notices, "spent, nothing left: interrupted") == [number]


def test_an_entry_without_a_request_is_found(house: House, places: Places) -> None:
    number = house.append("intent", None, house.intent("step", 4, noise_multiplier=1e6))
    assert places(house.verify().faults, "names no request") == [number]


def test_a_kind_that_nobody_knows_is_found(house: House, places: Places) -> None:
    number = house.append("gift", "r/4/step", {})
    assert places(house.verify().faults, "no kind of entry") == [number]


def test_an_anchor_that_is_forged_is_found(
    house: House, places: Places, stranger: SigningKey
) -> None:
    body = dict(house.record(house.number_of("anchor")).body)
    number = house.append("anchor", None, {**body, "server_key": stranger.public})
    assert places(house.verify().faults, "signature does not fit") == [number]


@pytest.mark.parametrize("change", [{"sequence": 2}, {"sequence": 40}, {"sha256": "00" * 32}])
def test_an_anchor_for_a_record_that_is_not_before_it_is_found(
    house: House, places: Places, change: dict[str, Any]
) -> None:
    with house.open() as ledger:
        head = dataclasses.replace(ledger.head())
    anchor = countersign(head, "r", house.server)
    unsigned = dataclasses.replace(anchor, **change)
    signed = _signed_anchor(unsigned, house.server)
    number = house.append("anchor", None, dataclasses.asdict(signed))
    assert places(house.verify().faults, "not among the records before") == [number]


def test_a_clock_that_was_set_back_is_a_notice(house: House, places: Places) -> None:
    house.rewrite(
        [
            dataclasses.replace(house.record(1), at="2030-01-01T00:00:00.000+00:00"),
            house.record(2),
        ],
        house.key,
    )
    (house.folder / "anchors.json").unlink()
    found = house.verify()
    assert not found.faults
    assert places(found.notices, "clock was set") == [2]


@pytest.mark.parametrize(
    "at", ["yesterday", "2030-01-01", "2030-01-01T00:00:00.000", "0001-01-01T00:00:00.000+00:00"]
)
def test_a_time_that_is_none_is_found(house: House, places: Places, at: str) -> None:
    records = [house.record(n) for n in range(1, 5)]
    records[3] = dataclasses.replace(records[3], at=at)
    house.rewrite(records, house.key)
    assert places(house.verify().faults, "is none in UTC") == [4]


@pytest.mark.parametrize(
    ("rules", "changes", "words"),
    [
        ({"noise": "own", "allow_repeatable_noise": True}, {"secret_randomness": False}, "seed"),
        (
            {"noise": "shared", "least_noise_share": 0.1, "trust": {"simulated_sum": True}},
            {"noise_share": 0.4},
            "part of the noise, and no secure sum hid",
        ),
    ],
)
def test_what_is_not_private_is_said(
    house: House,
    make_policy: Callable[..., Any],
    rules: dict[str, Any],
    changes: dict[str, Any],
    words: str,
) -> None:
    other = dataclasses.replace(
        house, folder=house.folder.with_name("other"), policy=make_policy(**rules)
    )
    with other.open() as ledger:
        ledger.record_refusal("r/0/step", refusal())
    noise = other.policy.mechanism.noise
    other.append("intent", "r/1/step", other.intent("step", 1, noise=noise, **changes))
    found = other.verify()
    assert not found.faults
    (reason,) = found.not_private
    assert words in reason


def test_a_ledger_without_noise_has_no_epsilon(
    house: House, make_policy: Callable[..., Any]
) -> None:
    policy = make_policy(epsilon=None, noise="none")
    other = dataclasses.replace(house, folder=house.folder.with_name("other"), policy=policy)
    with Ledger(other.path, policy, other.key, "ab" * 32, "experiment") as ledger:
        ledger.record_refusal("r/0/step", refusal())
    other.append("intent", "r/1/step", other.intent("step", 1, noise="none", noise_multiplier=0.0))
    found = other.verify()
    assert not found.faults
    assert "no noise was added" in found.not_private[0]
    assert math.isinf(found.spent[0].pld)
    assert found.as_json()["spent"][0]["pld"] == "inf"


def test_an_experiment_is_said_to_be_one(house: House, places: Places) -> None:
    body = {**house.record(1).body, "purpose": "experiment"}
    house.rewrite([dataclasses.replace(house.record(1), body=body)], house.key)
    assert places(house.verify().notices, "an experiment") == [1]


def test_a_population_that_changed_is_a_notice(house: House, places: Places) -> None:
    intent = house.intent("step", 4, noise_multiplier=1e6, population="ef" * 32)
    number = house.append("intent", "r/4/step", intent)
    assert places(house.verify().notices, "population") == [number]


def test_an_opening_is_what_the_ledger_wrote(house: House) -> None:
    opening = Opening(**{**house.record(1).body})
    assert (opening.unit, opening.adjacency) == ("user", "add or remove one user")


def amend(
    house: House,
    epsilon: float = 1.0,
    shared_by_federations: bool = True,
    allowed: tuple[str, ...] = (),
) -> Any:
    """Put another policy in force, as ``tacit policy amend`` does."""
    record = house.policy.to_record()
    record["budget"]["epsilon"] = repr(epsilon)
    record["budget"]["shared_by_federations"] = shared_by_federations
    record["federations"]["allowed"] = list(allowed)
    policy = type(house.policy).from_record(record)
    house.append("policy", None, Amendment(policy.to_record(), policy.sha256))
    return policy


def refusal() -> Any:
    from shared.entries import Refusal

    return Refusal("plan", "no further step")


def _signed_anchor(anchor: Any, server: SigningKey) -> Any:
    from shared.chain import _anchored

    return dataclasses.replace(anchor, signature=server.sign(_anchored(anchor)))
