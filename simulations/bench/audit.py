"""``tacit bench audit``: how tight the empirical audit's bound is, and what its canaries cost."""

import statistics
import time
from dataclasses import dataclass

import numpy as np
import torch

from audit.canary_series import series_of
from audit.empirical import report_on
from client.canaries import Canaries
from client.directory import trainable_model
from client.trainer import Trainable, private_steps
from shared.accounting import Event, calibrate
from shared.adapters import adapter_arrays, load_arrays
from shared.config import Config
from shared.encoder import centred
from shared.histories import PrivateHistories
from shared.models import LoadedModel, load_model
from shared.plan import Mechanism, Noise, PrivacyPlan
from shared.randomness import PrivateRandom, from_operating_system, from_seed
from shared.user_model import item_tensor

SAMPLING_RATE = 0.1
STEPS = 100
STEPS_AT_ONCE = 10
DELTA = 1e-5
USERS, ITEMS, INTERACTIONS = 200, 1682, 20


@dataclass(frozen=True)
class AuditRow:
    """The audit of 100 steps at sampling rate 0.1.

    Attributes:
        epsilon: claimed, at delta 1e-5.
        noise_multiplier: that it takes.
        canaries: of whom half are members.
        low: lower bound on epsilon, at 95% confidence.
        passed: whether all tests passed.
        seconds_a_step, seconds_without: medians, with canaries and without, of interleaved runs.
        update_difference: largest relative change of an update by canaries, same noise.
    """

    epsilon: float
    noise_multiplier: float
    canaries: int
    low: float
    passed: bool
    seconds_a_step: float
    seconds_without: float
    update_difference: float


def measure(
    config: Config, canaries: int = 5000, epsilons: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
) -> list[AuditRow]:
    """Audit real private steps at each epsilon.

    Args:
        config: base, model and training; its data and privacy are not used.
        canaries: that ride along, half of them as members.
        epsilons: claims.
    """
    loaded = load_model(config)
    bench = _Bench(config, loaded, trainable_model(loaded), *_made_up(loaded))
    return [_row(bench, canaries, epsilon) for epsilon in epsilons]


@dataclass(frozen=True)
class _Bench:
    config: Config
    loaded: LoadedModel
    ready: Trainable
    histories: PrivateHistories
    items: torch.Tensor

    def steps(
        self, mechanism: Mechanism, count: int, random: PrivateRandom, canaries: Canaries | None
    ) -> np.ndarray:
        """The update of some steps from the model's present adapter, which is put back."""
        start = adapter_arrays(self.ready.model)
        update = private_steps(
            self.ready,
            self.histories,
            self.items,
            torch.zeros(ITEMS, device=self.loaded.runtime.device),
            mechanism,
            count,
            USERS,
            self.config.model.window,
            "automatic",
            self.config.training,
            random,
            canaries,
        )
        load_arrays(self.ready.model, start)
        return np.concatenate([value.ravel() for value in update.arrays.values()])

    def canaries(self, count: int, round_number: int) -> Canaries | None:
        trained = list(self.ready.model.trained.values())
        return Canaries.on_adapter(count, "bench-audit", round_number, trained)


def _row(bench: _Bench, count: int, epsilon: float) -> AuditRow:
    sigma = calibrate(lambda s: (Event(SAMPLING_RATE, s, STEPS),), epsilon, DELTA)
    mechanism = Mechanism("step", SAMPLING_RATE, sigma, 1.0)
    plan = PrivacyPlan(None, None, mechanism, None, STEPS, DELTA, epsilon, Noise.OWN)
    riding = bench.canaries(count, 1)
    assert riding is not None
    times: dict[bool, list[float]] = {True: [], False: []}
    bench.steps(mechanism, 1, from_operating_system(), None)
    for _ in range(STEPS // STEPS_AT_ONCE):
        for with_them in (False, True):
            started = time.perf_counter()
            bench.steps(
                mechanism, STEPS_AT_ONCE, from_operating_system(), riding if with_them else None
            )
            times[with_them].append((time.perf_counter() - started) / STEPS_AT_ONCE)
    report = report_on([series_of("bench", [riding.record(mechanism, plan)])])
    # With all users in the step no sampling draws differ, so that the noise is the same.
    everyone = Mechanism("step", 1.0, sigma, 1.0)
    one, other = (
        bench.steps(everyone, 1, from_seed(0), canaries)
        for canaries in (None, bench.canaries(count, 2))
    )
    return AuditRow(
        epsilon,
        sigma,
        count,
        report.bounds[0].low,
        report.passed,
        statistics.median(times[True]),
        statistics.median(times[False]),
        float(np.abs(one - other).max() / np.abs(one).max()),
    )


def _made_up(loaded: LoadedModel) -> tuple[PrivateHistories, torch.Tensor]:
    generator = np.random.default_rng(0)
    vectors = centred(generator.normal(size=(ITEMS, loaded.hidden_size)).astype(np.float32))
    histories = PrivateHistories(
        tuple(str(user) for user in range(USERS)),
        np.arange(USERS + 1, dtype=np.int64) * INTERACTIONS,
        generator.integers(ITEMS, size=USERS * INTERACTIONS),
        np.zeros(USERS * INTERACTIONS),
    )
    return histories, item_tensor(vectors, loaded.runtime.device, loaded.runtime.precision)
