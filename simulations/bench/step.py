"""``tacit bench step``: the private step against the same step without privacy, in one run."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from client.directory import trainable_model
from client.trainer import Trainable, backward_passes, private_steps
from shared.config import Config
from shared.encoder import centred
from shared.histories import PrivateHistories
from shared.models import LoadedModel, load_model
from shared.plan import Mechanism
from shared.randomness import from_operating_system
from shared.user_model import item_tensor

MATRIX = 2048
# So small that the weights stay as they were.
STEP_SIZE = 1e-9


@dataclass(frozen=True)
class StepRow:
    """Speed of one kind of step.

    Attributes:
        name: ``non_private`` or ``private``.
        rows_per_s: users a second, median over repeats.
        ratio_to_non_private: median time over that of the non-private step.
        fraction_of_matrix_rate: floating-point rate of the layers and the scores over that of a
            plain float32 matrix product in the same run.
    """

    name: str
    rows_per_s: float
    ratio_to_non_private: float
    fraction_of_matrix_rate: float


def measure(config: Config, users: int = 256, items: int = 1682, repeats: int = 7) -> list[StepRow]:
    """Time both steps in turn on made-up full windows.

    Args:
        config: base, model and training.
        users: rows of a step.
        items: size of the catalogue.
        repeats: of each; medians are reported.
    """
    loaded = load_model(config)
    generator = np.random.default_rng(0)
    window = config.model.window
    vectors = centred(generator.normal(size=(items, loaded.hidden_size)).astype(np.float32))
    device = loaded.runtime.device
    ready = trainable_model(loaded)
    data = _Data(
        _made_up(users, window + 1, items, generator),
        item_tensor(vectors, device, loaded.runtime.precision),
        torch.zeros(items, device=device),
    )
    steps: dict[str, Callable[[], None]] = {
        "non_private": lambda: _plain_step(config, ready, data),
        "private": lambda: _private_step(config, ready, data),
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    rates = []
    for repeat in range(repeats + 1):
        for name, step in steps.items():
            _synchronise(device)
            started = time.perf_counter()
            step()
            _synchronise(device)
            if repeat:
                times[name].append(time.perf_counter() - started)
        rates.append(_matrix_rate(device))
    medians = {name: statistics.median(values) for name, values in times.items()}
    work = _floating_point_operations(loaded, users, window, items)
    rate = statistics.median(rates[1:])
    return [
        StepRow(
            name,
            users / seconds,
            seconds / medians["non_private"],
            work / seconds / rate,
        )
        for name, seconds in medians.items()
    ]


def _plain_step(config: Config, ready: Trainable, data: "_Data") -> None:
    ready.wrapped.disable_hooks()
    try:
        optimizer = torch.optim.SGD(list(ready.model.trained.values()), lr=STEP_SIZE)
        for _ in backward_passes(
            ready.model,
            ready,
            data.histories,
            np.arange(len(data.histories)),
            data.items,
            data.prior,
            config.model.window,
            config.training.micro_batch_rows,
        ):
            pass
        optimizer.step()
        optimizer.zero_grad()
    finally:
        ready.wrapped.enable_hooks()


def _private_step(config: Config, ready: Trainable, data: "_Data") -> None:
    private_steps(
        ready,
        data.histories,
        data.items,
        data.prior,
        Mechanism("step", 1.0, 1.0, config.privacy.clipping_norm),
        1,
        len(data.histories),
        config.model.window,
        config.privacy.clipping,
        config.training.model_copy(update={"step_size": STEP_SIZE}),
        from_operating_system(),
    )


@dataclass(frozen=True)
class _Data:
    histories: PrivateHistories
    items: torch.Tensor
    prior: torch.Tensor


def _made_up(
    users: int, length: int, items: int, generator: np.random.Generator
) -> PrivateHistories:
    return PrivateHistories(
        tuple(str(u) for u in range(users)),
        np.arange(users + 1, dtype=np.int64) * length,
        generator.integers(items, size=users * length),
        np.zeros(users * length),
    )


def _floating_point_operations(loaded: LoadedModel, rows: int, positions: int, items: int) -> float:
    """Two per weight forward and two backward for inputs (weights are frozen); scores likewise."""
    weights = sum(
        p.numel()
        for name, p in loaded.model.named_parameters()
        if p.ndim == 2 and "embed" not in name and "lora_" not in name
    )
    return 4.0 * rows * positions * (weights + items * loaded.hidden_size)


def _matrix_rate(device: str) -> float:
    a, b = (torch.randn(MATRIX, MATRIX, device=device) for _ in range(2))
    _synchronise(device)
    started = time.perf_counter()
    torch.mm(a, b)
    _synchronise(device)
    return 2.0 * MATRIX**3 / (time.perf_counter() - started)


def _synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
