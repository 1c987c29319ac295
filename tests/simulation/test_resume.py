"""A federation that stops in the middle goes on where it was, and spends nothing twice."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from client.directory import open_ledger, organisation_directory
from client.ledger import Ledger
from server.observers import Observer, RoundReport
from shared.adapters import Arrays
from shared.config import Config
from shared.errors import FederationError
from simulations.federate import Outcome, federate
from simulations.world import World

MakeConfig = Callable[..., Config]

ROUNDS = 4
OPTIONS = {"training": {"rounds": ROUNDS}, "server": {"iterate_average": 0.75}}


class PowerCutError(Exception):
    """What stops a run in these tests."""


class StopsAfter(Observer):
    """Breaks the run off after a stage: ``statistics`` or the number of a round."""

    def __init__(self, stage: str | int) -> None:
        self.stage = stage

    def statistics_ready(self, arrays: Mapping[str, np.ndarray]) -> None:
        if self.stage == "statistics":
            raise PowerCutError

    def round_finished(self, report: RoundReport) -> None:
        if self.stage == report.round:
            raise PowerCutError


def broken_off(world: World, config: Config, folder: Path, stage: str | int) -> Outcome:
    """Run until ``stage``, then go on in the same folder."""
    with pytest.raises(PowerCutError):
        federate(world, config, folder, "one-run", [StopsAfter(stage)])
    return federate(world, config, folder, "one-run")


def ledgers(folder: Path, world: World, config: Config) -> list[Ledger]:
    return [
        open_ledger(organisation_directory(folder, config, number))
        for number in range(len(world.organisations))
    ]


@pytest.fixture(scope="module")
def bare(make_config: MakeConfig) -> Config:
    """Without noise, so that two runs can be compared to the last bit."""
    return make_config(**OPTIONS, privacy={"noise": "none"})


@pytest.fixture(scope="module")
def unbroken(world: World, bare: Config, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return federate(world, bare, tmp_path_factory.mktemp("unbroken"), "one-run")


def equal_bits(a: Arrays | None, b: Arrays | None) -> bool:
    assert a is not None
    assert b is not None
    return set(a) == set(b) and all(a[name].tobytes() == b[name].tobytes() for name in a)


@pytest.mark.parametrize("stage", ["statistics", 1, 2, ROUNDS])
def test_a_resumed_run_gives_the_adapter_of_an_unbroken_one_to_the_last_bit(
    world: World, bare: Config, unbroken: Outcome, tmp_path: Path, stage: str | int
) -> None:
    resumed = broken_off(world, bare, tmp_path, stage)
    assert equal_bits(resumed.adapter, unbroken.adapter)
    assert resumed.reliability == unbroken.reliability


def test_rounds_do_change_the_adapter(unbroken: Outcome) -> None:
    assert unbroken.adapter is not None
    assert max(float(np.abs(value).max()) for value in unbroken.adapter.values()) > 0.0


def test_a_resumed_private_run_spends_nothing_twice(
    world: World, make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config(**OPTIONS)
    outcome = broken_off(world, config, tmp_path, 2)
    for ledger in ledgers(tmp_path, world, config):
        with ledger:
            assert ledger.events() == outcome.plan.events()
            assert sum(release.intent > 0 for release in ledger.releases()) == 2 + ROUNDS
            assert ledger.spent() <= config.privacy.epsilon


def test_a_lost_checkpoint_repeats_the_round_from_stored_answers(
    world: World, bare: Config, unbroken: Outcome, tmp_path: Path
) -> None:
    with pytest.raises(PowerCutError):
        federate(world, bare, tmp_path, "one-run", [StopsAfter(3)])
    (tmp_path / "checkpoints" / "round-00003.safetensors").unlink()
    resumed = federate(world, bare, tmp_path, "one-run")
    assert equal_bits(resumed.adapter, unbroken.adapter)
    for ledger in ledgers(tmp_path, world, bare):
        with ledger:
            assert ledger.events() == resumed.plan.events()


def test_another_run_on_the_same_ledgers_is_refused_where_the_budget_is_spent(
    world: World, make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config(**OPTIONS)
    federate(world, config, tmp_path, "one-run")
    (tmp_path / "statistics" / "statistics.safetensors").unlink()
    with pytest.raises(
        FederationError, match=r"\[budget.epsilon\] the whole plan would bring epsilon from"
    ):
        federate(world, config, tmp_path, "another-run")


def test_the_delivered_adapter_is_the_average_of_the_last_rounds(
    world: World, bare: Config, tmp_path: Path
) -> None:
    seen: list[Arrays] = []

    class Keeps(StopsAfter):
        def round_finished(self, report: RoundReport) -> None:
            seen.append(report.adapter)

    outcome = federate(world, bare, tmp_path, "one-run", [Keeps("never")])
    assert outcome.adapter is not None
    for name, value in outcome.adapter.items():
        mean = np.mean([adapter[name] for adapter in seen[1:]], axis=0)
        assert value == pytest.approx(mean, rel=1e-5, abs=1e-8)
    kept = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    name = next(iter(sorted(outcome.adapter)))
    stored = kept[name.removeprefix("backbone.").replace(".default.", ".")]
    assert stored.tobytes() == outcome.adapter[name].tobytes()
