"""A private step and a pass for scoring over made-up users, to be timed."""

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from client.checks import verify_gradients
from client.directory import trainable_model
from client.trainer import Trainable, private_steps
from shared.config import Config
from shared.encoder import centred
from shared.histories import PrivateHistories
from shared.models import load_model
from shared.plan import Mechanism
from shared.randomness import from_operating_system
from shared.scoring import Scorer
from shared.statistics import Statistics
from shared.user_model import item_tensor
from simulations.bench.made_up import even_histories

# So small that the weights stay as they were.
STEP_SIZE = 1e-9


def full_step(
    config: Config, ready: Trainable, histories: PrivateHistories, items: Tensor, rate: float = 1.0
) -> Callable[[], None]:
    """A private step that may be taken again and again, for it hardly moves the weights.

    Args:
        config: window, clipping and training.
        ready: the model.
        histories: users, of whom each enters with probability ``rate``.
        items: ``[items, dim]`` unit vectors on the model's device.
        rate: of sampling.
    """
    prior = torch.zeros(len(items), device=ready.runtime.device)
    mechanism = Mechanism("step", rate, 1.0, config.privacy.clipping_norm)
    options = config.training.model_copy(update={"step_size": STEP_SIZE})

    def step() -> None:
        private_steps(
            ready,
            histories,
            items,
            prior,
            mechanism,
            1,
            len(histories),
            config.model.window,
            config.privacy.clipping,
            options,
            from_operating_system(),
        )

    return step


class Passes:
    """The user model of a configuration, and users with full windows.

    Args:
        config: base, model and training.
        users: rows of a step.
        items: size of the catalogue.

    Raises:
        ModelError: if the model's gradients are not per user.
    """

    def __init__(self, config: Config, users: int, items: int) -> None:
        self._config = config
        self._loaded = load_model(config)
        self._ready = trainable_model(self._loaded)
        self.gradient_difference = verify_gradients(self._ready)
        draw, length = np.random.default_rng(0), config.model.window + 1
        vectors = draw.standard_normal((items, self._loaded.hidden_size), dtype=np.float32)
        self._vectors = centred(vectors)
        self._histories = even_histories(users, length, items, draw)
        self._scorer = Scorer(
            config,
            Statistics(np.zeros(items), np.empty(0, dtype=np.int64), np.empty((0, 0))),
            self._vectors,
            self._loaded.initial,
            self._loaded.model,
            self._loaded.runtime,
        )

    @property
    def users(self) -> int:
        """Rows of a step."""
        return len(self._histories)

    def step_s(self) -> float:
        """Seconds of one private step over all users."""
        runtime = self._loaded.runtime
        items = item_tensor(self._vectors, runtime.device, runtime.precision)
        step = full_step(self._config, self._ready, self._histories, items)
        started = time.perf_counter()
        step()
        return time.perf_counter() - started

    def scoring_s(self) -> float:
        """Seconds in which the user model reads all histories, to score by them."""
        started = time.perf_counter()
        self._scorer.states(self._histories, np.arange(self.users))
        return time.perf_counter() - started
