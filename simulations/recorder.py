"""The records that a federation's rounds leave in ``metrics.jsonl``, written while it runs."""

import dataclasses
import time
from dataclasses import dataclass, field
from pathlib import Path

from server.observers import Observer, PrivateEvaluation, RoundReport
from shared.accounting import epsilon_pld, epsilon_prv, epsilon_rdp
from shared.config import Config
from shared.delivery import statistics_from_arrays
from shared.plan import Noise, PrivacyPlan
from shared.statistics import Statistics
from shared.wire import AnyArrays
from simulations import records
from simulations.federate import TrainingClock, scorer
from simulations.methods import federated
from simulations.progress import EpsilonCurve
from simulations.timing import StageClock
from simulations.world import World


@dataclass
class Recorder(Observer):
    """Writes a federation's rounds and evaluations to ``metrics.jsonl``."""

    world: World
    config: Config
    path: Path
    run: str
    curve: EpsilonCurve | None = None
    clock: TrainingClock = field(default_factory=TrainingClock)
    stages: StageClock = field(default_factory=StageClock)
    statistics: Statistics | None = None
    private_evaluation: records.PrivateEvaluationRecord | None = None

    def planned(self, plan: PrivacyPlan, organisations: int) -> None:
        """Write the guarantee of the private run."""
        self.curve = EpsilonCurve(plan, self.config.training.steps_per_round)
        if self.run == "private":
            records.append_record(self.path, guarantee(plan, self.config))

    def statistics_ready(self, arrays: AnyArrays) -> None:
        """Keep them for the evaluations; the folder holds them."""
        self.statistics = statistics_from_arrays(arrays, self.world.dataset.catalogue)
        self.stages.taken()

    def round_finished(self, report: RoundReport) -> None:
        """Write the round, and every so often how well the adapter ranks."""
        assert self.curve is not None
        stages = self.stages.taken()
        records.append_record(
            self.path,
            records.RoundRecord(
                run=self.run,
                round=report.round,
                rounds=report.rounds,
                epsilon=self.curve.after(report.round),
                seconds=report.seconds,
                overhead_ms=self._overhead_ms(report),
                update_norm=report.update_norm,
                replies=report.replies,
                stages=stages if self._all_here else {},
            ),
        )
        every = self.config.evaluation.every_rounds
        if every and (report.round % every == 0 or report.round == report.rounds):
            self._evaluate(report)
            self.stages.taken()

    def evaluated(self, evaluation: PrivateEvaluation) -> None:
        """Write what the organisations said of ranking quality."""
        self.private_evaluation = records.PrivateEvaluationRecord(
            run=self.run, cutoff=self.config.evaluation.cutoff, **dataclasses.asdict(evaluation)
        )
        records.append_record(self.path, self.private_evaluation)

    @property
    def _all_here(self) -> bool:
        """Whether the organisations are in this process, so that their time is known."""
        return self.config.run.engine == "in-process"

    def _overhead_ms(self, report: RoundReport) -> float | None:
        if not self._all_here:
            return None
        return max(0.0, self.clock.overhead_s(report)) * 1000.0

    def _evaluate(self, report: RoundReport) -> None:
        assert self.statistics is not None
        started = time.perf_counter()
        scores = scorer(
            self.world, self.config, self.statistics, report.adapter, report.reliability
        )
        found = federated(self.world, "federation", self.world.validation, scores)
        records.append_record(
            self.path,
            records.EvaluationRecord(
                run=self.run,
                round=report.round,
                part="validation",
                hr=found.hr,
                ndcg=found.ndcg,
                seconds=time.perf_counter() - started,
            ),
        )


def guarantee(plan: PrivacyPlan, config: Config) -> records.GuaranteeRecord:
    """The plan as a record, by all three accountants."""
    events, noisy = plan.events(), plan.noise is not Noise.NONE
    sigma = {
        m.name: m.noise_multiplier
        for m in (plan.popularity, plan.cooccurrence, plan.step, plan.evaluation)
        if m is not None
    }
    return records.GuaranteeRecord(
        unit="user",
        adjacency=plan.adjacency.value,
        epsilon=plan.epsilon,
        delta=plan.delta,
        noise=plan.noise.value,
        aggregation=plan.aggregation.value,
        least_participants=plan.least_participants,
        colluders=plan.colluders,
        private=noisy and config.privacy.noise_seed < 0,
        sigma_popularity=sigma.get("popularity"),
        sigma_cooccurrence=sigma.get("cooccurrence"),
        sigma_step=sigma.get("step"),
        sampling_rate=plan.step.sampling_rate if plan.step else 1.0,
        steps=plan.steps,
        accountant="PLD",
        epsilon_pld=epsilon_pld(events, plan.delta) if noisy else None,
        epsilon_prv=epsilon_prv(events, plan.delta) if noisy else None,
        epsilon_rdp=epsilon_rdp(events, plan.delta) if noisy else None,
        epsilon_alone=plan.spent(binds="alone") if noisy else None,
    )
