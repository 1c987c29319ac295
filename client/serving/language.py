"""The causal language model of the service: loaded when it is first needed, for words and lists."""

import threading
from collections.abc import Callable

from client.recommend.causal import CausalModel
from client.recommend.generative import Generative
from client.recommend.recommender import Generate
from shared.catalogue import Catalogue
from shared.scoring import Ints

# Loads the model; raises AssetError where it cannot.
Load = Callable[[], CausalModel]


class Language:
    """A causal language model that is loaded once.

    Args:
        load: loads it.
    """

    def __init__(self, load: Load) -> None:
        self._load = load
        self._lock = threading.Lock()
        self._causal: CausalModel | None = None
        self._generator: tuple[Catalogue, Generate] | None = None

    def causal(self) -> CausalModel:
        """The model.

        Raises:
            AssetError: if it cannot be loaded.
        """
        with self._lock:
            if self._causal is None:
                self._causal = self._load()
            return self._causal

    def generator(self, catalogue: Catalogue) -> Generate:
        """Ranks a catalogue by titles that the model writes; made ready at its first use."""
        if self._generator is None or self._generator[0] is not catalogue:
            self._generator = catalogue, _generator(self.causal, catalogue)
        return self._generator[1]


def _generator(causal: Load, catalogue: Catalogue) -> Generate:
    lock = threading.Lock()
    made: list[Generative] = []

    def generate(history: Ints, need: str | None, k: int, closed: Ints) -> list[tuple[int, float]]:
        with lock:
            if not made:
                made.append(Generative(causal(), catalogue))
        return made[0].rank(history, need, k, closed)

    return generate
