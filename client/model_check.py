"""Whether the base model is here, is allowed, and can be trained on this machine."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from client.data.store import read_store
from client.directory import read_policy
from client.outcomes import FAILED, OK, SKIPPED, WARNING, Outcome, judged
from client.own_data import STORE
from client.settings import AgentSettings
from shared.assets import resolve_base
from shared.catalogue import Catalogue
from shared.config import Config
from shared.errors import TacitError

# torch and Opacus take seconds to import: only a check that trains needs them.
if TYPE_CHECKING:
    from client.trainer import Trainable

SOME_ITEMS = 8
INSTALL = "install the package that it names, or set base.name in agent.toml"


def model_outcomes(directory: Path, settings: AgentSettings, quick: bool) -> Iterator[Outcome]:
    """Outcomes for the model.

    Args:
        directory: of the organisation.
        settings: its ``agent.toml``.
        quick: do not load it.
    """
    weights = judged("model weights", lambda: allowed(directory, settings), INSTALL)
    yield weights
    if weights.state == FAILED:
        return
    if quick:
        yield Outcome("model", SKIPPED, "not loaded", "leave --quick out to load it")
        return
    yield trained(directory, settings.to_config())


def allowed(directory: Path, settings: AgentSettings) -> Outcome:
    """Whether the weights are here, and among those that the policy allows.

    Raises:
        AssetError: if they are not here, or have other bytes than expected.
    """
    name, base = "model weights", resolve_base(settings.base.name)
    bases = read_policy(directory).model.allowed_bases
    if bases and base.weights_sha256 not in bases:
        return Outcome(
            name,
            FAILED,
            f"{settings.base.name} has weights {base.weights_sha256[:12]}, which the policy does "
            "not allow",
            f"set base.name in agent.toml, or add {base.weights_sha256} to model.allowed_bases "
            f"and: tacit policy amend {directory}",
        )
    if not bases:
        return Outcome(
            name,
            WARNING,
            "the policy allows any base model",
            f"list {base.weights_sha256} in model.allowed_bases",
        )
    return Outcome(name, OK, f"{settings.base.name} has the weights {base.weights_sha256[:12]}")


def trained(directory: Path, config: Config) -> Outcome:
    """Whether the model loads, its gradients are per user, and a full micro-batch has room.

    The adapter's settings come with a run; the defaults stand in for them.
    """
    name = "model"
    from torch import OutOfMemoryError

    from client.directory import resources_of

    try:
        catalogue, _ = read_store(directory / STORE)
        loaded = resources_of(_first(catalogue), config)
        started = time.perf_counter()
        peak = micro_batch(loaded.trainable, len(catalogue), config)
        seconds = time.perf_counter() - started
    except OutOfMemoryError as error:
        return Outcome(
            name,
            FAILED,
            f"the memory of the GPU is too small ({_memory(config)}): {error}",
            "lower machine.micro_batch_rows in agent.toml, or end what else uses the GPU",
        )
    except TacitError as error:
        return Outcome(name, FAILED, str(error))
    device = loaded.trainable.runtime.device
    used = f", {peak / 1e9:.1f} GB of {_memory(config)}" if peak else "; no GPU is used"
    return Outcome(
        name,
        OK,
        f"gradients are per user; {config.training.micro_batch_rows} users of made-up data take "
        f"{seconds:.1f} s on {device}{used}",
    )


def micro_batch(trainable: "Trainable", items: int, config: Config) -> int:
    """A private step over as many made-up users as a micro-batch has; nothing of it is kept.

    Args:
        trainable: model under hooks.
        items: size of the catalogue, over which every position is scored.
        config: of the organisation.

    Returns:
        Most bytes of the GPU's memory that were in use; 0 without a GPU.
    """
    import numpy as np
    import torch

    from client.checks import restore
    from client.trainer import private_steps
    from shared.adapters import peft_model
    from shared.histories import PrivateHistories
    from shared.plan import Mechanism
    from shared.randomness import from_operating_system
    from shared.user_model import item_tensor

    runtime, model = trainable.runtime, trainable.model
    rows, length = config.training.micro_batch_rows, config.model.window + 1
    made_up = np.random.default_rng(0)
    width = int(peft_model(model).config.hidden_size)
    vectors = made_up.normal(size=(items, width)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    users = PrivateHistories(
        tuple(map(str, range(rows))),
        np.arange(rows + 1) * length,
        made_up.integers(items, size=rows * length),
        np.zeros(rows * length),
    )
    on_gpu = runtime.device.startswith("cuda")
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(runtime.device)
    parameters = list(model.trained.values())
    saved = [p.detach().clone() for p in parameters]
    try:
        private_steps(
            trainable,
            users,
            item_tensor(vectors, runtime.device, runtime.precision),
            torch.zeros(items, device=runtime.device),
            Mechanism("step", 1.0, 1.0, 1.0),
            1,
            rows,
            config.model.window,
            config.privacy.clipping,
            config.training,
            from_operating_system(),
        )
    finally:
        restore(parameters, saved)
    return int(torch.cuda.max_memory_allocated(runtime.device)) if on_gpu else 0


def _memory(config: Config) -> str:
    import torch

    free, total = torch.cuda.mem_get_info()
    return f"{free / 1e9:.1f} GB free, {total / 1e9:.1f} GB in all"


def _first(catalogue: Catalogue) -> Catalogue:
    """A few items: encoding them all is the first run's work."""
    return Catalogue(
        catalogue.item_ids[:SOME_ITEMS],
        catalogue.titles[:SOME_ITEMS],
        {name: values[:SOME_ITEMS] for name, values in catalogue.attributes.items()},
        None if catalogue.keys is None else catalogue.keys[:SOME_ITEMS],
    )
