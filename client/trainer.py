"""Private steps at a client: users sampled, gradients clipped per user, summed, noised, applied.

DP-SGD (Abadi et al. 2016) with a user as the row. Opacus gives per-row gradients and the
optimiser's frame; clipping, noise and divisor come from the plan's mechanism.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn

from client.canaries import Canaries
from shared.adapters import Arrays, adapter_arrays
from shared.config import TrainingSection
from shared.devices import Runtime
from shared.fixed_point import clamped
from shared.histories import PrivateHistories
from shared.plan import Mechanism
from shared.randomness import PrivateRandom
from shared.softmax import Candidates, public_candidates
from shared.stages import stage
from shared.user_model import Rows, UserModel, pad_windows, row_losses

# Keeps rounding, of norms and of sums over many rows, from passing the clipping norm.
BELOW_NORM = 1.0 - 1e-5
SMALLEST_NORM = 1e-30
LARGEST_NORM = 1e30


@dataclass(frozen=True)
class Trainable:
    """A user model ready for private steps. Public: shared by all organisations of a simulation.

    Attributes:
        model: the user model.
        wrapped: the same model under Opacus's hooks.
        runtime: device and precision.
    """

    model: UserModel
    wrapped: GradSampleModule
    runtime: Runtime

    @classmethod
    def of(cls, model: UserModel, runtime: Runtime) -> "Trainable":
        """Wrap a model; per-row gradients are of the sum of the rows' losses."""
        # The hooks of layers below the first adapter fire without gradients of inputs; torch warns.
        warnings.filterwarnings("ignore", message="Full backward hook is firing when gradients")
        wrapped = GradSampleModule(model, loss_reduction="sum", strict=False)
        return cls(model.train(), wrapped, runtime)


class PrivateOptimizer(DPOptimizer):  # type: ignore[misc]
    """Opacus's optimiser with automatic clipping, the plan's noise and a public divisor.

    Automatic clipping scales every row's gradient to the clipping norm (Bu et al. 2023,
    arXiv 2206.07136); flat clipping only shortens longer ones. A row whose gradient is not finite
    counts as a zero row.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        mechanism: Mechanism,
        clipping: str,
        declared_users: int,
        random: PrivateRandom,
    ) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=mechanism.noise_multiplier,
            max_grad_norm=mechanism.sensitivity,
            expected_batch_size=None,
            loss_reduction="sum",
        )
        self.mechanism = mechanism
        self.clipping = clipping
        self.divisor = mechanism.sampling_rate * declared_users
        self.random = random
        self.broken_rows = 0

    def clip_and_accumulate(self) -> None:
        """Add this micro-batch's clipped gradients to the sum; no noise, no division.

        Under autocast the per-row gradients are bfloat16. A factor or a running sum in that
        precision would let one user move the sum by more than the clipping norm, so norms, scaled
        rows and the sum are float64.
        """
        samples = [p.grad_sample.reshape(len(p.grad_sample), -1).float() for p in self.params]
        parts = [torch.linalg.vector_norm(g, dim=1, dtype=torch.float64) for g in samples]
        norms = torch.stack(parts, dim=1).norm(dim=1)
        factor = self.mechanism.sensitivity * BELOW_NORM / norms
        if self.clipping == "flat":
            factor = factor.clamp(max=1.0)
        # NaN compares False. Beyond these bounds a gradient is no longer what was meant.
        finite = norms < LARGEST_NORM
        # A zero gradient stays zero; so does one that is not finite, whose values must not be
        # multiplied (NaN times 0 is NaN).
        usable_norm = finite & (norms > SMALLEST_NORM)
        factor = torch.where(usable_norm, factor, torch.zeros_like(factor))
        self.broken_rows += int((~finite).sum())
        for parameter, rows in zip(self.params, samples, strict=True):
            usable = rows if bool(finite.all()) else torch.nan_to_num(rows, 0.0, 0.0, 0.0)
            clipped = (factor @ usable.double()).reshape(parameter.shape)
            total = parameter.summed_grad
            parameter.summed_grad = clipped if total is None else total + clipped
            parameter.grad_sample = None

    def finish_step(self, canaries: Canaries | None = None) -> None:
        """Noise the sum once, divide by the public expected batch size, and apply the gradient.

        Runs for an empty sample too: then pure noise is applied. Canaries see the gradient that is
        applied, which is without their parts.
        """
        with stage("noise"):
            noised = [self._noised(parameter) for parameter in self.params]
        if canaries is not None:
            canaries.take_out(noised)
        with stage("apply"):
            for parameter, total in zip(self.params, noised, strict=True):
                parameter.grad = (total / self.divisor).to(parameter.dtype)
                parameter.summed_grad = None
            if canaries is not None:
                canaries.read([parameter.grad for parameter in self.params])
            self.original_optimizer.step()
            self.original_optimizer.zero_grad(set_to_none=True)

    def released(self, canaries: Canaries | None, clamped_to: int) -> list[Tensor]:
        """The noised sum itself, each coordinate bounded before the noise; nothing is applied.

        Args:
            canaries: see the sum that is returned, which is without their parts.
            clamped_to: declared users, for ``shared.fixed_point.clamped``.
        """
        with stage("noise"):
            noised = [self._noised(parameter, clamped_to) for parameter in self.params]
        if canaries is not None:
            canaries.take_out(noised)
            canaries.read(noised)
        for parameter in self.params:
            parameter.summed_grad = None
        return noised

    def _noised(self, parameter: nn.Parameter, clamped_to: int = 0) -> Tensor:
        total: Tensor | None = parameter.summed_grad  # type: ignore[attr-defined]
        if total is None:
            total = torch.zeros_like(parameter, dtype=torch.float64)
        values = total.cpu().numpy()
        if clamped_to:
            values = clamped(values, clamped_to, self.mechanism.sensitivity)
        noised = self.mechanism.noised(values, self.random)
        return torch.from_numpy(noised).to(parameter.device)


@dataclass(frozen=True)
class Update:
    """Result of a client's private steps.

    Attributes:
        arrays: trained parameters after minus before, noised.
        broken_rows: rows whose gradient was not finite. Private: stays at the organisation.
    """

    arrays: Arrays
    broken_rows: int


def private_sum(
    trainable_model: Trainable,
    histories: PrivateHistories,
    items: Tensor,
    prior: Tensor,
    mechanism: Mechanism,
    declared_users: int,
    window: int,
    clipping: str,
    options: TrainingSection,
    random: PrivateRandom,
    canaries: Canaries | None = None,
    public_seed: int = 0,
) -> npt.NDArray[np.float64]:
    """The noised sum of clipped gradients of one private step, for a sum of several organisations.

    The model stays as it is: whoever has the sum of all divides and steps.

    Args:
        trainable_model, histories, items, prior, mechanism: as of ``private_steps``.
        declared_users: public size, which bounds what is encoded.
        window, clipping, options, random, canaries, public_seed: as of ``private_steps``.

    Returns:
        ``[coordinates] float64``: the trained parameters one after the other, in order of name.
    """
    task = _Task(trainable_model, histories, items, prior, mechanism, window, options, random)
    optimizer = task.optimizer(clipping, declared_users)
    if canaries is not None:
        task.introduce(canaries, optimizer, 1.0)
    task.accumulate(optimizer, canaries, torch.Generator().manual_seed(public_seed))
    noised = optimizer.released(canaries, clamped_to=declared_users)
    names = list(trainable_model.model.trained)
    parts = {name: part.cpu().numpy().ravel() for name, part in zip(names, noised, strict=True)}
    return np.concatenate([parts[name] for name in sorted(names)])


def private_steps(
    trainable_model: Trainable,
    histories: PrivateHistories,
    items: Tensor,
    prior: Tensor,
    mechanism: Mechanism,
    steps: int,
    declared_users: int,
    window: int,
    clipping: str,
    options: TrainingSection,
    random: PrivateRandom,
    canaries: Canaries | None = None,
    public_seed: int = 0,
) -> Update:
    """Run ``steps`` private steps from the model's present adapter and return the difference.

    Args:
        trainable_model: the model; its trained parameters are changed in place.
        histories: what may be learnt from; one row per user. Private.
        items: ``[items, dim]`` unit item vectors on the model's device.
        prior: ``[items] float32`` log popularity, already released.
        mechanism: sampling, clipping norm and noise of one step.
        steps: number of steps.
        declared_users: public size that, times the sampling rate, divides the sum.
        window: newest items of a history that form the row.
        clipping: ``automatic`` or ``flat``.
        options: step size, micro-batch rows and most items of the normaliser.
        random: noise and sampling.
        canaries: that ride along, by ``Canaries.on_adapter``; the update is without their parts.
        public_seed: of the items that stand for a catalogue larger than
            ``options.softmax_items``; anew in each step.
    """
    model = trainable_model.model
    before = adapter_arrays(model)
    public = torch.Generator().manual_seed(public_seed)
    task = _Task(trainable_model, histories, items, prior, mechanism, window, options, random)
    optimizer = task.optimizer(clipping, declared_users)
    if canaries is not None:
        task.introduce(canaries, optimizer, optimizer.divisor)
    for _ in range(steps):
        task.accumulate(optimizer, canaries, public)
        optimizer.finish_step(canaries)
    after = adapter_arrays(model)
    return Update({name: after[name] - before[name] for name in before}, optimizer.broken_rows)


@dataclass(frozen=True)
class _Task:
    """What one step sums up; attributes as of ``private_steps``."""

    trainable_model: Trainable
    histories: PrivateHistories
    items: Tensor
    prior: Tensor
    mechanism: Mechanism
    window: int
    options: TrainingSection
    random: PrivateRandom

    def optimizer(self, clipping: str, declared_users: int) -> PrivateOptimizer:
        """Clips, adds up and noises what is trained."""
        trained = list(self.trainable_model.model.trained.values())
        sgd = torch.optim.SGD(trained, lr=self.options.step_size)
        return PrivateOptimizer(sgd, self.mechanism, clipping, declared_users, self.random)

    def introduce(self, canaries: Canaries, optimizer: PrivateOptimizer, divisor: float) -> None:
        """Tell canaries how many rows a user has, and by what the sum that they see is divided."""
        # Asked of the path itself: were it to make several rows of a user, each would be clipped
        # on its own, and a canary must show that.
        pretended = _long_history(3 * self.window, len(self.items))
        passes = self._passes(pretended, np.arange(1), torch.Generator())
        rows_of_one = sum(_dropped_rows(optimizer) for _ in passes)
        canaries.begin(self.mechanism.sensitivity, BELOW_NORM, divisor, rows_of_one)

    def accumulate(
        self, optimizer: PrivateOptimizer, canaries: Canaries | None, public: torch.Generator
    ) -> None:
        """Sample users and add their clipped gradients up in the optimiser."""
        users = len(self.histories)
        with stage("sampling"):
            entered = self.mechanism.sample(
                users + (canaries.members if canaries else 0), self.random
            )
        for _ in self._passes(self.histories, entered[entered < users], public):
            with stage("clip"):
                optimizer.clip_and_accumulate()
        if canaries is not None:
            for _ in canaries.gradient_rows(optimizer.params, entered, users):
                optimizer.clip_and_accumulate()

    def _passes(
        self, histories: PrivateHistories, who: npt.NDArray[np.int64], public: torch.Generator
    ) -> Iterator[None]:
        # Opacus records activations only of a model in training mode; there is no dropout.
        self.trainable_model.model.train()
        return backward_passes(
            self.trainable_model.wrapped,
            self.trainable_model,
            histories,
            who,
            self.items,
            self.prior,
            self.window,
            self.options.micro_batch_rows,
            public_candidates(self.prior, self.options.softmax_items, public),
        )


def _long_history(length: int, items: int) -> PrivateHistories:
    """One made-up user with ``length`` interactions."""
    places = np.arange(length, dtype=np.int64) % items
    return PrivateHistories(("",), np.array([0, length]), places, np.zeros(length))


def _dropped_rows(optimizer: PrivateOptimizer) -> int:
    """How many rows of gradients this micro-batch has; they are dropped."""
    rows = len(optimizer.params[0].grad_sample)
    for parameter in optimizer.params:
        parameter.grad, parameter.grad_sample = None, None
    return rows


def backward_passes(
    model: nn.Module,
    trainable_model: Trainable,
    histories: PrivateHistories,
    users: npt.NDArray[np.int64],
    items: Tensor,
    prior: Tensor,
    window: int,
    micro_batch_rows: int,
    candidates: Candidates | None = None,
) -> Iterator[None]:
    """One backward pass of the sum of row losses per micro-batch; yields after each.

    Args:
        model: the wrapped model for gradients per row, or the bare one for their sum alone.
        trainable_model: whose temperature, device and precision apply.
        histories, users: whose rows.
        items, prior, window, micro_batch_rows: as of ``private_steps``.
        candidates: of the normaliser; None: all items.
    """
    runtime = trainable_model.runtime
    for group in micro_batches(histories, users, window, micro_batch_rows):
        rated = trainable_model.model.rating_head is not None
        with stage("sampling"):
            rows = user_rows(histories, group, window, runtime.device, rated)
        with stage("forward"), runtime.autocast():
            temperature = trainable_model.model.temperature
            losses = row_losses(model, rows, items, prior, temperature, candidates)
        with stage("backward"):
            torch.autograd.backward(losses.sum())
        yield


def micro_batches(
    histories: PrivateHistories, users: npt.NDArray[np.int64], window: int, rows: int
) -> Sequence[npt.NDArray[np.int64]]:
    """Users with at least two interactions, by length, in groups of about ``rows`` full windows.

    Grouping by length saves padding; it changes no row's gradient and no sum beyond rounding.
    """
    lengths = np.minimum(histories.lengths[users], window + 1)
    kept = users[lengths >= 2]
    order = kept[np.argsort(histories.lengths[kept], kind="stable")]
    groups: list[npt.NDArray[np.int64]] = []
    start = len(order)
    while start > 0:
        longest = min(int(histories.lengths[order[start - 1]]), window + 1)
        size = max(1, rows * (window + 1) // longest)
        groups.append(order[max(0, start - size) : start])
        start -= size
    return groups


def user_rows(
    histories: PrivateHistories,
    users: npt.NDArray[np.int64],
    window: int,
    device: str,
    rated: bool = True,
) -> Rows:
    """One row per user: the newest ``window`` items and, for each, the item that followed.

    Ratings, where the data has them, come along for the rating head if ``rated``.
    """
    padded, lengths = pad_windows([histories.row(int(u)) for u in users], window + 1)
    targets = padded[:, 1:].copy()
    targets[np.arange(targets.shape[1]) >= (lengths - 1)[:, None]] = -1
    ratings = None
    if rated and histories.ratings is not None:
        values = np.full(padded.shape, np.nan, dtype=np.float32)
        for row, (end, length) in enumerate(
            zip(histories.offsets[users + 1], lengths, strict=True)
        ):
            values[row, :length] = histories.ratings[end - length : end]
        ratings = torch.from_numpy(values).to(device)
    return Rows(
        torch.from_numpy(padded[:, :-1].copy()).to(device),
        torch.from_numpy(targets).to(device),
        ratings,
    )
