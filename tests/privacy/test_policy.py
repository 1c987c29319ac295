"""A policy is read whole or refused with the key at fault, and has one exact form on record."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from client.budget import BudgetJudge
from client.directory import experiment_policy
from client.policy_cli import policy_app
from client.releases import Identity
from shared.config import parse_config
from shared.entries import Intent, Opening, exact
from shared.errors import ConfigError, PrivacyError
from shared.judge import Past
from shared.plan import PrivacyPlan, make_plan
from shared.policy import Policy
from shared.sections import to_toml
from shared.words import thousandths_text

MakePolicy = Callable[..., Policy]

SERVER = "5e" * 32
BARE = '[organisation]\nname = "house"\ndeclared_users = 20\n[budget]\nepsilon = 2\ndelta = 0.001\n'


def written(folder: Path, text: str) -> Path:
    path = folder / "policy.toml"
    path.write_text(text)
    return path


def sentence(folder: Path, text: str) -> str:
    """What is said of a policy that cannot be used."""
    path = written(folder, text)
    with pytest.raises(PrivacyError) as caught:
        Policy.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


def test_a_policy_of_who_and_how_much_is_enough_and_the_rest_is_strict(tmp_path: Path) -> None:
    policy = Policy.load(written(tmp_path, BARE))
    assert policy.mechanism.noise == "own"
    assert policy.mechanism.least_noise_multiplier > 0.0
    assert policy.mechanism.least_noise_share == 1.0
    assert not policy.mechanism.allow_repeatable_noise


def test_a_written_policy_reads_back_equal_with_every_rule_explained(
    tmp_path: Path, make_policy: MakePolicy
) -> None:
    policy = make_policy(
        3.3,
        model={"allowed_bases": ("ab" * 32,)},
        federations={"allowed": (SERVER,)},
        egress={"releases": ("step",)},
    )
    text = to_toml(policy)
    assert Policy.load(written(tmp_path, text)) == policy
    for section in policy.to_record().values():
        for rule in section:
            (line,) = [part for part in text.splitlines() if part.startswith(f"{rule} = ")]
            assert " # " in line


def test_a_policy_without_budget_reads_back_equal(tmp_path: Path, make_policy: MakePolicy) -> None:
    policy = make_policy(None, mechanism={"noise": "none"})
    assert Policy.load(written(tmp_path, to_toml(policy))) == policy


@pytest.mark.parametrize(
    ("line", "nearest"),
    [
        ("[budget]\nepsilonn = 3", "budget.epsilon"),
        ("[mechanism]\nleast_noise = 1.0", "mechanism.least_noise_share"),
        ("[mechanism]\nmost_steps_a_round = 1", "mechanism.most_steps_per_round"),
        ("[budgett]\nepsilon = 3", "[budget]"),
        ("[egress]\nallowed = []", "federations.allowed"),
    ],
)
def test_an_unknown_rule_names_the_nearest_one(tmp_path: Path, line: str, nearest: str) -> None:
    section, rest = line.split("\n")
    text = BARE.replace(section, line) if section in BARE else f"{BARE}{section}\n{rest}\n"
    assert f"did you mean {nearest}?" in sentence(tmp_path, text)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("delta = 0.001", "delta = 0.0501", "1 / declared_users"),
        ("delta = 0.001", "delta = 9e-13", "budget.delta"),
        ("delta = 0.001", "delta = 0", "budget.delta"),
        ("delta = 0.001", "delta = nan", "budget.delta"),
        ("delta = 0.001", "", "budget.delta"),
        ("epsilon = 2", "epsilon = 0", "budget.epsilon"),
        ("epsilon = 2", "epsilon = 51", "budget.epsilon"),
        ("epsilon = 2", "epsilon = inf", "budget.epsilon"),
        ("epsilon = 2", "epsilon = nan", "budget.epsilon"),
        ("epsilon = 2", "", "budget.epsilon is left out exactly where"),
        ("declared_users = 20", "declared_users = 0", "organisation.declared_users"),
        ("declared_users = 20", "", "organisation.declared_users"),
        ('name = "house"', 'name = ""', "organisation.name"),
    ],
)
def test_a_figure_that_cannot_be_names_its_rule(
    tmp_path: Path, old: str, new: str, words: str
) -> None:
    assert words in sentence(tmp_path, BARE.replace(old, new))


def test_delta_may_be_one_over_the_declared_users_and_no_more(make_policy: MakePolicy) -> None:
    assert make_policy(budget={"delta": 1 / 20}).budget.delta == 0.05
    with pytest.raises(PrivacyError, match="more than 1 / declared_users"):
        make_policy(budget={"delta": math.nextafter(0.05, 1.0)})


def test_a_budget_without_noise_and_noise_without_a_budget_are_refused(
    make_policy: MakePolicy,
) -> None:
    for epsilon, noise in ((8.0, "none"), (None, "own"), (None, "shared")):
        with pytest.raises(PrivacyError, match="left out exactly where"):
            make_policy(epsilon, mechanism={"noise": noise})


def test_a_budget_for_each_federation_needs_their_keys(make_policy: MakePolicy) -> None:
    with pytest.raises(PrivacyError, match="any server could open a budget of its own"):
        make_policy(budget={"shared_by_federations": False})
    listed = make_policy(
        budget={"shared_by_federations": False}, federations={"allowed": (SERVER,)}
    )
    assert not listed.budget.shared_by_federations


@pytest.mark.parametrize("key", ["", "5E" * 32, "5e" * 31, "5e" * 33, "no key"])
def test_a_key_or_hash_of_another_form_is_refused(make_policy: MakePolicy, key: str) -> None:
    for section, rule in (("federations", "allowed"), ("model", "allowed_bases")):
        with pytest.raises(PrivacyError, match=f"{section}.{rule}"):
            make_policy(**{section: {rule: (key,)}})


@pytest.mark.parametrize("text", ["[budget\n", "\ufeff[", "epsilon ="])
def test_a_file_that_is_no_toml_is_refused(tmp_path: Path, text: str) -> None:
    assert "not TOML" in sentence(tmp_path, text)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PrivacyError, match=r"policy\.toml: cannot be read"):
        Policy.load(tmp_path / "policy.toml")


@given(epsilon=st.floats(1e-300, 50.0), delta=st.floats(1e-12, 0.05), sigma=st.floats(0.0, 1e300))
def test_a_recorded_policy_keeps_every_bit(
    make_policy: MakePolicy, epsilon: float, delta: float, sigma: float
) -> None:
    policy = make_policy(
        epsilon, budget={"delta": delta}, mechanism={"least_noise_multiplier": sigma}
    )
    stored = json.loads(json.dumps(policy.to_record()))
    again = Policy.from_record(stored)
    assert again == policy
    assert again.sha256 == policy.sha256
    assert float(stored["budget"]["epsilon"]) == epsilon


@pytest.mark.parametrize(
    ("section", "rule", "value"),
    [
        ("budget", "epsilon", 8.0),
        ("budget", "epsilon", "8"),
        ("budget", "epsilon", "8.00"),
        ("budget", "delta", "1e-4"),
        ("organisation", "declared_users", "20"),
        ("organisation", "surprise", 1),
    ],
)
def test_a_recorded_policy_in_another_form_is_refused(
    make_policy: MakePolicy, section: str, rule: str, value: Any
) -> None:
    record = make_policy().to_record()
    record[section][rule] = value
    with pytest.raises(PrivacyError, match="the recorded policy"):
        Policy.from_record(record)


def test_every_rule_is_in_the_hash_and_in_the_difference(make_policy: MakePolicy) -> None:
    policy = make_policy()
    others = [
        (make_policy(7.5), "budget.epsilon is 7.5, was 8.0"),
        (make_policy(organisation={"name": "home"}), "organisation.name is home, was house"),
        (
            make_policy(mechanism={"most_steps_per_run": 4}),
            "mechanism.most_steps_per_run is 4, was 3",
        ),
        (make_policy(model={"greatest_rank": 8}), "model.greatest_rank is 8, was 64"),
        (make_policy(egress={"fields": ("name",)}), "egress.fields is"),
    ]
    assert len({other.sha256 for other, _ in others} | {policy.sha256}) == 1 + len(others)
    assert policy.differences(policy) == ""
    for other, words in others:
        assert words in other.differences(policy)
        assert ";" not in other.differences(policy)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_an_exact_number_reads_back_the_same(value: float) -> None:
    text = exact(value)
    assert isinstance(text, str)
    assert math.copysign(1.0, float(text)) == math.copysign(1.0, value)
    assert float(text) == value


def run_policy(*arguments: str) -> Result:
    return CliRunner().invoke(policy_app, list(arguments))


def test_a_template_of_a_secure_sum_fits_the_plan_of_as_many_organisations(
    tmp_path: Path, roster: tuple[str, ...], secure_plan: PrivacyPlan
) -> None:
    members = [part for key in roster for part in ("--member", key.upper())]
    named = ["template", "--name", "house", "--users", "20"]
    given_ = [*named, "--delta", "1e-4", "--aggregation", "secure", "--organisations", "8"]
    done = run_policy(*given_, *members)
    assert done.exit_code == 0
    path = written(tmp_path, done.output)
    policy = Policy.load(path)
    assert policy.mechanism.noise == "shared"
    assert policy.mechanism.distribution == ("discrete",)
    assert policy.mechanism.least_noise_share == secure_plan.mechanism("step").noise_share
    trust = policy.trust
    assert (trust.binds, trust.colluders, trust.least_participants) == ("joint", 1, 7)
    assert trust.members == roster
    assert not trust.simulated_sum
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"plan": secure_plan.to_json()}))
    checked = run_policy("check", str(path), "--plan", str(plan))
    assert checked.exit_code == 0
    text = " ".join(checked.output.split())
    assert "Nothing in the policy forbids it" in text
    assert "joint, which the budget counts: 8.000 when all of it has run" in text
    alone = thousandths_text(secure_plan.spent(binds="alone"))
    assert f"alone: {alone} when all of it has run, if everybody else" in text


def test_a_secure_plan_is_refused_under_a_policy_that_counts_alone_or_names_nobody(
    tmp_path: Path, make_secure_policy: MakePolicy, secure_plan: PrivacyPlan
) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"plan": secure_plan.to_json()}))
    path = written(tmp_path, to_toml(make_secure_policy(binds="alone")))
    checked = run_policy("check", str(path), "--plan", str(plan))
    assert checked.exit_code == 1
    assert "refused budget.epsilon" in checked.output
    assert "alone, which the budget counts" in " ".join(checked.output.split())
    path = written(tmp_path, to_toml(make_secure_policy(members=())))
    checked = run_policy("check", str(path), "--plan", str(plan))
    assert checked.exit_code == 1
    assert "refused trust.members" in checked.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--aggregation", "secure"], "needs --organisations"),
        (["--aggregation", "secure", "--organisations", "2"], "needs 3 or more"),
        (["--aggregation", "secure", "--organisations", "3", "--colluders", "3"], "too few"),
        (["--aggregation", "secure", "--organisations", "8", "--member", "ab" * 32], "1 key given"),
        (["--organisations", "8"], "give that too"),
        (["--member", "ab" * 32], "give that too"),
    ],
)
def test_a_template_of_no_secure_sum_says_why(arguments: list[str], words: str) -> None:
    done = run_policy("template", "--name", "house", "--users", "20", *arguments)
    assert isinstance(done.exception, ConfigError | PrivacyError)
    assert words in str(done.exception)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('binds = "neither"', "trust.binds"),
        ("least_participants = 2", "trust.least_participants"),
        ("colluders = -1", "trust.colluders"),
        ('members = ["ab"]', "trust.members"),
    ],
)
def test_a_rule_of_trust_that_cannot_be_names_itself(tmp_path: Path, line: str, words: str) -> None:
    assert words in sentence(tmp_path, f"{BARE}[trust]\n{line}\n")


@pytest.mark.parametrize(
    ("aggregation", "privacy", "share", "trust"),
    [
        ("secure", {}, 6**-0.5, ("joint", 7, False)),
        ("secure", {"noise": "own"}, 1.0, ("alone", 7, False)),
        ("plain", {}, 1.0, ("alone", 3, False)),
        ("plain", {"noise": "shared"}, 8**-0.5, ("joint", 3, True)),
    ],
)
def test_an_experiments_policy_allows_the_runs_own_plan_and_no_less_noise(
    aggregation: str, privacy: dict[str, Any], share: float, trust: tuple[str, int, bool]
) -> None:
    config = parse_config(
        {
            "privacy": {"delta": 1e-3} | privacy,
            "aggregation": {"mode": aggregation},
            "partition": {"organisations": 8},
            "training": {"rounds": 2},
        },
        "test",
    )
    policy = experiment_policy(config, Identity("house", 0, 100), 800)
    assert policy.mechanism.least_noise_share == share
    rules = policy.trust
    assert (rules.binds, rules.least_participants, rules.simulated_sum) == trust
    plan = make_plan(config, 800, 8)
    past = Past()
    past.opening = Opening("", {}, "", "user", "add or remove one user", "", "experiment")
    judge = BudgetJudge(policy, past)
    intents = [
        Intent.of(
            mechanism,
            plan,
            1,
            run="run",
            round=0,
            federation="",
            participants=(),
            secret_randomness=True,
            adapter_before="",
            policy=policy.sha256,
            population="",
            code="",
            canaries=0,
        )
        for mechanism in plan.mechanisms
    ]
    assert judge.judged(intents, plan, "2026-05-01T12:00:00+00:00", proposed=True) == []
    less = [dataclasses.replace(i, noise_share=0.99 * i.noise_share) for i in intents]
    found = judge.judged(less, plan, "2026-05-01T12:00:00+00:00", proposed=True)
    assert "mechanism.least_noise_share" in {refusal.rule for refusal in found}


def test_an_experiment_in_which_all_collude_is_refused() -> None:
    config = parse_config(
        {"aggregation": {"colluders": 8}, "partition": {"organisations": 8}}, "test"
    )
    with pytest.raises(PrivacyError, match="too few would have to agree"):
        experiment_policy(config, Identity("house", 0, 100), 800)
