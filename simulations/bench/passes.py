"""A private step and a pass for scoring over made-up users, to be timed."""

import time

import numpy as np
import torch

from client.checks import verify_gradients
from client.directory import trainable_model
from client.trainer import private_steps
from shared.config import Config
from shared.encoder import centred
from shared.histories import PrivateHistories
from shared.models import load_model
from shared.plan import Mechanism
from shared.randomness import from_operating_system
from shared.scoring import Scorer
from shared.statistics import Statistics
from shared.user_model import item_tensor

# So small that the weights stay as they were.
STEP_SIZE = 1e-9


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
        self._histories = PrivateHistories(
            tuple(f"user-{user}" for user in range(users)),
            np.arange(users + 1, dtype=np.int64) * length,
            draw.integers(items, size=users * length),
            np.zeros(users * length),
        )
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
        prior = torch.zeros(len(items), device=runtime.device)
        started = time.perf_counter()
        private_steps(
            self._ready,
            self._histories,
            items,
            prior,
            Mechanism("step", 1.0, 1.0, self._config.privacy.clipping_norm),
            1,
            self.users,
            self._config.model.window,
            self._config.privacy.clipping,
            self._config.training.model_copy(update={"step_size": STEP_SIZE}),
            from_operating_system(),
        )
        return time.perf_counter() - started

    def scoring_s(self) -> float:
        """Seconds in which the user model reads all histories, to score by them."""
        started = time.perf_counter()
        self._scorer.states(self._histories, np.arange(self.users))
        return time.perf_counter() - started
