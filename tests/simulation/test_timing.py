"""What the stages of rounds add up to, for the screen, the report and the bench."""

import pytest

from shared.stages import stage, stage_calls
from simulations.records import RoundRecord
from simulations.timing import LABELS, OTHER, REST, StageClock, grouped, stage_shares, timed_rounds


def round_record(number: int, seconds: float, **stages: float) -> RoundRecord:
    return RoundRecord(
        run="private",
        round=number,
        rounds=9,
        epsilon=1.0,
        seconds=seconds,
        update_norm=0.1,
        replies=2,
        stages=stages,
    )


def test_shares_are_of_the_rounds_time_and_what_no_stage_covers_is_last() -> None:
    rounds = [round_record(1, 1.0, clip=0.1, forward=0.5), round_record(2, 3.0, forward=2.5)]
    found = [(s.label, s.seconds, s.share) for s in stage_shares(rounds)]
    assert found == [
        (LABELS["forward"], 1.5, 0.75),
        (LABELS["clip"], 0.05, pytest.approx(0.025)),
        (LABELS[OTHER], pytest.approx(0.45), pytest.approx(0.225)),
    ]


def test_rounds_without_stages_have_no_shares() -> None:
    assert stage_shares([round_record(1, 1.0)]) == []
    assert stage_shares([]) == []


def test_a_stage_without_a_label_is_shown_under_its_own_name() -> None:
    assert stage_shares([round_record(1, 1.0, sorting=1.0)])[0].label == "sorting"


def test_the_groups_of_a_round_add_up_to_it() -> None:
    parts = grouped(round_record(1, 2.0, forward=0.5, clip=0.25, noise=0.25, ledger=0.5, odd=0.1))
    assert parts["Sampling, clipping, noise"] == 0.5
    assert parts[REST] == 1.0
    assert sum(parts.values()) == 2.0


def test_of_a_round_that_was_repeated_the_last_counts() -> None:
    first, again = round_record(1, 1.0, clip=0.5), round_record(1, 2.0, clip=0.5)
    other = again.model_copy(update={"run": "noise_free"})
    assert timed_rounds([first, again, other, round_record(2, 1.0)]) == [again]


def test_a_clock_tells_what_passed_since_it_was_asked() -> None:
    with stage("before"):
        pass
    clock, calls = StageClock(), stage_calls().get("within", 0)
    with stage("within"):
        pass
    assert set(clock.taken()) == {"within"}
    assert clock.taken() == {}
    assert stage_calls()["within"] == calls + 1
