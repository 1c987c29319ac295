"""A simulation with secure sums, as a person sees it: records, screen, report, audit."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest
from rich.console import Console

from audit.empirical import audit_run
from shared.config import Config
from shared.plan import make_plan
from simulations import records
from simulations.simulate import simulate
from simulations.tables import sums_sentence

MakeConfig = Callable[..., Config]

Kind = TypeVar("Kind", bound=records.Line)

ORGANISATIONS, ROUNDS = 4, 2


@dataclass(frozen=True)
class Finished:
    """A run folder and what stood on the screen, with single spaces."""

    folder: Path
    screen: str

    def records(self, kind: type[Kind]) -> list[Kind]:
        found = records.read_records(self.folder / "metrics.jsonl")
        return [record for record in found if isinstance(record, kind)]


@pytest.fixture(scope="module")
def finished(make_config: MakeConfig, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    config = make_config(
        partition={"organisations": ORGANISATIONS},
        run={"examples": 0},
        audit={"canaries": 60},
    )
    assert (config.aggregation.mode, config.privacy.noise) == ("secure", "shared")
    folder, screen = tmp_path_factory.mktemp("runs") / "run", io.StringIO()
    simulate(config, folder, Console(file=screen, width=160))
    return Finished(folder, " ".join(screen.getvalue().split()))


def test_the_guarantee_on_record_has_both_epsilons_and_how_many_are_in_a_sum(
    finished: Finished,
) -> None:
    (guarantee,) = finished.records(records.GuaranteeRecord)
    assert (guarantee.aggregation, guarantee.noise, guarantee.private) == ("secure", "shared", True)
    assert (guarantee.least_participants, guarantee.colluders) == (4, 1)
    assert guarantee.epsilon_pld is not None
    assert guarantee.epsilon_alone is not None
    assert guarantee.epsilon_pld <= 8.0 < 13.0 < guarantee.epsilon_alone


def test_results_say_that_their_noise_was_added_once_in_secure_sums(finished: Finished) -> None:
    found = {(r.method, r.noise): r for r in finished.records(records.ResultRecord)}
    assert found["federation", "shared"].aggregation == "secure"
    assert found["federation", "shared"].private
    assert found["federation", "none"].aggregation == "plain"
    assert "epsilon 8, noise once, secure sums" in finished.screen


def test_what_left_has_keys_and_shares_of_each_sum_and_no_sigma_of_theirs(
    finished: Finished,
) -> None:
    for house in finished.records(records.OrganisationRecord):
        left = {release.what: release for release in house.releases}
        # Two statistics and two steps, each with keys, shares and what unmasks.
        assert {what: release.times for what, release in left.items()} == {
            "popularity": 1,
            "cooccurrence": 1,
            "step": 2,
            "protocol": 12,
        }
        assert left["protocol"].sigma is None
        assert left["step"].sigma is not None


def test_every_organisation_spends_the_joint_epsilon_and_knows_the_other(
    finished: Finished,
) -> None:
    (guarantee,) = finished.records(records.GuaranteeRecord)
    for house in finished.records(records.OrganisationRecord):
        assert house.epsilon_spent == pytest.approx(guarantee.epsilon_pld, abs=1e-3)
        assert house.epsilon_alone == pytest.approx(guarantee.epsilon_alone, abs=1e-3)


def test_the_screen_says_against_whom_the_epsilons_hold(finished: Finished) -> None:
    assert (
        "The server saw only sums of at least 4 organisations. Epsilon spent holds against it with "
        "up to 1 of them on its side, alone with all others there; in a simulation one process "
        "plays them all."
    ) in finished.screen


def test_the_report_has_no_banner_of_a_simulated_sum(finished: Finished) -> None:
    page = (finished.folder / "report.html").read_text()
    assert 'role="alert"' not in page
    assert "the server saw only sums of at least 4" in page


def test_canaries_bound_the_joint_epsilon_and_that_of_each_alone(finished: Finished) -> None:
    (guarantee,) = finished.records(records.GuaranteeRecord)
    report = audit_run(finished.folder)
    assert report.faults == []
    *alone, together = report.bounds
    assert together.where == "all organisations"
    assert together.claim == pytest.approx(guarantee.epsilon_pld, abs=0.01)
    assert [bound.claim for bound in alone] == pytest.approx(
        4 * [guarantee.epsilon_alone], abs=0.05
    )
    assert 0.0 < together.low < together.claim


@pytest.mark.parametrize(
    ("privacy", "mode", "sentence"),
    [
        ({"noise": "own"}, "plain", "The server saw what each organisation sent."),
        ({"noise": "none"}, "plain", "The server saw what each organisation sent."),
        ({"noise": "own"}, "secure", "The server saw only sums of at least 4 organisations."),
        (
            {"noise": "shared"},
            "plain",
            "One noise for a sum that this process took: epsilon spent holds where nobody sees the "
            "part of one organisation, alone where somebody does.",
        ),
    ],
)
def test_the_sentence_under_the_budgets_fits_the_plan(
    make_config: MakeConfig, privacy: dict[str, str], mode: str, sentence: str
) -> None:
    config = make_config(
        partition={"organisations": 4}, privacy=privacy, aggregation={"mode": mode}
    )
    assert sums_sentence(make_plan(config, 60, 4)) == sentence
