"""The ledger keeps what was written, whatever ends the process, and sells no budget twice."""

import dataclasses
import json
import math
import multiprocessing
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from client.ledger import Ledger, policy_in_force
from shared.accounting import Event, calibrate, epsilon_checked
from shared.chain import (
    Anchor,
    Record,
    canonical,
    chain_faults,
    countersign,
    head_faults,
    read_anchors,
    read_sealed,
)
from shared.entries import Intent, Refusal, Release
from shared.errors import PrivacyError, RefusedError
from shared.keys import SigningKey
from shared.plan import Mechanism, Noise, PrivacyPlan
from shared.policy import Policy

Intend = Callable[..., Intent]
MakePolicy = Callable[..., Policy]
OpenLedger = Callable[..., Ledger]

# One release of it fits into the budget, two do not.
MOST_OF_IT = Mechanism("step", 1.0, 0.61, 1.0)

SPEND_AND_DIE = """
import json, os, signal, sys
from pathlib import Path
from client.ledger import Ledger, policy_in_force
from shared.entries import Intent
from shared.keys import SigningKey
from shared.plan import PrivacyPlan
from shared.policy import Policy

directory = Path(sys.argv[1])
plan = PrivacyPlan.from_json(sys.argv[2])
policy = Policy.from_record(json.loads(sys.argv[3]))
key = SigningKey.load_or_create(directory / "keys" / "organisation.pem")
ledger = Ledger(directory / "ledger.sqlite", policy, key, "0" * 64)
ledger.reserve("run/1/step", Intent(**json.loads(sys.argv[4])), plan)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def house(tmp_path: Path) -> Path:
    return tmp_path / "house"


@pytest.fixture
def ledger(house: Path, open_ledger: OpenLedger, make_policy: MakePolicy) -> Iterator[Ledger]:
    with open_ledger(house, make_policy(mechanism=MANY_STEPS)) as opened:
        yield opened


MANY_STEPS = {"most_steps_per_run": 1000}


@pytest.fixture
def one_step(plan: PrivacyPlan) -> PrivacyPlan:
    return dataclasses.replace(plan, popularity=None, cooccurrence=None, step=MOST_OF_IT, steps=1)


def step_of(plan: PrivacyPlan, mechanism: Mechanism) -> PrivacyPlan:
    """A plan of one step of a mechanism and nothing else."""
    return dataclasses.replace(plan, popularity=None, cooccurrence=None, step=mechanism, steps=1)


def _reserve_at_once(
    opened: Callable[[], Ledger], request: str, intent: Intent, plan: PrivacyPlan, barrier: Barrier
) -> None:
    with opened() as ledger:
        barrier.wait(timeout=60)
        try:
            ledger.reserve(request, intent, plan)
        except PrivacyError:
            sys.exit(3)


def test_what_is_reserved_is_spent(ledger: Ledger, plan: PrivacyPlan, intend: Intend) -> None:
    ledger.reserve("run/0/popularity", intend(plan.mechanism("popularity"), plan), plan)
    ledger.reserve("run/1/step", intend(plan.mechanism("step"), plan, 2), plan)
    expected = [plan.mechanism("popularity").event(), plan.mechanism("step").event(2)]
    assert set(ledger.events()) == set(expected)
    assert ledger.spent() == epsilon_checked(expected, 1e-4)


def test_a_plan_can_be_spent_to_its_end_and_no_further(
    ledger: Ledger, plan: PrivacyPlan, one_step: PrivacyPlan, intend: Intend
) -> None:
    for name in ("popularity", "cooccurrence"):
        ledger.reserve(f"run/0/{name}", intend(plan.mechanism(name), plan), plan)
    step = plan.mechanism("step")
    for number in range(plan.steps):
        intent = intend(step, plan, round=number + 1)
        ledger.reserve(f"run/{number + 1}/step", intent, plan)
    assert ledger.spent() == plan.spent()
    with pytest.raises(RefusedError, match=r"\[plan\]"):
        ledger.reserve("run/99/step", intend(step, plan, round=99), plan)
    further = step_of(plan, step)
    with pytest.raises(RefusedError, match=r"\[budget.epsilon\].*the budget is 8"):
        ledger.reserve("more/1/step", intend(step, further, run="more"), further)


def test_a_refused_intent_spends_nothing_and_is_on_record(
    ledger: Ledger, one_step: PrivacyPlan, intend: Intend
) -> None:
    ledger.reserve("first/1/step", intend(MOST_OF_IT, one_step, run="first"), one_step)
    spent = ledger.events()
    with pytest.raises(RefusedError, match="house refuses"):
        ledger.reserve("second/1/step", intend(MOST_OF_IT, one_step, run="second"), one_step)
    assert ledger.events() == spent
    assert [refusal.rule for refusal in ledger.refusals()] == ["budget.epsilon"]


def test_the_runs_of_one_ledger_add_up(ledger: Ledger, plan: PrivacyPlan, intend: Intend) -> None:
    for name in ("popularity", "cooccurrence"):
        intent = intend(plan.mechanism(name), plan, run="spring", round=0)
        ledger.reserve(f"spring/0/{name}", intent, plan)
    again = intend(plan.mechanism("cooccurrence"), plan, run="autumn", round=0)
    with pytest.raises(RefusedError, match=r"\[budget.epsilon\]"):
        ledger.reserve("autumn/0/cooccurrence", again, plan)


def test_a_plan_that_claims_the_event_does_not_excuse_it(
    ledger: Ledger, plan: PrivacyPlan, intend: Intend
) -> None:
    loud = Mechanism("step", 1.0, 0.5, 1.0)
    greedy = dataclasses.replace(plan, step=loud, steps=4)
    with pytest.raises(RefusedError, match=r"\[budget.epsilon\]"):
        ledger.reserve("run/1/step", intend(loud, greedy), greedy)


def test_a_release_without_noise_fits_no_budget(
    ledger: Ledger, plan: PrivacyPlan, intend: Intend
) -> None:
    silent = Mechanism("step", 1.0, 0.0, 1.0)
    bare = step_of(plan, silent)
    with pytest.raises(RefusedError, match=r"\[mechanism.least_noise_multiplier\]"):
        ledger.reserve("run/1/step", intend(silent, bare), bare)
    assert ledger.events() == ()


def test_a_second_intent_of_a_request_is_refused(
    ledger: Ledger, plan: PrivacyPlan, intend: Intend
) -> None:
    intent = intend(plan.mechanism("step"), plan)
    ledger.reserve("run/1/step", intent, plan)
    with pytest.raises(RefusedError, match="run/1/step"):
        ledger.reserve("run/1/step", intent, plan)
    assert ledger.events() == (plan.mechanism("step").event(),)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE records SET record = '{}'",
        "UPDATE records SET request = 'other'",
        "UPDATE OR REPLACE records SET kind = 'open'",
        "UPDATE records SET sequence = sequence + 10",
        "DELETE FROM records",
        "DELETE FROM records WHERE kind = 'intent'",
    ],
)
def test_records_can_neither_be_changed_nor_removed(
    ledger: Ledger, plan: PrivacyPlan, intend: Intend, statement: str
) -> None:
    ledger.reserve("run/1/step", intend(plan.mechanism("step"), plan), plan)
    with (
        closing(sqlite3.connect(ledger.path)) as stranger,
        pytest.raises(sqlite3.IntegrityError, match="append-only"),
    ):
        stranger.execute(statement)
    assert ledger.events() == (plan.mechanism("step").event(),)


def test_records_are_flushed_before_the_call_returns(ledger: Ledger) -> None:
    full = 2
    assert ledger._connection.execute("PRAGMA synchronous").fetchone() == (full,)


def test_an_intent_survives_a_kill_before_its_release(
    house: Path,
    open_ledger: OpenLedger,
    make_policy: MakePolicy,
    plan: PrivacyPlan,
    intend: Intend,
) -> None:
    policy, intent = make_policy(), intend(plan.mechanism("step"), plan)
    arguments = [
        str(house),
        plan.to_json(),
        json.dumps(policy.to_record()),
        json.dumps(dataclasses.asdict(intent)),
    ]
    died = subprocess.run(
        [sys.executable, "-c", SPEND_AND_DIE, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert died.returncode == -signal.SIGKILL, died.stderr
    with open_ledger(house, policy) as ledger:
        assert ledger.events() == (plan.mechanism("step").event(),)
        assert ledger.releases() == ()
        with pytest.raises(RefusedError, match="already"):
            ledger.reserve("run/1/step", intent, plan)


def test_processes_cannot_both_take_the_last_of_a_budget(
    house: Path,
    open_ledger: OpenLedger,
    make_policy: MakePolicy,
    one_step: PrivacyPlan,
    intend: Intend,
) -> None:
    def opened() -> Ledger:
        return open_ledger(house, make_policy())

    context = multiprocessing.get_context("fork")
    opened().close()
    barrier = context.Barrier(3)
    children = []
    for run in ("a", "b", "c"):
        intent = intend(MOST_OF_IT, one_step, run=run)
        arguments = (opened, f"{run}/1/step", intent, one_step, barrier)
        children.append(context.Process(target=_reserve_at_once, args=arguments))
    for child in children:
        child.start()
    for child in children:
        child.join(timeout=90)
    assert sorted(child.exitcode or 0 for child in children) == [0, 3, 3]
    with opened() as ledger:
        assert ledger.events() == (MOST_OF_IT.event(),)


@pytest.mark.parametrize(
    ("epsilon", "rules", "rule"),
    [
        (9.0, {}, "budget.epsilon is 9.0, was 8.0"),
        (8.0, {"budget": {"delta": 1e-3}}, "budget.delta is 0.001, was 0.0001"),
        (None, {"mechanism": {"noise": "none"}}, "mechanism.noise is none, was own"),
    ],
)
def test_a_ledger_is_not_reopened_under_another_policy(
    house: Path,
    open_ledger: OpenLedger,
    make_policy: MakePolicy,
    epsilon: float | None,
    rules: dict[str, dict[str, object]],
    rule: str,
) -> None:
    open_ledger(house, make_policy()).close()
    with pytest.raises(PrivacyError, match="tacit policy amend") as caught:
        open_ledger(house, make_policy(epsilon, **rules))
    assert rule in str(caught.value)


def test_a_reopened_ledger_remembers(
    house: Path,
    open_ledger: OpenLedger,
    make_policy: MakePolicy,
    plan: PrivacyPlan,
    intend: Intend,
) -> None:
    with open_ledger(house, make_policy()) as first:
        number = first.reserve("run/1/step", intend(plan.mechanism("step"), plan), plan)
        release = Release("step", number, "ab" * 32, 128, ("w float32 [2]",), ("name",))
        first.record_release("run/1/step", release)
    with open_ledger(house, make_policy()) as second:
        assert second.events() == (plan.mechanism("step").event(),)
        assert second.releases() == (release,)


def test_a_file_that_is_no_ledger_is_refused(
    tmp_path: Path, open_ledger: OpenLedger, make_policy: MakePolicy
) -> None:
    (tmp_path / "ledger.sqlite").write_text("user,item,time\n" * 500)
    with pytest.raises(PrivacyError, match="cannot be used as a ledger"):
        open_ledger(tmp_path, make_policy())


def test_noise_from_the_operating_system_is_private(
    ledger: Ledger, plan: PrivacyPlan, intend: Intend
) -> None:
    ledger.reserve("run/1/step", intend(plan.mechanism("step"), plan), plan)
    assert ledger.private()


@pytest.mark.parametrize(("sigma", "secret"), [(0.0, True), (2.0, False)])
def test_one_release_without_secret_noise_ends_privacy_for_good(
    house: Path,
    open_ledger: OpenLedger,
    make_policy: MakePolicy,
    plan: PrivacyPlan,
    intend: Intend,
    sigma: float,
    secret: bool,
) -> None:
    bare = dataclasses.replace(plan, noise=Noise.NONE)
    first = step_of(bare, Mechanism("step", 1.0, sigma, 1.0))
    with open_ledger(house, make_policy(None, mechanism={"noise": "none"})) as ledger:
        intent = intend(first.mechanism("step"), first, run="first", secret_randomness=secret)
        ledger.reserve("first/1/step", intent, first)
        ledger.reserve("run/2/step", intend(bare.mechanism("step"), bare, round=2), bare)
        assert not ledger.private()
        assert math.isinf(ledger.spent()) == (sigma == 0.0)


def countersigned(ledger: Ledger, server: SigningKey) -> Anchor:
    """What a server answers to the ledger's head."""
    return countersign(ledger.head(), "run", server)


@pytest.fixture
def server(tmp_path: Path) -> SigningKey:
    return SigningKey.load_or_create(tmp_path / "server.pem")


@pytest.fixture
def spent_once(
    house: Path,
    open_ledger: OpenLedger,
    make_policy: MakePolicy,
    plan: PrivacyPlan,
    intend: Intend,
    server: SigningKey,
) -> Path:
    """A closed ledger of one intent, whose head a server has seen; a copy of its first record."""
    with open_ledger(house, make_policy()) as ledger:
        ledger._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        shutil.copy(ledger.path, house / "old.sqlite")
        ledger.reserve("run/1/step", intend(plan.mechanism("step"), plan), plan)
        ledger.keep_anchor(countersigned(ledger, server))
    return house


def test_every_record_is_canonical_chained_and_signed(
    house: Path,
    open_ledger: OpenLedger,
    make_policy: MakePolicy,
    spent_once: Path,
    server: SigningKey,
) -> None:
    with open_ledger(house, make_policy()) as ledger:
        ledger.record_refusal("run/2/step", Refusal("rule", "sentence \u2028 \U0001f512"))
        ledger.amend(make_policy(7.0))
        public, head = ledger._key.public, ledger.head()
    stored = read_sealed(house / "ledger.sqlite")
    kinds = [Record.parse(sealed.text).kind for sealed in stored]
    assert kinds == ["open", "intent", "anchor", "refusal", "policy"]
    assert chain_faults(stored, public) == []
    assert head_faults(stored, [head], strict=True) == []
    assert chain_faults(stored, server.public) != []
    assert all(sealed.text == canonical(json.loads(sealed.text)) for sealed in stored)


def test_a_ledger_that_was_rolled_back_is_refused(
    spent_once: Path, open_ledger: OpenLedger, make_policy: MakePolicy
) -> None:
    shutil.copy(spent_once / "old.sqlite", spent_once / "ledger.sqlite")
    with pytest.raises(PrivacyError, match="its end was deleted or rolled back"):
        open_ledger(spent_once, make_policy())


def test_a_ledger_that_was_deleted_is_not_begun_anew(
    spent_once: Path, open_ledger: OpenLedger, make_policy: MakePolicy
) -> None:
    (spent_once / "ledger.sqlite").unlink()
    with pytest.raises(PrivacyError, match="it was deleted"):
        open_ledger(spent_once, make_policy())


def test_another_ledger_in_its_place_is_refused(
    spent_once: Path, tmp_path: Path, open_ledger: OpenLedger, make_policy: MakePolicy
) -> None:
    anchors = (spent_once / "anchors.json").read_text()
    (spent_once / "anchors.json").unlink()
    (spent_once / "ledger.sqlite").unlink()
    open_ledger(spent_once, make_policy()).close()
    (spent_once / "anchors.json").write_text(anchors)
    with pytest.raises(PrivacyError, match="another ledger in its place"):
        open_ledger(spent_once, make_policy())


@pytest.mark.parametrize("text", ["", "[]", "{}x", '{"a": "{}"}', '{"a": 3}'])
def test_anchors_that_cannot_be_read_are_refused(
    spent_once: Path, open_ledger: OpenLedger, make_policy: MakePolicy, text: str
) -> None:
    (spent_once / "anchors.json").write_text(text)
    with pytest.raises(PrivacyError, match="anchor"):
        open_ledger(spent_once, make_policy())


def test_an_anchor_of_a_record_that_is_not_there_stops_the_release(
    house: Path,
    open_ledger: OpenLedger,
    make_policy: MakePolicy,
    plan: PrivacyPlan,
    intend: Intend,
    server: SigningKey,
) -> None:
    with open_ledger(house / "twin", make_policy()) as twin:
        foreign = countersigned(twin, server)
    with open_ledger(house, make_policy()) as ledger:
        own = countersigned(ledger, server)
        ahead = countersign(dataclasses.replace(ledger.head(), sequence=9), "run", server)
        forged = dataclasses.replace(own, at="1970-01-01T00:00:00+00:00")
        for anchor in (foreign, ahead, forged):
            with pytest.raises(PrivacyError, match="not in this ledger"):
                ledger.reserve("run/1/step", intend(plan.mechanism("step"), plan), plan, anchor)
        assert ledger.events() == ()
        ledger.reserve("run/1/step", intend(plan.mechanism("step"), plan), plan, own)
        assert read_anchors(ledger.anchors_path) == {server.public: own}


def test_an_older_anchor_does_not_take_the_place_of_a_newer_one(
    house: Path, open_ledger: OpenLedger, make_policy: MakePolicy, server: SigningKey
) -> None:
    with open_ledger(house, make_policy()) as ledger:
        older = countersigned(ledger, server)
        ledger.record_refusal("a", Refusal("rule", "sentence"))
        newer = countersigned(ledger, server)
        ledger.keep_anchor(newer)
        ledger.keep_anchor(older)
        assert read_anchors(ledger.anchors_path)[server.public] == newer


def test_a_changed_record_is_found_when_the_ledger_is_opened(
    spent_once: Path, open_ledger: OpenLedger, make_policy: MakePolicy
) -> None:
    with closing(sqlite3.connect(spent_once / "ledger.sqlite")) as editor, editor:
        for trigger in ("records_keep_their_values", "records_are_not_replaced", "records_stay"):
            editor.execute(f"DROP TRIGGER {trigger}")
        editor.execute("UPDATE records SET record = replace(record, 'run/1', 'run/2')")
    with pytest.raises(PrivacyError, match=r"record 2: .*on a damaged ledger"):
        open_ledger(spent_once, make_policy())


def test_a_ledger_of_another_key_is_refused(
    spent_once: Path, open_ledger: OpenLedger, make_policy: MakePolicy
) -> None:
    (spent_once / "keys" / "organisation.pem").unlink()
    with pytest.raises(PrivacyError, match="opened with another key"):
        open_ledger(spent_once, make_policy())


def test_an_amended_policy_is_on_record_and_in_force(
    house: Path,
    open_ledger: OpenLedger,
    make_policy: MakePolicy,
    plan: PrivacyPlan,
    intend: Intend,
) -> None:
    strict = make_policy(1.0)
    with open_ledger(house, make_policy()) as ledger:
        ledger.reserve("run/1/step", intend(plan.mechanism("step"), plan), plan)
        ledger.amend(strict)
        intent = intend(plan.mechanism("popularity"), plan, round=0)
        with pytest.raises(RefusedError, match=r"\[budget.epsilon\].*the budget is 1"):
            ledger.reserve("run/0/popularity", intent, plan)
    assert policy_in_force(read_sealed(house / "ledger.sqlite")) == strict
    with open_ledger(house, strict) as ledger:
        assert ledger.events() == (plan.mechanism("step").event(),)
    with pytest.raises(PrivacyError, match=r"budget.epsilon is 8.0, was 1.0"):
        open_ledger(house, make_policy())


def test_a_process_that_runs_while_the_policy_is_amended_releases_nothing_under_the_old_one(
    house: Path,
    open_ledger: OpenLedger,
    make_policy: MakePolicy,
    plan: PrivacyPlan,
    intend: Intend,
) -> None:
    intent = intend(plan.mechanism("popularity"), plan, round=0)
    with open_ledger(house, make_policy()) as running, open_ledger(house, make_policy()) as other:
        running.propose("run/0/plan", [intent], plan)
        other.amend(make_policy(1.0))
        with pytest.raises(PrivacyError):
            running.reserve("run/0/popularity", intent, plan)
        with pytest.raises(PrivacyError):
            running.propose("run/0/plan", [intent], plan)
        assert running.events() == ()


def test_a_refusal_is_on_record_once_however_often_it_is_repeated(
    ledger: Ledger, plan: PrivacyPlan, intend: Intend
) -> None:
    loud = Mechanism("step", 1.0, 0.5, 1.0)
    whole = step_of(plan, loud)
    for _ in range(3):
        with pytest.raises(RefusedError):
            ledger.reserve("run/1/step", intend(loud, whole), whole)
    assert [refusal.rule for refusal in ledger.refusals()] == ["budget.epsilon"]
    with pytest.raises(RefusedError):
        ledger.reserve("run/2/step", intend(loud, whole, round=2), whole)
    assert len(ledger.refusals()) == 2


@pytest.mark.parametrize("request_name", ["run/2/step", "run/1/popularity", ""])
def test_a_release_without_an_intent_of_its_own_is_not_recorded(
    ledger: Ledger, plan: PrivacyPlan, intend: Intend, request_name: str
) -> None:
    number = ledger.reserve("run/1/step", intend(plan.mechanism("step"), plan), plan)
    for intent in (number, 0, number + 1):
        release = Release("step", intent, "ab" * 32, 8, (), ())
        with pytest.raises(PrivacyError, match="without an intent of its own"):
            ledger.record_release(request_name, release)
    assert ledger.releases() == ()


def test_what_could_not_be_read_back_is_not_written(
    ledger: Ledger, plan: PrivacyPlan, intend: Intend
) -> None:
    """A whole number where a ledger keeps an exact decimal would close it for good."""
    step = plan.mechanism("step")
    for odd in (1, True):
        with pytest.raises(PrivacyError):
            ledger.reserve("run/1/step", intend(step, plan, sampling_rate=odd), plan)
    ledger.reserve("run/1/step", intend(step, plan), plan)
    assert ledger.events() == (step.event(),)


def _append_in_turn(opened: Callable[[], Ledger], name: str, barrier: Barrier, turns: int) -> None:
    with opened() as ledger:
        for turn in range(turns):
            barrier.wait(timeout=60)
            ledger.record_refusal(f"{name}/{turn}", Refusal("rule", name))


def test_the_chain_goes_on_over_processes_that_write_at_once(
    house: Path, open_ledger: OpenLedger, make_policy: MakePolicy
) -> None:
    def opened() -> Ledger:
        return open_ledger(house, make_policy())

    context = multiprocessing.get_context("fork")
    opened().close()
    barrier = context.Barrier(2)
    children = [
        context.Process(target=_append_in_turn, args=(opened, name, barrier, 10))
        for name in ("a", "b")
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(timeout=60)
    assert [child.exitcode for child in children] == [0, 0]
    stored = read_sealed(house / "ledger.sqlite")
    assert len(stored) == 21
    assert chain_faults(stored) == []


def test_the_test_budget_fits_one_release_and_not_two() -> None:
    least = calibrate(lambda scale: (Event(1.0, scale),), 8.0, 1e-4)
    assert least < MOST_OF_IT.noise_multiplier < math.sqrt(2) * least
