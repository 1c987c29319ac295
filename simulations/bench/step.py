"""``tacit bench step``: a private step beside one without privacy, and beside other ways to it."""

import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen3Config, Qwen3Model

from shared.config import Config
from shared.encoder import centred
from shared.errors import ConfigError
from shared.models import load_model
from shared.user_model import item_tensor
from simulations.bench.made_up import even_histories
from simulations.bench.step_ways import Batch, StepOptions, Way, ways

MATRIX = 2048
# So small that the weights stay as they were.
OPTIONS = StepOptions(noise_multiplier=1.0, step_size=1e-9)
SHAPES = ("qwen3-0.6b",)


@dataclass(frozen=True)
class StepRow:
    """Speed of one way to step.

    Attributes:
        precision: of products.
        name: as of ``step_ways.ways``.
        rows_per_s: users a second, median over repeats.
        ratio_to_non_private: median time over that of the non-private step of the same precision.
        ratio_to_float32: rows a second over those of the same way in float32; 0 where that was not
            measured.
        fraction_of_matrix_rate: floating-point operations of the products that the step without
            privacy needs (for ``forward``, of its own), a second, over those of a plain float32
            product of two square matrices in the same run.
    """

    precision: str
    name: str
    rows_per_s: float
    ratio_to_non_private: float
    ratio_to_float32: float
    fraction_of_matrix_rate: float


@dataclass(frozen=True)
class Measured:
    """Rows, and the matrix rates they are compared with, floating-point operations a second."""

    rows: tuple[StepRow, ...]
    matrix_rates: dict[str, float]


def measure(
    config: Config, users: int = 256, items: int = 1682, repeats: int = 7, shape: str = ""
) -> Measured:
    """Time every way in turn on made-up full windows, in float32 and in the configured precision.

    Args:
        config: base, model and training.
        users: rows of a step.
        items: size of the catalogue.
        repeats: of each; medians are reported.
        shape: one of ``SHAPES``: random weights of that shape in place of ``base.name``.

    Raises:
        ConfigError: for another shape.
    """
    with tempfile.TemporaryDirectory() as scratch:
        if shape:
            named = config.base.model_copy(
                update={"name": str(_random_base(config, shape, scratch))}
            )
            config = config.model_copy(update={"base": named})
        prepared, work, device = _prepare(config, users, items)
    times: dict[tuple[str, str], list[float]] = {key: [] for key in prepared}
    rates: dict[str, list[float]] = {precision: [] for precision, _ in prepared}
    for _ in range(repeats):
        for key, way in prepared.items():
            times[key].append(_seconds(way, device))
        for precision, values in rates.items():
            values.append(_matrix_rate(device, precision))
    medians = {key: statistics.median(values) for key, values in times.items()}
    matrix = {precision: statistics.median(values) for precision, values in rates.items()}
    return Measured(
        tuple(
            StepRow(
                precision,
                name,
                users / seconds,
                seconds / medians[precision, "non_private"],
                medians.get(("float32", name), 0.0) / seconds,
                work["forward" if name == "forward" else "non_private"]
                / seconds
                / matrix["float32"],
            )
            for (precision, name), seconds in medians.items()
        ),
        matrix,
    )


def _prepare(
    config: Config, users: int, items: int
) -> tuple[dict[tuple[str, str], Way], dict[str, float], str]:
    """Every way in every precision, warmed up, and the operations of a step."""
    generator = np.random.default_rng(0)
    histories = even_histories(users, config.model.window + 1, items, generator)
    prepared: dict[tuple[str, str], Way] = {}
    work: dict[str, float] = {}
    chosen = load_model(config).runtime
    for precision in dict.fromkeys(("float32", chosen.precision)):
        base = config.base.model_copy(update={"precision": precision})
        loaded = load_model(config.model_copy(update={"base": base}))
        vectors = centred(generator.normal(size=(items, loaded.hidden_size)).astype(np.float32))
        batch = Batch(
            histories,
            item_tensor(vectors, chosen.device, precision),
            torch.zeros(items, device=chosen.device),
        )
        for name, way in ways(config, loaded, batch, OPTIONS).items():
            way.step()
            if name in ("forward", "non_private"):
                work[name] = _operations(way)
            prepared[precision, name] = way
    return prepared, work, chosen.device


def _random_base(config: Config, shape: str, scratch: str) -> Path:
    if shape not in SHAPES:
        raise ConfigError(f"--shape {shape}: expected one of {', '.join(SHAPES)}")
    # The published configuration of Qwen3-0.6B but for the vocabulary: no token is read here.
    model = Qwen3Model(
        Qwen3Config(
            hidden_size=1024,
            intermediate_size=3072,
            num_hidden_layers=config.model.layers,
            num_attention_heads=16,
            num_key_value_heads=8,
            head_dim=128,
            vocab_size=64,
            max_position_embeddings=40960,
        )
    )
    path = Path(scratch) / shape
    model.save_pretrained(path)
    return path


def _seconds(way: Way, device: str) -> float:
    _synchronise(device)
    started = time.perf_counter()
    way.step()
    _synchronise(device)
    return time.perf_counter() - started


def _operations(way: Way) -> float:
    """Floating-point operations of one step's matrix products, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        way.step()
    return float(counter.get_total_flops())


def _matrix_rate(device: str, precision: str) -> float:
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    a, b = (torch.randn(MATRIX, MATRIX, device=device).to(dtype) for _ in range(2))
    _synchronise(device)
    started = time.perf_counter()
    torch.mm(a, b)
    _synchronise(device)
    return 2.0 * MATRIX**3 / (time.perf_counter() - started)


def _synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
