"""The public parts of a model that an organisation holds, and which model it may train."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from client.releases import Releases
from client.trainer import Trainable
from shared.config import Config
from shared.encoder import Vectors
from shared.messages import Request
from shared.policy import ModelRules
from shared.stages import stage
from shared.user_model import item_tensor


@dataclass(frozen=True)
class Resources:
    """Public parts of a model that organisations of one simulation share.

    Attributes:
        trainable: the user model under hooks; each training loads its adapter first.
        vectors: ``[items, dim]`` item vectors of this organisation's catalogue.
        model_sha256: hash over base weights and frozen adapter factors.
        base_sha256: hash of the base's weights.
    """

    trainable: Trainable
    vectors: Vectors
    model_sha256: str
    base_sha256: str

    @functools.cached_property
    def items(self) -> torch.Tensor:
        """The item vectors where the model is, made once."""
        runtime = self.trainable.runtime
        with stage("vectors"):
            return item_tensor(self.vectors, runtime.device, runtime.precision)

    @property
    def adapter_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of an adapter update, by name."""
        return {n: tuple(value.shape) for n, value in self.trainable.model.trained.items()}


def checked_resources(
    request: Request,
    kind: str,
    load: Callable[[], Resources],
    config: Config,
    rules: ModelRules,
    releases: Releases,
) -> Resources:
    """The model, unless a request is for another one, or the policy does not allow it.

    Args:
        request: that asks for it.
        kind: of its message, as in the ledger.
        load: gives the model.
        config: of the run.
        rules: of the policy.
        releases: puts a refusal on record.

    Raises:
        RefusedError: names the rule.
    """
    identifier, name = request.identifier(kind), releases.identity.name
    # Before a model of that size is made.
    if config.model.rank > rules.greatest_rank:
        raise releases.refuse(
            identifier,
            "model.greatest_rank",
            f"the adapter's rank is {config.model.rank}; at most {rules.greatest_rank} is allowed",
        )
    resources = load()
    positions = resources.trainable.model.positions
    if config.model.window > positions:
        # Otherwise whether training fails would tell whether some history is that long.
        raise releases.refuse(
            identifier,
            "model.window",
            f"the window is {config.model.window}; the model reads {positions} positions",
        )
    if request.model_sha256 != resources.model_sha256:
        raise releases.refuse(
            identifier,
            "model",
            f"the request is for model {request.model_sha256[:12]}, {name} holds "
            f"{resources.model_sha256[:12]}; use the same base, adapter settings and seed",
        )
    if rules.allowed_bases and resources.base_sha256 not in rules.allowed_bases:
        raise releases.refuse(
            identifier,
            "model.allowed_bases",
            f"base {config.base.name} has weights {resources.base_sha256[:12]}, which are not "
            "among those allowed",
        )
    size = sum(int(np.prod(shape)) for shape in resources.adapter_shapes.values())
    if size > rules.most_parameters:
        raise releases.refuse(
            identifier,
            "model.most_parameters",
            f"an update would carry {size} numbers; at most {rules.most_parameters} are allowed",
        )
    return resources
