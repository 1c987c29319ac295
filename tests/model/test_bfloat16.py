"""Removing one user moves the sum by at most the clipping norm, in bfloat16 too."""

import numpy as np
import pytest
import torch

from client.trainer import Trainable, private_steps
from shared.adapters import load_arrays
from shared.assets import resolve_base
from shared.config import ModelSection, TrainingSection
from shared.devices import Runtime
from shared.histories import PrivateHistories
from shared.plan import Mechanism
from shared.randomness import from_seed
from shared.user_model import build_user_model

USERS, ITEMS = 96, 300


def histories(rows: list[np.ndarray]) -> PrivateHistories:
    lengths = [len(row) for row in rows]
    return PrivateHistories(
        tuple(str(place) for place in range(len(rows))),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.concatenate(rows).astype(np.int64),
        np.zeros(sum(lengths)),
    )


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_one_user_moves_the_sum_of_a_real_model_by_at_most_the_clipping_norm(
    precision: str,
) -> None:
    torch.set_num_threads(1)
    runtime = Runtime("cpu", precision)
    model = build_user_model(resolve_base("minilm"), ModelSection(layers=2), runtime, 0)
    trainable, generator = Trainable.of(model, runtime), torch.Generator().manual_seed(3)
    start = {
        n: (0.02 * torch.randn(p.shape, generator=generator)).numpy()
        for n, p in model.trained.items()
    }
    items = torch.nn.functional.normalize(torch.randn(ITEMS, 384, generator=generator), dim=-1)
    random = np.random.default_rng(0)
    rows = [random.integers(0, ITEMS, size=n) for n in random.integers(5, 80, size=USERS)]

    def total(chosen: list[np.ndarray]) -> np.ndarray:
        load_arrays(model, start)
        update = private_steps(
            trainable,
            histories(chosen),
            items.to(torch.bfloat16 if precision == "bfloat16" else torch.float32),
            torch.zeros(ITEMS),
            Mechanism("step", 1.0, 0.0, 1.0),
            1,
            1,
            50,
            "automatic",
            TrainingSection(micro_batch_rows=16),
            from_seed(0),
        )
        return np.concatenate([v.ravel() for v in update.arrays.values()]).astype(np.float64)

    whole = total(rows)
    for user in (0, 1, int(np.argmax([len(r) for r in rows]))):
        assert np.linalg.norm(whole - total(rows[:user] + rows[user + 1 :])) <= 1.0 + 1e-3
