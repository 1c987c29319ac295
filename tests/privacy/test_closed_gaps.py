"""Ways around the ledger, the plan and the card that were open once."""

import dataclasses
import json
import math
import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.agent import Agent
from client.checks import verify_gradients
from client.ledger import Ledger
from client.resources import Resources
from shared.accounting import Event
from shared.entries import Intent
from shared.errors import ModelError, PrivacyError, RefusedError
from shared.messages import Request
from shared.plan import Mechanism, PrivacyPlan
from shared.policy import Policy

OpenAgent = Callable[..., AbstractContextManager[Agent]]


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT OR REPLACE INTO records SELECT sequence, kind, request, '{}', '', '' "
        "FROM records WHERE kind = 'intent'",
        "REPLACE INTO records (kind, request, record, sha256, signature) "
        "SELECT kind, request, '{}', '', '' FROM records WHERE kind = 'intent'",
    ],
)
def test_a_record_cannot_be_replaced(
    tmp_path: Path,
    plan: PrivacyPlan,
    make_policy: Callable[..., Policy],
    open_ledger: Callable[..., Ledger],
    intend: Callable[..., Intent],
    statement: str,
) -> None:
    with open_ledger(tmp_path, make_policy()) as ledger:
        ledger.reserve("run/1/step", intend(plan.mechanism("step"), plan), plan)
        before = ledger.events()
        with (
            closing(sqlite3.connect(ledger.path)) as other,
            pytest.raises(sqlite3.IntegrityError, match="append-only"),
        ):
            other.execute(statement)
        assert ledger.events() == before


BAD_FIELDS = [
    ("steps", -1),
    ("steps", math.inf),
    ("steps", 2.7),
    ("steps", True),
    ("delta", math.nan),
    ("delta", -1.0),
    ("delta", 10**400),
    ("epsilon", math.nan),
    ("epsilon", -1.0),
]


@pytest.mark.parametrize(("field", "bad"), BAD_FIELDS)
def test_a_plan_with_a_bad_field_is_refused(plan: PrivacyPlan, field: str, bad: Any) -> None:
    text = json.dumps(json.loads(plan.to_json()) | {field: bad})
    with pytest.raises(PrivacyError):
        PrivacyPlan.from_json(text)


@pytest.mark.parametrize(
    ("field", "bad"), [("noise_multiplier", 10**400), ("name", 3), ("name", "popularity")]
)
def test_a_plan_with_a_bad_mechanism_is_refused(plan: PrivacyPlan, field: str, bad: Any) -> None:
    value = json.loads(plan.to_json())
    value["step"][field] = bad
    with pytest.raises(PrivacyError):
        PrivacyPlan.from_json(json.dumps(value))


def test_a_plan_nested_too_deeply_is_refused() -> None:
    with pytest.raises(PrivacyError):
        PrivacyPlan.from_json("[" * 100_000)


def test_a_negative_count_is_refused_before_it_cancels_a_cost() -> None:
    with pytest.raises(PrivacyError, match="below 0"):
        Event(1.0, 1.0, -99)


@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_noise_too_small_for_a_float_is_refused_with_a_sentence(
    open_agent: OpenAgent, plan: PrivacyPlan, rate: float
) -> None:
    hostile = dataclasses.replace(plan, popularity=Mechanism("popularity", rate, 1e-200, 1.0))
    with open_agent() as agent:
        with pytest.raises(PrivacyError):
            agent.popularity(Request("run", 0, hostile, "", {}))
        assert agent.ledger.events() == ()


def test_an_answer_whose_record_a_crash_prevented_is_entered_before_it_is_sent_again(
    open_agent: OpenAgent, plan: PrivacyPlan
) -> None:
    def crash(*_: object) -> None:
        raise OSError("disk")

    request = Request("run", 0, plan, "", {})
    with open_agent() as agent:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Ledger, "record_release", crash)
            with pytest.raises(OSError, match="disk"):
                agent.popularity(request)
        agent.popularity(request)
        assert agent.ledger.release_of("run/0/popularity") == agent.ledger.releases()[0]
        assert sum(event.count for event in agent.ledger.events()) == 1


@pytest.mark.parametrize("claimed", [0.01, None])
def test_the_card_states_what_the_ledger_says_not_what_the_server_claims(
    open_agent: OpenAgent, plan: PrivacyPlan, adapter: Any, claimed: float | None
) -> None:
    with open_agent() as agent:
        agent.popularity(Request("run", 0, plan, "", {}))
        arrays = dict(adapter) | {"reliability": np.array([1.0], dtype=np.float32)}
        claim = dataclasses.replace(plan, epsilon=claimed)
        agent.deliver_adapter(Request("run", 1, claim, "model-of-the-test", arrays))
        card = (agent.directory / "delivered" / "adapter" / "README.md").read_text()
        assert f"epsilon {math.ceil(agent.ledger.spent() * 1000) / 1000:g} " in card


def test_a_policy_without_budget_takes_no_plan_that_claims_noise(
    open_agent: OpenAgent, plan: PrivacyPlan
) -> None:
    hostile = dataclasses.replace(plan, popularity=Mechanism("popularity", 1.0, 0.0, 1.0))
    with (
        open_agent(epsilon=None, noise="none") as agent,
        pytest.raises(RefusedError, match=r"\[mechanism.noise\]"),
    ):
        agent.popularity(Request("run", 0, hostile, "", {}))


def test_a_model_whose_hooks_are_missing_is_refused(resources: Resources) -> None:
    resources.trainable.wrapped.disable_hooks()
    with pytest.raises(ModelError, match="no per-user gradients"):
        verify_gradients(resources.trainable)
