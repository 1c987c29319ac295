"""Adapters and updates in float16 on the way: half the bytes, nearly the same adapter."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from audit.bundle import read_evidence
from audit.verify import verify_ledger
from client.directory import open_ledger
from shared.config import Config
from shared.entries import Release
from simulations.federate import Outcome, federate
from simulations.world import World

MakeConfig = Callable[..., Config]


def steps(folder: Path) -> list[Release]:
    with open_ledger(folder / "organisations" / "0001") as ledger:
        return [release for release in ledger.releases() if release.mechanism == "step"]


@pytest.fixture(scope="module")
def outcomes(
    world: World, make_config: MakeConfig, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, Outcome]]:
    found = {}
    for precision in ("float32", "float16"):
        config = make_config(training={"send_precision": precision}, privacy={"noise_seed": 7})
        folder = tmp_path_factory.mktemp(precision)
        found[precision] = folder, federate(world, config, folder, "run")
    return found


def test_updates_in_float16_are_half_as_large(
    outcomes: dict[str, tuple[Path, Outcome]],
) -> None:
    whole, half = (steps(outcomes[name][0]) for name in ("float32", "float16"))
    assert [2 * release.size_bytes for release in half] == [r.size_bytes for r in whole]


def test_the_adapter_differs_by_rounding_alone(outcomes: dict[str, tuple[Path, Outcome]]) -> None:
    whole, half = (outcomes[name][1].adapter for name in ("float32", "float16"))
    assert whole is not None
    assert half is not None
    for name, value in whole.items():
        assert half[name].dtype == np.float32
        assert not np.array_equal(half[name], value)
        assert half[name] == pytest.approx(value, abs=0.01 * float(np.abs(value).max()))


def test_an_outsider_finds_no_fault_in_its_ledger(
    outcomes: dict[str, tuple[Path, Outcome]],
) -> None:
    folder = outcomes["float16"][0] / "organisations" / "0001"
    assert not verify_ledger(read_evidence(folder)).faults
