"""Noise of real releases: of the planned size, new in every round and at every organisation.

The true sum is known here, so what is left after it is the noise that was added. Statistical tests
fail by chance once in a million runs for each check.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import stats

from client.resources import Resources
from client.trainer import private_steps
from shared.adapters import load_arrays
from shared.config import Config
from shared.grid import PLAIN_BITS
from shared.histories import PrivateHistories
from shared.plan import Mechanism
from shared.randomness import PrivateRandom, from_operating_system
from shared.statistics import cooccurrence_sum, popularity_sum

Arrays = dict[str, npt.NDArray[Any]]
Floats = npt.NDArray[np.float64]
MakeHistories = Callable[[Sequence[Sequence[int]]], PrivateHistories]
DeviationIs = Callable[[npt.NDArray[Any], float], bool]

FALSE_ALARM = 1e-6
BITS = {"gaussian": 0, "discrete": PLAIN_BITS}
DECLARED = 20
ITEMS = 400
HOUSES = ([[0, 1, 2, 3], [3, 2, 1, 4, 5], [7, 7, 8]], [[9, 4, 1], [10, 11, 12, 13], [0, 2, 9, 5]])
ROUNDS = 12
DISTRIBUTIONS = ("gaussian", "discrete")


def noise_of(mechanism: Mechanism, totals: Sequence[Floats]) -> Floats:
    """What ``ROUNDS`` releases of each house's sum add to it, ``[releases, coordinates]``."""
    return np.stack(
        [
            mechanism.noised(total, from_operating_system()) - total
            for _ in range(ROUNDS)
            for total in totals
        ]
    )


def unrelated(residuals: Floats) -> bool:
    """Whether no two rows of ``[releases, coordinates]`` are correlated; Bonferroni over pairs."""
    pairs = [(a, b) for a in range(len(residuals)) for b in range(a)]
    least = min(stats.pearsonr(residuals[a], residuals[b]).pvalue for a, b in pairs)
    return bool(least > FALSE_ALARM / len(pairs))


@pytest.fixture
def step_noise(
    make_histories: MakeHistories,
    make_config: Callable[..., Config],
    resources: Resources,
    adapter: Arrays,
) -> Callable[[Mechanism, list[list[int]]], Floats]:
    """The noise in one house's update of one step: the update less that of a silent twin."""
    config = make_config()

    def update(mechanism: Mechanism, rows: list[list[int]], random: PrivateRandom) -> Floats:
        load_arrays(resources.trainable.model, adapter)
        result = private_steps(
            resources.trainable,
            make_histories(rows),
            torch.from_numpy(resources.vectors),
            torch.zeros(len(resources.vectors)),
            mechanism,
            1,
            DECLARED,
            config.model.window,
            "automatic",
            config.training,
            random,
        )
        return np.concatenate([a.ravel() for a in result.arrays.values()]).astype(np.float64)

    def noise(mechanism: Mechanism, rows: list[list[int]]) -> Floats:
        silent = dataclasses.replace(mechanism, noise_multiplier=0.0)
        noisy = update(mechanism, rows, from_operating_system())
        return noisy - update(silent, rows, from_operating_system())

    return noise


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_popularity_carries_new_noise_of_the_planned_size_each_time(
    make_histories: MakeHistories,
    deviation_is: DeviationIs,
    distribution: str,
) -> None:
    mechanism = Mechanism("popularity", 1.0, 1.7, 1.0, 1.0, distribution, BITS[distribution])
    totals = [popularity_sum(make_histories(rows), ITEMS) for rows in HOUSES]
    residuals = noise_of(mechanism, totals)
    assert deviation_is(residuals, 1.7)
    assert stats.kstest(residuals.ravel(), stats.norm(0.0, 1.7).cdf).pvalue > FALSE_ALARM
    assert unrelated(residuals)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_cooccurrence_carries_new_noise_of_the_planned_size_each_time(
    make_histories: MakeHistories,
    make_config: Callable[..., Config],
    deviation_is: DeviationIs,
    distribution: str,
) -> None:
    mechanism = Mechanism("cooccurrence", 1.0, 0.9, 1.0, 1.0, distribution, BITS[distribution])
    options = make_config().statistics
    totals = [cooccurrence_sum(make_histories(rows), np.arange(40), options) for rows in HOUSES]
    residuals = noise_of(mechanism, totals)
    assert deviation_is(residuals, 0.9)
    assert stats.kstest(residuals.ravel(), stats.norm(0.0, 0.9).cdf).pvalue > FALSE_ALARM
    assert unrelated(residuals)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_steps_carry_new_noise_of_the_planned_size_each_time(
    step_noise: Callable[[Mechanism, list[list[int]]], Floats],
    deviation_is: DeviationIs,
    distribution: str,
) -> None:
    mechanism = Mechanism("step", 1.0, 1.3, 0.5, 1.0, distribution, BITS[distribution])
    residuals = np.stack([step_noise(mechanism, rows) for _ in range(ROUNDS) for rows in HOUSES])
    # The update is float32: its last bits, 1e-8 here, are far below the noise.
    assert deviation_is(residuals, 1.3 * 0.5 / DECLARED)
    assert unrelated(residuals)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_shared_noise_of_all_organisations_adds_up_to_one_release(
    make_histories: MakeHistories, deviation_is: DeviationIs, distribution: str
) -> None:
    mechanism = Mechanism(
        "popularity", 1.0, 1.7, 1.0, ROUNDS**-0.5, distribution, BITS[distribution]
    )
    total = popularity_sum(make_histories(HOUSES[0]), ITEMS)
    assert deviation_is(noise_of(mechanism, [total]).sum(axis=0), 1.7)


def test_the_test_of_independence_sees_one_release_repeated() -> None:
    """Its power: two equal rows among 24, and two that share a tenth of their variance."""
    random = np.random.default_rng(0)
    rows = random.normal(size=(24, 2000))
    assert unrelated(rows)
    assert not unrelated(np.concatenate([rows, rows[5:6]]))
    rows[7] = np.sqrt(0.9) * rows[7] + np.sqrt(0.1) * rows[3]
    assert not unrelated(rows)
