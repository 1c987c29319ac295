"""Organisations that outlive runs: one budget for all of them, and no way round it."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from client.directory import open_ledger
from client.policy_cli import policy_app
from shared.chain import chain_faults, read_sealed
from shared.config import Config
from shared.errors import FederationError, PrivacyError
from shared.policy import Policy
from shared.sections import to_toml
from simulations import records
from simulations.simulate import simulate

MakeConfig = Callable[..., Config]

# Between what one run spends of epsilon 8 and what two do.
ENOUGH_FOR_TWO = 14.0


@pytest.fixture
def houses(tmp_path: Path) -> Path:
    return tmp_path / "houses"


@pytest.fixture
def config(make_config: MakeConfig, houses: Path) -> Callable[..., Config]:
    """A run of the statistics alone over organisations that stay."""

    def make(**sections: dict[str, Any]) -> Config:
        run = {"organisations": str(houses), "noise_free_twin": False, "examples": 0}
        return make_config(run=run | sections.pop("run", {}), training={"rounds": 0}, **sections)

    return make


def run(config: Config, folder: Path) -> list[records.Line]:
    simulate(config, folder, Console(file=io.StringIO(), width=120))
    return list(records.read_records(folder / "metrics.jsonl"))


def spent(houses: Path) -> list[float]:
    found = []
    for name in ("0001", "0002"):
        with open_ledger(houses / name) as ledger:
            found.append(ledger.spent())
    return found


def change_policy(house: Path, **budget: float) -> None:
    policy = Policy.load(house / "policy.toml")
    changed = policy.model_copy(update={"budget": policy.budget.model_copy(update=budget)})
    (house / "policy.toml").write_text(to_toml(changed))


def test_a_run_that_asks_for_less_than_is_left_goes_on_and_both_are_in_one_ledger(
    config: Callable[..., Config], houses: Path, tmp_path: Path
) -> None:
    """The policy is that of the first run: the second asks for a smaller epsilon of its own."""
    run(config(privacy={"epsilon": 8.0}), tmp_path / "first")
    before = spent(houses)
    for name in ("0001", "0002"):
        change_policy(houses / name, epsilon=ENOUGH_FOR_TWO)
        assert CliRunner().invoke(policy_app, ["amend", str(houses / name)]).exit_code == 0
    found = run(config(privacy={"epsilon": 4.0}), tmp_path / "second")
    made = [line for line in found if isinstance(line, records.OrganisationRecord)]
    assert [line.epsilon_before for line in made] == before
    assert [line.epsilon_spent for line in made] == spent(houses)
    assert [line.epsilon_budget for line in made] == [ENOUGH_FOR_TWO] * 2
    assert all(b < line.epsilon_spent < b + 4.0 for b, line in zip(before, made, strict=True))
    for name, line in zip(("0001", "0002"), made, strict=True):
        assert chain_faults(read_sealed(houses / name / "ledger.sqlite")) == []
        with open_ledger(houses / name) as ledger:
            first, _, second, _ = (intent.noise_multiplier for intent in ledger.intents())
        # The record of both runs states the least noise.
        assert next(release.sigma for release in line.releases) == first < second


def test_a_twin_without_noise_leaves_the_organisations_alone(
    config: Callable[..., Config], houses: Path, tmp_path: Path
) -> None:
    run(config(run={"noise_free_twin": True}), tmp_path / "first")
    for name in ("0001", "0002"):
        with open_ledger(houses / name) as ledger:
            assert ledger.private()
            assert len(ledger.intents()) == 2
    assert (tmp_path / "first" / "noise_free" / "organisations" / "0001" / "ledger.sqlite").exists()


def test_a_deleted_ledger_is_not_a_new_budget(
    config: Callable[..., Config], houses: Path, tmp_path: Path
) -> None:
    run(config(), tmp_path / "first")
    (houses / "0001" / "ledger.sqlite").unlink()
    with pytest.raises(PrivacyError, match="it was deleted"):
        run(config(), tmp_path / "second")
    # Without the anchors beside it the organisation forgets; the server does not.
    (houses / "0001" / "anchors.json").unlink()
    with pytest.raises(FederationError, match="another ledger under the same key"):
        run(config(server={"min_replies": 2}), tmp_path / "third")
