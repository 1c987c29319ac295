"""One step on one batch in six ways: without privacy, ours, and as others take per-row gradients.

All ways compute the same sum on the same rows; only the last ones' noise is torch's own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from opacus.grad_sample import GradSampleModule, GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPTensorFastGradientClipping
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from client.trainer import (
    BELOW_NORM,
    Trainable,
    micro_batches,
    private_steps,
    user_rows,
)
from shared.config import Config
from shared.devices import Runtime
from shared.histories import PrivateHistories
from shared.models import LoadedModel
from shared.plan import Mechanism
from shared.randomness import from_operating_system
from shared.softmax import next_item_losses
from shared.user_model import Rows, UserModel, build_user_model, had_before, row_losses

Users = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """What every way steps on: full windows, so that none has padding to save."""

    histories: PrivateHistories
    items: Tensor
    prior: Tensor


@dataclass(frozen=True)
class Way:
    """One way to step. ``model`` is its own; ``step`` changes its trained parameters."""

    model: UserModel
    step: Callable[[], None]


@dataclass(frozen=True)
class StepOptions:
    """Of all ways alike. Clipping is flat, as Opacus ships it."""

    noise_multiplier: float
    step_size: float


def ways(config: Config, loaded: LoadedModel, batch: Batch, options: StepOptions) -> dict[str, Way]:
    """The ways by name: ``forward``, ``non_private``, ``private``, ``opacus_hooks``,
    ``opacus_ghost`` and ``vmap``.

    Args:
        config: model and training; a micro-batch has as many rows in all ways.
        loaded: base and runtime; each way has a fresh model of it.
        batch: rows, items, prior.
        options: noise and step.
    """
    makers: dict[str, Callable[[_Task], Callable[[], None]]] = {
        "forward": _forward,
        "non_private": _non_private,
        "private": _private,
        "opacus_hooks": _opacus_hooks,
        "opacus_ghost": _opacus_ghost,
        "vmap": _vmap,
    }
    found = {}
    for name, make in makers.items():
        model = build_user_model(loaded.start, config.model, loaded.runtime, config.run.seed)
        task = _Task(config, model.train(), loaded.runtime, batch, options)
        found[name] = Way(model, make(task))
    return found


@dataclass(frozen=True)
class _Task:
    config: Config
    model: UserModel
    runtime: Runtime
    batch: Batch
    options: StepOptions

    @property
    def users(self) -> int:
        return len(self.batch.histories)

    @property
    def clipping_norm(self) -> float:
        return self.config.privacy.clipping_norm

    def sgd(self) -> torch.optim.SGD:
        return torch.optim.SGD(list(self.model.trained.values()), lr=self.options.step_size)

    def opacus_options(self) -> dict[str, Any]:
        return {
            "noise_multiplier": self.options.noise_multiplier,
            "max_grad_norm": self.clipping_norm,
            "expected_batch_size": self.users,
            # "mean" would multiply a row's gradient by the size of its micro-batch.
            "loss_reduction": "sum",
        }

    def groups(self) -> Sequence[Users]:
        rows, window = self.config.training.micro_batch_rows, self.config.model.window
        return micro_batches(self.batch.histories, np.arange(self.users), window, rows)

    def losses(self, model: nn.Module, group: Users) -> Tensor:
        batch, window = self.batch, self.config.model.window
        rows = user_rows(batch.histories, group, window, self.runtime.device)
        with self.runtime.autocast():
            return row_losses(model, rows, batch.items, batch.prior, self.model.temperature)


def _forward(task: _Task) -> Callable[[], None]:
    @torch.no_grad()
    def step() -> None:
        for group in task.groups():
            task.losses(task.model, group)

    return step


def _non_private(task: _Task) -> Callable[[], None]:
    optimizer = task.sgd()

    def step() -> None:
        for group in task.groups():
            torch.autograd.backward(task.losses(task.model, group).sum())
        for parameter in task.model.trained.values():
            assert parameter.grad is not None
            parameter.grad /= task.users
        optimizer.step()
        optimizer.zero_grad()

    return step


def _private(task: _Task) -> Callable[[], None]:
    ready = Trainable.of(task.model, task.runtime)
    mechanism = Mechanism("step", 1.0, task.options.noise_multiplier, task.clipping_norm)
    training = task.config.training.model_copy(update={"step_size": task.options.step_size})

    def step() -> None:
        private_steps(
            ready,
            task.batch.histories,
            task.batch.items,
            task.batch.prior,
            mechanism,
            1,
            task.users,
            task.config.model.window,
            "flat",
            training,
            from_operating_system(),
        )

    return step


def _opacus_hooks(task: _Task) -> Callable[[], None]:
    wrapped = GradSampleModule(task.model, loss_reduction="sum", strict=False)
    optimizer = DPOptimizer(task.sgd(), **task.opacus_options())
    return _opacus(task, wrapped, optimizer, lambda losses: torch.autograd.backward(losses.sum()))


def _opacus_ghost(task: _Task) -> Callable[[], None]:
    wrapped = GradSampleModuleFastGradientClipping(
        task.model,
        loss_reduction="sum",
        strict=False,
        max_grad_norm=task.clipping_norm,
        use_ghost_clipping=True,
    )
    optimizer = DPOptimizerFastGradientClipping(task.sgd(), **task.opacus_options())

    def backward(losses: Tensor) -> None:
        DPTensorFastGradientClipping(wrapped, optimizer, losses, "sum").backward()

    return _opacus(task, wrapped, optimizer, backward)


def _opacus(
    task: _Task,
    wrapped: nn.Module,
    optimizer: DPOptimizer,
    backward: Callable[[Tensor], None],
) -> Callable[[], None]:
    """Micro-batches by Opacus's own means, and a step by the mean instead of the sum."""
    original = optimizer.original_optimizer.param_groups[0]
    original["lr"] /= task.users

    def step() -> None:
        groups = task.groups()
        for place, group in enumerate(groups):
            backward(task.losses(wrapped, group))
            optimizer.signal_skip_step(place < len(groups) - 1)
            optimizer.step()
            optimizer.zero_grad()

    return step


def _vmap(task: _Task) -> Callable[[], None]:
    model, batch, runtime = task.model, task.batch, task.runtime
    trained, norm = model.trained, task.clipping_norm
    optimizer = task.sgd()

    def loss(
        parameters: dict[str, Tensor], embedded: Tensor, targets: Tensor, prior: Tensor
    ) -> Tensor:
        hidden = functional_call(model, parameters, (embedded[None],))[0]
        direction = nn.functional.normalize(hidden.float(), dim=-1)
        return next_item_losses(direction, targets, batch.items, prior, model.temperature).mean()

    gradients = vmap(grad(loss), in_dims=(None, 0, 0, 0))

    def step() -> None:
        values = {name: p.detach() for name, p in trained.items()}
        sums = {name: torch.zeros_like(value) for name, value in values.items()}
        for group in task.groups():
            rows = user_rows(batch.histories, group, task.config.model.window, runtime.device)
            embedded = batch.items[rows.inputs].float()
            with runtime.autocast():
                found = gradients(values, embedded, rows.targets, _priors(rows, batch.prior))
            flat = torch.cat([g.reshape(len(group), -1).float() for g in found.values()], dim=1)
            factor = (norm * BELOW_NORM / flat.norm(dim=1)).clamp(max=1.0)
            for name, value in found.items():
                sums[name] += torch.einsum("r,r...->...", factor, value.float())
        for name, parameter in trained.items():
            deviation = norm * task.options.noise_multiplier
            noise = torch.randn_like(sums[name]) * deviation
            parameter.grad = (sums[name] + noise) / task.users
        optimizer.step()
        optimizer.zero_grad()

    return step


def _priors(rows: Rows, prior: Tensor) -> Tensor:
    """``[rows, positions, items]``: what a row has had at a position has no chance there."""
    owner, place = (rows.targets >= 0).nonzero(as_tuple=True)
    position, item = had_before(rows.inputs[owner], place, rows.targets[owner, place]).T
    table = prior.repeat(*rows.inputs.shape, 1)
    table[owner[position], place[position], item] = -torch.inf
    return table
