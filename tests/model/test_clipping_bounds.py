"""Clipping bounds that rounding must not break: tiny, huge, very long and bfloat16 gradients."""

import pytest
import torch
from torch import nn

from client.trainer import PrivateOptimizer
from shared.plan import Mechanism
from shared.randomness import from_seed


def added(rows: torch.Tensor) -> float:
    """Norm of what rows of gradients add to the sum, at clipping norm 1."""
    parameter = nn.Parameter(torch.zeros(rows.shape[1]))
    sgd = torch.optim.SGD([parameter], lr=1.0)
    mechanism = Mechanism("step", 1.0, 1.0, 1.0)
    optimizer = PrivateOptimizer(sgd, mechanism, "automatic", 1, from_seed(0))
    parameter.grad_sample = rows  # type: ignore[attr-defined]
    optimizer.clip_and_accumulate()
    return float(parameter.summed_grad.norm())  # type: ignore[attr-defined]


def test_tiny_gradients_whose_squares_underflow_do_not_pass_the_clipping_norm() -> None:
    row = torch.full((1, 10_001), 2.6e-23)
    row[0, 0] = 4e-23
    assert added(row) <= 1.0


@pytest.mark.parametrize("length", [4096, 12288, 24576, 98304])
@pytest.mark.parametrize("value", [7e-4, 1e-3, 1.1e-3, 0.013])
def test_even_gradients_of_many_values_do_not_pass_the_clipping_norm(
    length: int, value: float
) -> None:
    assert added(torch.full((1, length), value)) <= 1.0


def test_gradients_near_the_end_of_float32_stay_finite() -> None:
    assert added(torch.full((1, 1), 1e-40)) <= 1.0


@pytest.mark.parametrize("length", [4096, 98304])
def test_bfloat16_gradients_are_clipped_in_a_higher_precision(length: int) -> None:
    total = added(torch.full((64, length), 1.1e-3, dtype=torch.bfloat16))
    assert 63.99 <= total <= 64.0
