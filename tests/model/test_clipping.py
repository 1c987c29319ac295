"""No user's row adds more than the clipping norm, and one without a norm adds nothing."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from client.trainer import PrivateOptimizer
from shared.plan import Mechanism
from shared.randomness import from_seed

Row = Sequence[float]


def clipped_sum(rows: Sequence[Row], clipping: str, bound: float = 1.0) -> tuple[Tensor, int]:
    """What one micro-batch of rows of four values adds, and how many of them counted as broken.

    The values lie in two parameters of different shape, as a model's do.
    """
    first, second = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2, 1))
    optimizer = PrivateOptimizer(
        torch.optim.SGD([first, second], lr=1.0),
        Mechanism("step", 1.0, 1.0, bound),
        clipping,
        1,
        from_seed(0),
    )
    samples = torch.tensor(rows)
    first.grad_sample = samples[:, :2]  # type: ignore[attr-defined]
    second.grad_sample = samples[:, 2:, None]  # type: ignore[attr-defined]
    optimizer.clip_and_accumulate()
    parts = [p.summed_grad.reshape(-1).double() for p in (first, second)]  # type: ignore[attr-defined]
    return torch.cat(parts), optimizer.broken_rows


magnitudes = st.floats(-15.0, 18.0).map(lambda power: 10.0**power)
values = st.builds(
    lambda size, sign: float(np.float32(size * sign)), magnitudes, st.sampled_from([-1, 1])
)


@given(row=st.lists(values | st.just(0.0), min_size=4, max_size=4), bound=st.floats(0.01, 10.0))
@pytest.mark.parametrize("clipping", ["flat", "automatic"])
def test_no_row_adds_more_than_the_clipping_norm(
    row: list[float], bound: float, clipping: str
) -> None:
    added, broken = clipped_sum([row], clipping, bound)
    assert float(added.norm()) <= bound
    assert broken == 0


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_automatic_clipping_makes_every_row_equally_long(scale: float) -> None:
    added, _ = clipped_sum([[3 * scale, 0.0, -4 * scale, 0.0]], "automatic", 2.0)
    assert added.tolist() == pytest.approx([1.2, 0.0, -1.6, 0.0], rel=1e-4)


@pytest.mark.parametrize(
    ("row", "expected"),
    [([0.25, 0.0, -0.5, 0.0], [0.25, 0.0, -0.5, 0.0]), ([30.0, 0.0, 40.0, 0.0], [0.6, 0, 0.8, 0])],
    ids=["short", "long"],
)
def test_flat_clipping_shortens_long_rows_alone(row: Row, expected: Row) -> None:
    added, _ = clipped_sum([row], "flat")
    assert added.tolist() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("clipping", ["flat", "automatic"])
def test_rows_are_clipped_before_they_are_added(clipping: str) -> None:
    added, _ = clipped_sum([[1e6, 0, 0, 0], [0, 0, 0, 1e-3], [-5.0, 0, 0, 0]], clipping)
    expected = [0.0, 0.0, 0.0, 1e-3 if clipping == "flat" else 1.0]
    assert added.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("clipping", ["flat", "automatic"])
def test_a_zero_gradient_stays_zero_and_is_not_broken(clipping: str) -> None:
    added, broken = clipped_sum([[0.0] * 4], clipping)
    assert not added.any()
    assert broken == 0


@pytest.mark.parametrize("clipping", ["flat", "automatic"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 3e38])
def test_a_row_that_has_no_norm_counts_as_a_zero_row(clipping: str, bad: float) -> None:
    sound = [0.3, 0.0, 0.4, 0.0]
    added, broken = clipped_sum([[1.0, bad, 1.0, 1.0], sound, [0.0, 0.0, bad, 0.0]], clipping)
    alone, none_broken = clipped_sum([sound], clipping)
    assert added.tolist() == alone.tolist()
    assert (broken, none_broken) == (2, 0)
