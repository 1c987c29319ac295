"""pfl-research's way: a user is a device, its update is clipped, the cohort's sum is noised.

That is the same user-level mechanism, with one noise for the sum instead of one per organisation.
It runs in an environment of its own (``make bench-peers``): pfl wants an older dp-accounting.
Started by ``torch.distributed.run`` it deals the users out to several workers.
"""

import os
from pathlib import Path
from typing import Any

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from pfl.privacy import CentrallyAppliedPrivacyMechanism, GaussianMechanism
from torch import Tensor, nn

from shared.devices import choose_runtime
from shared.user_model import Rows, UserModel, build_user_model, item_tensor, row_losses
from simulations.bench.peers.task import (
    keep_adapter,
    read_histories,
    read_task,
    read_vectors,
    round_finished,
    windows,
)


class NextItem(nn.Module):
    """The user model with the two methods that pfl asks of a model."""

    def __init__(self, user_model: UserModel, items: Tensor) -> None:
        super().__init__()
        self.user_model = user_model
        self._items = items
        self._prior = torch.zeros(len(items), device=items.device)

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of a device's rows, of which it has one."""
        rows = Rows(inputs, targets)
        temperature = self.user_model.temperature
        return row_losses(self.user_model, rows, self._items, self._prior, temperature).mean()

    def metrics(self, inputs: Tensor, targets: Tensor) -> dict[str, Any]:
        """Nothing is evaluated; pfl asks for a figure in its first iteration."""
        return {"users": Weighted(1.0, 1.0)}


class Watch(TrainingProcessCallback):  # type: ignore[misc]
    """Notes when rounds end."""

    def __init__(self, out: Path) -> None:
        self._out = out

    def after_central_iteration(
        self, aggregate_metrics: Any, model: Any, *, central_iteration: int
    ) -> tuple[bool, Any]:
        """Note the time."""
        round_finished(self._out)
        return False, Metrics()


def run(folder: Path, out: Path) -> None:
    """Run the federation in this process, with its share of the cores.

    Args:
        folder: of the task.
        out: gets the times of rounds and the adapter.
    """
    task = read_task(folder)
    config = task.config
    workers, place = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    threads = max(1, task.threads // workers)
    runtime = choose_runtime(config.run.device, task.precision, threads)
    user_model = build_user_model(task.base, config.model, runtime, config.run.seed).train()
    items = item_tensor(read_vectors(folder), runtime.device, runtime.precision)

    devices: dict[str, Any] = {}
    for organisation in range(config.partition.organisations):
        for history in read_histories(folder, organisation):
            tensors = tuple(t.to(runtime.device) for t in windows([history], config.model.window))
            devices[str(len(devices))] = PyTorchTensorDataset(tensors)
    sampler = get_user_sampler("minimize_reuse", list(devices))
    cohort = FederatedDataset(devices.__getitem__, sampler)

    step_size = config.training.step_size
    trained = list(user_model.trained.values())
    model = PyTorchModel(
        NextItem(user_model, items),
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(trained, lr=1.0),
        amp_dtype=torch.bfloat16 if runtime.precision == "bfloat16" else None,
    )
    mechanism = GaussianMechanism(config.privacy.clipping_norm, task.noise_multiplier)
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=config.training.rounds,
            evaluation_frequency=config.training.rounds + 1,
            train_cohort_size=len(devices),
            val_cohort_size=None,
        ),
        SimulatedBackend(cohort, cohort, [CentrallyAppliedPrivacyMechanism(mechanism)]),
        model,
        NNTrainHyperParams(
            local_batch_size=None, local_num_epochs=1, local_learning_rate=step_size
        ),
        callbacks=[Watch(out)] if place == 0 else [],
    )
    if place == 0:
        keep_adapter(out, {n: p.detach().cpu().numpy() for n, p in user_model.trained.items()})
