"""Every fault that canaries can see, put back into the real private step, and found by the audit.

Seeds are fixed, so that a test gives the same each time.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertModel

from audit.canary_checks import check_all
from audit.canary_series import Series, series_of
from audit.empirical import EmpiricalReport, report_on
from client import trainer
from client.canaries import Canaries, noised_sum
from client.trainer import PrivateOptimizer, Trainable, private_steps
from shared.adapters import adapter_arrays, load_arrays
from shared.assets import resolve_base
from shared.config import ModelSection, StatisticsSection, TrainingSection
from shared.devices import Runtime
from shared.histories import PrivateHistories
from shared.models import quiet
from shared.plan import Mechanism, Noise, PrivacyPlan
from shared.randomness import PrivateRandom, from_seed
from shared.statistics import cooccurrence_sum, popularity_sum
from shared.user_model import Rows, build_user_model

DIM, ITEMS, USERS = 32, 300, 6
CANARIES = 2400
RATE = 0.25
STEPS = 24
STEP = Mechanism("step", RATE, 1.2, 0.7)
BATCH = RATE * (USERS + CANARIES / 2)

Run = Callable[..., Series]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Trainable:
    """A tiny BERT with 3,328 trained values, under hooks."""
    quiet()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("base") / "bert"
    sizes = {"hidden_size": DIM, "intermediate_size": 48, "vocab_size": 40}
    config = BertConfig(num_hidden_layers=2, num_attention_heads=4, **sizes)
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    options = ModelSection.model_validate({"rank": 8, "layers": 2})
    runtime = Runtime("cpu", "float32")
    return Trainable.of(build_user_model(resolve_base(str(folder)), options, runtime, 0), runtime)


@pytest.fixture(scope="module")
def histories() -> PrivateHistories:
    """Six users with eight interactions."""
    items = np.random.default_rng(0).integers(ITEMS, size=USERS * 8)
    names = tuple(str(user) for user in range(USERS))
    return PrivateHistories(names, np.arange(USERS + 1) * 8, items, np.zeros(len(items)))


@pytest.fixture
def run(model: Trainable, histories: PrivateHistories) -> Run:
    """What canaries see of an organisation's rounds, by the real private steps."""
    vectors = torch.randn(ITEMS, DIM, generator=torch.Generator().manual_seed(0))

    def steps(
        mechanism: Mechanism = STEP,
        *,
        name: str = "one",
        seeds: Sequence[int] = (0,),
        count: int = STEPS,
        noise: Noise = Noise.OWN,
    ) -> Series:
        plan = PrivacyPlan(None, None, mechanism, None, count * len(seeds), 1e-5, 8.0, noise)
        records = []
        for number, seed in enumerate(seeds):
            trained = list(model.model.trained.values())
            canaries = Canaries.on_adapter(CANARIES, "run", number + 1, trained)
            assert canaries is not None
            start = adapter_arrays(model.model)
            private_steps(
                model,
                histories,
                torch.nn.functional.normalize(vectors, dim=-1),
                torch.zeros(ITEMS),
                mechanism,
                count,
                USERS,
                4,
                "automatic",
                TrainingSection(),
                from_seed(seed),
                canaries,
            )
            load_arrays(model.model, start)
            records.append(canaries.record(mechanism, plan))
        return series_of(name, records)

    return steps


def failed(report: EmpiricalReport) -> set[str]:
    """Names of the tests that fail."""
    return {c.name for c in report.checks if c.p_value < report.least_p_value}


def test_a_sound_run_passes_and_is_bounded_close_to_its_claim(run: Run) -> None:
    report = report_on([run(), run(name="two", seeds=(1,))])
    assert report.faults == []
    for bound in report.bounds:
        assert 0.8 * bound.claim < bound.low < bound.claim
    assert {check.name for check in report.checks} == {
        "noise level",
        "noise shape",
        "clipping",
        "sampling: absent",
        "sampling: rate",
        "sampling: batches",
        "sampling: members",
        "reuse: steps",
        "reuse: organisations",
        "one house short",
    }


def test_sound_rounds_over_all_users_pass(run: Run) -> None:
    everyone = Mechanism("step", 1.0, 2.0, 0.7)
    report = report_on([run(everyone, seeds=(0, 1, 2, 3), count=2)])
    assert report.faults == []
    assert 0.75 * report.bounds[0].claim < report.bounds[0].low < report.bounds[0].claim


@pytest.mark.parametrize(
    ("factor", "refuted"),
    [(0.0, True), (1 / BATCH, True), (BATCH**-0.5, True), (0.5, True), (0.9, False)],
    ids=["off", "over-batch-size", "over-its-root", "half", "nine-tenths"],
)
def test_noise_that_is_too_weak(
    run: Run, monkeypatch: pytest.MonkeyPatch, factor: float, refuted: bool
) -> None:
    draw = Mechanism.noise
    monkeypatch.setattr(Mechanism, "noise", lambda *given: factor * draw(*given))
    report = report_on([run()])
    assert "noise level" in failed(report)
    assert report.bounds[0].above is refuted


def test_noise_of_another_shape(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Laplace noise of the planned deviation: no mean and no variance tells it from a Gaussian."""

    def laplace(
        self: Mechanism, shape: tuple[int, ...], random: PrivateRandom
    ) -> npt.NDArray[np.float64]:
        return random.generator.laplace(0.0, self.deviation / 2**0.5, shape)

    monkeypatch.setattr(Mechanism, "noise", laplace)
    assert "noise shape" in failed(report_on([run()]))


def test_a_sum_divided_by_the_sampled_batch_size(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    finish = PrivateOptimizer.finish_step

    def by_batch(self: PrivateOptimizer, canaries: Canaries | None = None) -> None:
        # Canaries are no part of the divisor; a private one has them, or too few users.
        self.divisor = BATCH
        finish(self, canaries)

    monkeypatch.setattr(PrivateOptimizer, "finish_step", by_batch)
    assert "noise level" in failed(report_on([run()]))


def test_clipping_turned_off(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def unclipped(self: PrivateOptimizer) -> None:
        for parameter in self.params:
            _add(parameter, parameter.grad_sample.sum(0))

    monkeypatch.setattr(PrivateOptimizer, "clip_and_accumulate", unclipped)
    report = report_on([run()])
    assert "clipping" in failed(report)
    assert report.bounds[0].above


def test_clipping_of_a_batch_instead_of_its_rows(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It hides from every lower bound: the sum is short enough."""

    def by_batch(self: PrivateOptimizer) -> None:
        sums = [parameter.grad_sample.sum(0) for parameter in self.params]
        norm = torch.stack([part.norm() for part in sums]).norm()
        for parameter, part in zip(self.params, sums, strict=True):
            _add(parameter, part * (self.mechanism.sensitivity / norm).clamp(max=1.0))

    monkeypatch.setattr(PrivateOptimizer, "clip_and_accumulate", by_batch)
    report = report_on([run()])
    assert "clipping" in failed(report)
    assert not report.bounds[0].above


def test_clipping_of_examples_sold_as_clipping_of_users(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_row = trainer.user_rows

    def two_rows(*given: object) -> Rows:
        rows = one_row(*given)  # type: ignore[arg-type]
        return Rows(rows.inputs.repeat(2, 1), rows.targets.repeat(2, 1))

    monkeypatch.setattr(trainer, "user_rows", two_rows)
    report = report_on([run()])
    assert "clipping" in failed(report)
    assert report.bounds[0].above


def test_the_same_users_in_each_batch(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = Mechanism.sample
    monkeypatch.setattr(
        Mechanism, "sample", lambda self, people, _: sample(self, people, from_seed(9))
    )
    assert "sampling: members" in failed(report_on([run()]))


def test_shuffled_batches_sold_as_poisson_sampling(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    rest: list[npt.NDArray[np.int64]] = []

    def next_batch(self: Mechanism, people: int, random: PrivateRandom) -> npt.NDArray[np.int64]:
        if not rest:
            order = random.generator.permutation(people)
            rest.extend(np.array_split(order, round(1 / self.sampling_rate)))
        return np.sort(rest.pop())

    monkeypatch.setattr(Mechanism, "sample", next_batch)
    assert {"sampling: batches", "sampling: members"} <= failed(report_on([run()]))


def test_batches_of_a_fixed_size_sold_as_poisson_sampling(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fixed(self: Mechanism, people: int, random: PrivateRandom) -> npt.NDArray[np.int64]:
        size = round(self.sampling_rate * people)
        return np.sort(random.generator.permutation(people)[:size])

    monkeypatch.setattr(Mechanism, "sample", fixed)
    assert "sampling: batches" in failed(report_on([run()]))


def test_more_users_sampled_than_planned(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Mechanism,
        "sample",
        lambda _, people, random: np.flatnonzero(random.generator.random(people) < 1.1 * RATE),
    )
    assert "sampling: rate" in failed(report_on([run()]))


def test_users_left_out_of_a_sum_over_all(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Mechanism, "sample", lambda _, people, __: np.arange(1, people))
    everyone = Mechanism("step", 1.0, 6.0, 0.7)
    assert "sampling: all" in failed(report_on([run(everyone, count=2)]))


def test_noise_reused_from_step_to_step(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = Mechanism.noise
    monkeypatch.setattr(
        Mechanism, "noise", lambda self, shape, _: draw(self, shape, from_seed(*shape))
    )
    assert "reuse: steps" in failed(report_on([run()]))


def test_noise_reused_from_round_to_round(run: Run) -> None:
    assert "reuse: steps" in failed(report_on([run(seeds=(3, 4, 3), count=2)]))


def test_noise_reused_from_organisation_to_organisation(run: Run) -> None:
    report = report_on(
        [run(seeds=(3,)), run(name="two", seeds=(4,)), run(name="three", seeds=(3,))]
    )
    assert "reuse: organisations" in failed(report)
    assert "reuse: steps" not in failed(report)


def _eight(run: Run, alone: bool = False) -> EmpiricalReport:
    """Eight organisations that share one noise, of whom all or the first alone add their part."""
    shared = Mechanism("step", RATE, 1.2, 0.7, noise_share=8**-0.5)
    series = []
    for number in range(8):
        with pytest.MonkeyPatch.context() as patch:
            if alone and number:
                patch.setattr(Mechanism, "noise", lambda _, shape, __: np.zeros(shape))
            options = {"seeds": (number,), "noise": Noise.SHARED, "count": 8}
            series.append(run(shared, name=str(number), **options))
    return report_on(series)


def test_eight_organisations_that_share_the_noise_are_bounded_together(run: Run) -> None:
    report = _eight(run)
    assert report.faults == []
    together, *alone = sorted(report.bounds, key=lambda bound: bound.where == "all organisations")[
        ::-1
    ]
    assert 0.8 * together.claim < together.low < together.claim
    assert all(bound.claim > 3 * together.claim for bound in alone)


def test_one_of_eight_organisations_adds_its_share(run: Run) -> None:
    report = _eight(run, alone=True)
    assert "one house short" in failed(report)
    assert report.bounds[-1].above


def test_an_organisation_that_left_no_record_is_missed(run: Run) -> None:
    shared = Mechanism("step", RATE, 1.2, 0.7, noise_share=8**-0.5)
    series = [run(shared, name=str(n), seeds=(n,), noise=Noise.SHARED, count=2) for n in range(7)]
    assert {c.name for c in check_all(series) if c.p_value == 0.0} == {"one house short"}


def _add(parameter: Tensor, part: Tensor) -> None:
    total = getattr(parameter, "summed_grad", None)
    parameter.summed_grad = part.double() if total is None else total + part  # type: ignore[attr-defined]
    parameter.grad_sample = None  # type: ignore[attr-defined]


KEYS = np.random.default_rng(0).integers(2**63, size=3000).astype(np.uint64)
TOP = np.random.default_rng(1).permutation(3000)[:90].astype(np.int64)


def statistic(kind: str, histories: PrivateHistories, name: str = "one", seed: int = 0) -> Series:
    """What canaries see of one statistic."""
    mechanism = Mechanism(kind, 1.0, 0.7, 1.0)
    if kind == "popularity":
        canaries = Canaries.on_items(CANARIES, "run", 0, KEYS)
    else:
        canaries = Canaries.on_pairs(CANARIES, "run", 0, KEYS[TOP], TOP)
    assert canaries is not None

    def total(chosen: PrivateHistories) -> npt.NDArray[np.float64]:
        if kind == "popularity":
            return popularity_sum(chosen, len(KEYS))
        return cooccurrence_sum(chosen, TOP, StatisticsSection())

    noised_sum(histories, total, mechanism, from_seed(seed), canaries)
    plan = PrivacyPlan(None, None, None, None, 0, 1e-5, 8.0, Noise.OWN)
    return series_of(name, [canaries.record(mechanism, plan)])


def test_sound_statistics_pass_and_are_bounded_close_to_their_claim(
    histories: PrivateHistories,
) -> None:
    series = [
        statistic(kind, histories, name, seed)
        for seed, (kind, name) in enumerate(
            (kind, name) for kind in ("popularity", "cooccurrence") for name in ("one", "two")
        )
    ]
    report = report_on(series)
    assert report.faults == []
    for bound in report.bounds:
        assert 0.8 * bound.claim < bound.low < bound.claim


@pytest.mark.parametrize("kind", ["popularity", "cooccurrence"])
@pytest.mark.parametrize("factor", [0.0, 0.5, 0.9])
def test_a_statistic_with_too_little_noise(
    histories: PrivateHistories, monkeypatch: pytest.MonkeyPatch, kind: str, factor: float
) -> None:
    draw = Mechanism.noise
    monkeypatch.setattr(Mechanism, "noise", lambda *given: factor * draw(*given))
    report = report_on([statistic(kind, histories)])
    assert "noise level" in failed(report)
    assert report.bounds[0].above is (factor < 0.9)


def test_a_statistic_whose_rows_are_not_normalised(
    histories: PrivateHistories, monkeypatch: pytest.MonkeyPatch
) -> None:
    def counted(chosen: PrivateHistories, items: int) -> npt.NDArray[np.float64]:
        return np.bincount(chosen.items, minlength=items).astype(float)

    monkeypatch.setitem(globals(), "popularity_sum", counted)
    report = report_on([statistic("popularity", histories)])
    assert "clipping" in failed(report)
    assert report.bounds[0].above
