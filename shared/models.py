"""Loading a user model once per process, with everything that both sides must agree on."""

import hashlib
import warnings
from dataclasses import dataclass
from functools import lru_cache

import transformers

from shared.adapters import Arrays, adapter_arrays, frozen_sha256, peft_model
from shared.assets import Base, resolve_base
from shared.config import Config, ModelSection
from shared.devices import Runtime, choose_runtime
from shared.user_model import UserModel, build_user_model


@dataclass(frozen=True)
class LoadedModel:
    """A user model as the configuration describes it.

    Attributes:
        model: shared by all that ask for the same; whoever uses it sets its adapter first.
        options: settings that it was built from.
        encoder: base model that turns item texts into vectors.
        start: base model or warm start whose layers the user model keeps.
        runtime: device and precision.
        initial: the trained arrays before the first round.
        sha256: over weights, frozen factors and settings; equal on all that may be averaged.
    """

    model: UserModel
    options: ModelSection
    encoder: Base
    start: Base
    runtime: Runtime
    initial: Arrays
    sha256: str

    @property
    def hidden_size(self) -> int:
        """Length of a hidden state and of an item vector."""
        return int(peft_model(self.model).config.hidden_size)


def load_model(config: Config) -> LoadedModel:
    """The user model of a configuration, from this process's cache if it was loaded before."""
    runtime = choose_runtime(config.run.device, config.base.precision, config.run.threads)
    return _load(config.base.name, config.model, config.run.seed, runtime)


@lru_cache(maxsize=2)
def _load(base: str, options: ModelSection, seed: int, runtime: Runtime) -> LoadedModel:
    quiet()
    encoder = resolve_base(base)
    start = resolve_base(options.warm_start) if options.warm_start else encoder
    model = build_user_model(start, options, runtime, seed)
    # Without a head its settings say nothing, and the hash is that of a model that never had them.
    unused = None if options.rating_weight else {"rating_weight", "rating_low", "rating_high"}
    digest = hashlib.sha256()
    for part in (
        encoder.weights_sha256,
        start.weights_sha256,
        frozen_sha256(model),
        options.model_copy(update={"warm_start": ""}).model_dump_json(exclude=unused),
    ):
        digest.update(part.encode() + b"\0")
    return LoadedModel(
        model, options, encoder, start, runtime, adapter_arrays(model), digest.hexdigest()
    )


def quiet() -> None:
    """Keep transformers' own reports and bars off the screen; errors still show."""
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
