"""Whole federations of five: statistics, training, evaluation by secure sums, and the ledgers."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from audit.bundle import read_evidence
from audit.verify import verify_ledger
from client.directory import open_ledger
from shared.config import Config
from simulations.federate import Outcome, federate
from simulations.synth import synthesise
from simulations.world import World, build_world
from tests.simulation.conftest import data, make_config, own_folders, tiny_base

__all__ = ["data", "make_config", "own_folders", "tiny_base"]

pytestmark = pytest.mark.slow

NUMBER, ROUNDS = 5, 2
RELEASES = ["popularity", "cooccurrence", *ROUNDS * ["step"], "evaluation"]

SHARES = {
    "popularity_share": 0.2,
    "cooccurrence_share": 0.4,
    "adapter_share": 0.3,
    "evaluation_share": 0.1,
}

MakeConfig = Callable[..., Config]


@pytest.fixture(scope="module")
def options(
    make_config: MakeConfig, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Config]:
    """Five organisations, two rounds and an evaluation, but for what is given."""
    folder = tmp_path_factory.mktemp("five")
    synthesise(100, 60, NUMBER, 0, folder)

    def made(mode: str, noise: str) -> Config:
        return make_config(
            data={"source": str(folder)},
            partition={"organisations": NUMBER},
            aggregation={"mode": mode, "dropouts": 1},
            privacy={"noise": noise} | SHARES,
            server={"optimizer": "average"},
            training={"rounds": ROUNDS},
        )

    return made


@pytest.fixture(scope="module")
def world(options: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> World:
    return build_world(options("plain", "none"), tmp_path_factory.mktemp("scratch"))


def values_of(outcome: Outcome) -> np.ndarray:
    assert outcome.adapter is not None
    return np.concatenate([value.ravel() for value in outcome.adapter.values()])


@pytest.fixture(scope="module")
def both(
    world: World, options: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Outcome]:
    folder = tmp_path_factory.mktemp("both")
    return {
        mode: federate(world, options(mode, "none"), folder / mode, "run")
        for mode in ("secure", "plain")
    }


def test_without_noise_secure_sums_train_the_adapter_that_plain_ones_do(
    both: dict[str, Outcome],
) -> None:
    secure, plain = values_of(both["secure"]), values_of(both["plain"])
    assert np.abs(plain).max() > 1e-3
    # A sum of five on a grid of 2**-23, then a mean over users; the rest is float32.
    assert np.abs(secure - plain).max() < 1e-6


def test_and_give_the_same_statistics(both: dict[str, Outcome]) -> None:
    secure, plain = both["secure"].statistics, both["plain"].statistics
    assert secure.top.tolist() == plain.top.tolist()
    assert len(plain.top) > 0
    assert secure.log_popularity == pytest.approx(plain.log_popularity, abs=1e-5)
    assert secure.transition == pytest.approx(plain.transition, abs=1e-4)


def test_every_ledger_of_a_private_run_has_who_took_part_and_verifies(
    world: World, options: Callable[..., Config], tmp_path: Path
) -> None:
    config = options("auto", "auto")
    assert (config.aggregation.mode, config.privacy.noise) == ("secure", "shared")
    outcome = federate(world, config, tmp_path, "run")
    assert outcome.plan.secure
    assert np.isfinite(values_of(outcome)).all()
    folders = sorted((tmp_path / "organisations").iterdir())
    assert len(folders) == NUMBER
    keys = []
    for folder in folders:
        with open_ledger(folder) as ledger:
            keys.append(ledger.key.public)
            intents, releases = ledger.intents(), ledger.releases()
            assert ledger.refusals() == ()
        assert [intent.mechanism for intent in intents] == RELEASES
        for intent in intents:
            assert len(intent.participants) == NUMBER
            assert intent.noise_share == pytest.approx(3**-0.5)
            assert (intent.aggregation, intent.least_participants) == ("secure", 4)
        left = [r.mechanism for r in releases if r.mechanism != "none"]
        assert left == [
            one for name in RELEASES for one in ("protocol", "protocol", name, "protocol")
        ]
        found = verify_ledger(read_evidence(folder / "ledger.sqlite"))
        assert found.faults == []
    assert {tuple(sorted(keys))} == {intent.participants for intent in intents}
