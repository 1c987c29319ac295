"""A Flower app of the usual kind: its client builds everything anew at every call.

It has the shape of Flower's examples ``quickstart-pytorch``, ``opacus`` and ``flowertune-llm``:
FedAvg over the Message API, ``load_data`` and ``load_model`` called by the client, Opacus's
PrivacyEngine around model, optimiser and data loader, Ray below. User model, loss and item encoder
are tacit's own, so that only the way of running them differs.
"""

import os
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from opacus import PrivacyEngine
from torch.utils.data import DataLoader, TensorDataset

from shared.devices import Runtime, choose_runtime
from shared.encoder import TextEncoder, Vectors
from shared.text_space import TextSpace
from shared.user_model import Rows, UserModel, build_user_model, item_tensor, row_losses
from simulations.bench.peers.task import (
    Task,
    keep_adapter,
    read_histories,
    read_task,
    read_texts,
    read_vectors,
    round_finished,
    windows,
)

client_app = ClientApp()


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """One full-batch private step on the organisation's users."""
    config: Any = message.content["config"]
    folder = Path(str(config["task"]))
    task = read_task(folder)
    runtime = load_runtime(task)
    vectors = load_vectors(folder, task, runtime, bool(config["encode"]))
    items = item_tensor(vectors, runtime.device, runtime.precision)
    prior = torch.zeros(len(vectors), device=runtime.device)
    data = load_data(folder, task, int(context.node_config["partition-id"]))
    loader = DataLoader(data, batch_size=len(data))
    model = load_model(task, runtime)
    arrays: Any = message.content["arrays"]
    model.load_state_dict(arrays.to_torch_state_dict(), strict=False)

    optimizer = torch.optim.SGD(list(model.trained.values()), lr=task.config.training.step_size)
    private, optimizer, loader = PrivacyEngine().make_private(
        module=model.train(),
        optimizer=optimizer,
        data_loader=loader,
        noise_multiplier=task.noise_multiplier,
        max_grad_norm=task.config.privacy.clipping_norm,
    )
    for inputs, targets in loader:
        optimizer.zero_grad()
        rows = Rows(inputs.to(runtime.device), targets.to(runtime.device))
        with runtime.autocast():
            losses = row_losses(private, rows, items, prior, task.config.model.temperature)
        torch.autograd.backward(losses.mean())
        optimizer.step()

    content = RecordDict(
        {
            "arrays": ArrayRecord(adapter_state(model)),
            "metrics": MetricRecord({"num-examples": len(data)}),
        }
    )
    return Message(content, reply_to=message)


def load_runtime(task: Task) -> Runtime:
    """Device and precision; an actor has the cores that Ray gave it."""
    options = task.config.run
    return choose_runtime(options.device, task.precision, options.threads or 1)


def load_vectors(folder: Path, task: Task, runtime: Runtime, encode: bool) -> Vectors:
    """Item vectors, encoded from their texts, or from the file that somebody made before."""
    if not encode:
        return read_vectors(folder)
    raw = TextEncoder(task.base, runtime).encode(read_texts(folder))
    return TextSpace.of(raw).place(raw)


def load_data(folder: Path, task: Task, organisation: int) -> TensorDataset:
    """The organisation's rows, all padded to the longest."""
    return TensorDataset(*windows(read_histories(folder, organisation), task.config.model.window))


def load_model(task: Task, runtime: Runtime) -> UserModel:
    """The base from disk, with adapters."""
    return build_user_model(task.base, task.config.model, runtime, task.config.run.seed)


def adapter_state(model: UserModel) -> dict[str, torch.Tensor]:
    """What is trained."""
    return {name: parameter.detach().cpu() for name, parameter in model.trained.items()}


def run(folder: Path, out: Path, encode: bool) -> None:
    """Run the app on Flower's simulation runtime.

    Args:
        folder: of the task.
        out: gets the times of rounds and the adapter.
        encode: whether clients encode the items at every call, or read cached vectors.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    from flwr.simulation import run_simulation

    task = read_task(folder)
    nodes = task.config.partition.organisations
    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        def watch(server_round: int, arrays: ArrayRecord) -> None:
            if server_round:
                round_finished(out)

        strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=nodes, min_available_nodes=nodes)
        result = strategy.start(
            grid,
            ArrayRecord(adapter_state(load_model(task, load_runtime(task)))),
            num_rounds=task.config.training.rounds,
            train_config=ConfigRecord({"task": str(folder), "encode": encode}),
            evaluate_fn=watch,
        )
        state = result.arrays.to_torch_state_dict()
        keep_adapter(out, {name: value.numpy() for name, value in state.items()})

    run_simulation(
        server_app=server_app,
        client_app=client_app,
        num_supernodes=nodes,
        backend_config={
            "init_args": {"num_cpus": os.cpu_count() or 1, "include_dashboard": False},
            "client_resources": {"num_cpus": task.config.run.threads or 1, "num_gpus": 0.0},
        },
    )
