"""Organisations that outlive runs: one budget for all of them, changed on the record alone."""

import io
from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import pytest
from rich.console import Console
from typer.testing import CliRunner

from client.directory import open_ledger
from client.policy_cli import policy_app
from shared.chain import chain_faults, read_sealed
from shared.config import Config
from shared.errors import FederationError, PrivacyError, RunError
from simulations import records
from simulations.simulate import simulate
from simulations.synth import synthesise

MakeConfig = Callable[..., Config]
Outliving = Callable[[Path], Config]

EPSILON = 2.0
HOUSES = ("0001", "0002")


def run(config: Config, folder: Path) -> list[records.Record]:
    """Run into a folder and return its records."""
    simulate(config, folder, Console(file=io.StringIO()))
    return records.read_records(folder / "metrics.jsonl")


def ledgers(houses: Path) -> list[tuple[float, int]]:
    """Epsilon spent, and how many releases cost it, of each organisation."""
    found = []
    for name in HOUSES:
        with open_ledger(houses / name) as ledger:
            found.append((ledger.spent(), len(ledger.intents())))
    return found


def write_budget(houses: Path, epsilon: float) -> None:
    """Another budget in every policy.toml, as an editor would leave it."""
    for name in HOUSES:
        path = houses / name / "policy.toml"
        before = path.read_text()
        after = before.replace(f"epsilon = {EPSILON}\n", f"epsilon = {epsilon}\n")
        assert after != before
        path.write_text(after)


@pytest.fixture(scope="module")
def outliving(make_config: MakeConfig) -> Outliving:
    """Statistics alone, by organisations of the folder given, whose whole budget one run takes."""

    def make(houses: Path) -> Config:
        return make_config(
            run={"organisations": str(houses), "noise_free_twin": False},
            privacy={"epsilon": EPSILON},
            training={"rounds": 0},
        )

    return make


@pytest.fixture(scope="module")
def spent(outliving: Outliving, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Organisations after one run."""
    folder = tmp_path_factory.mktemp("outliving")
    run(outliving(folder / "houses"), folder / "first")
    return folder / "houses"


@pytest.fixture
def houses(spent: Path, tmp_path: Path) -> Path:
    """A copy of them, for one test."""
    return copytree(spent, tmp_path / "houses")


def test_the_run_keeps_no_organisations_of_its_own(spent: Path) -> None:
    assert not (spent.parent / "first" / "organisations").exists()
    for epsilon, releases in ledgers(spent):
        assert 0.99 * EPSILON < epsilon <= EPSILON
        assert releases == 2


def test_a_second_run_is_refused_in_one_sentence_when_the_budget_is_gone(
    outliving: Outliving, houses: Path, tmp_path: Path
) -> None:
    before = ledgers(houses)
    with pytest.raises(FederationError) as caught:
        run(outliving(houses), tmp_path / "second")
    sentence = str(caught.value)
    assert "\n" not in sentence
    for name in ("org-1", "org-2"):
        assert f"{name} refuses: [budget.epsilon]" in sentence
    assert f"the budget is {EPSILON:g}" in sentence
    assert ledgers(houses) == before


def test_what_was_refused_is_on_record(outliving: Outliving, houses: Path, tmp_path: Path) -> None:
    with pytest.raises(FederationError):
        run(outliving(houses), tmp_path / "second")
    for name in HOUSES:
        assert chain_faults(read_sealed(houses / name / "ledger.sqlite")) == []
        with open_ledger(houses / name) as ledger:
            assert [refusal.rule for refusal in ledger.refusals()] == ["budget.epsilon"]


def test_other_users_are_refused_and_cost_nothing(
    outliving: Outliving, houses: Path, tmp_path: Path
) -> None:
    before = ledgers(houses)
    synthesise(40, 60, 2, 1, tmp_path / "others")
    config = outliving(houses)
    data = config.data.model_copy(update={"source": str(tmp_path / "others")})
    with pytest.raises(RunError, match="belongs to other users"):
        run(config.model_copy(update={"data": data}), tmp_path / "second")
    assert ledgers(houses) == before


def test_a_budget_raised_in_the_file_alone_is_refused(
    outliving: Outliving, houses: Path, tmp_path: Path
) -> None:
    before = [read_sealed(houses / name / "ledger.sqlite") for name in HOUSES]
    write_budget(houses, 20.0)
    with pytest.raises(PrivacyError, match=r"budget\.epsilon is .*tacit policy amend"):
        run(outliving(houses), tmp_path / "second")
    assert [read_sealed(houses / name / "ledger.sqlite") for name in HOUSES] == before


def test_an_amended_budget_carries_a_second_run_that_counts_the_first(
    outliving: Outliving, houses: Path, tmp_path: Path
) -> None:
    first = ledgers(houses)
    write_budget(houses, 20.0)
    for name in HOUSES:
        done = CliRunner().invoke(policy_app, ["amend", str(houses / name)])
        assert done.exit_code == 0, done.output
        assert "budget.epsilon" in done.output
    found = run(outliving(houses), tmp_path / "second")
    organisations = [r for r in found if isinstance(r, records.OrganisationRecord)]
    assert len(organisations) == len(HOUSES)
    for record, (before, _), (after, releases) in zip(
        organisations, first, ledgers(houses), strict=True
    ):
        assert record.epsilon_before == pytest.approx(before)
        assert record.epsilon_spent == pytest.approx(after)
        assert record.epsilon_budget == 20.0
        assert EPSILON < after < 2.0 * EPSILON
        assert releases == 4
    for name in HOUSES:
        assert chain_faults(read_sealed(houses / name / "ledger.sqlite")) == []
