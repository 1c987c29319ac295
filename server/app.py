"""The ServerApp: joins organisations, asks for the statistics, runs the adapter rounds, delivers.

The whole federation stands in ``run_federation``, top to bottom.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from safetensors.numpy import load_file, save_file

from server.aggregation import IterateAverage, ServerOptimizer, Signal
from server.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from server.heads import HeadBook
from server.inquiry import Inquiry
from server.observers import RoundReport, current
from server.progress import following
from server.strategy import FederationStrategy
from shared import messages
from shared.adapters import Arrays, load_arrays, save_adapter
from shared.cards import MaskedSums, adapter_card
from shared.config import Config, from_run_config
from shared.errors import FederationError, PrivacyError, RunError
from shared.files import atomic_path, run_directory, write_json
from shared.messages import Reply, pack_delivery
from shared.models import LoadedModel, load_model
from shared.plan import Noise, PrivacyPlan, make_plan
from shared.settings import shared_settings
from shared.stages import stage

NODE_POLL_S = 0.2

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Entry point for Flower: configuration from the run config, results in the run's folder."""
    config = from_run_config(context.run_config)
    directory = run_directory(context.run_config, context.run_id)
    run = str(context.run_config.get("tacit.run", context.run_id))
    server = context.run_config.get("tacit.server")
    if not server:
        run_federation(grid, config, directory, run, server_directory(directory, config))
        return
    # Submitted by tacit server run, which follows it from another process.
    with following(directory / "progress.jsonl"):
        run_federation(grid, config, directory, run, Path(str(server)))


def run_federation(grid: Grid, config: Config, directory: Path, run: str, server: Path) -> Arrays:
    """Run or resume a federation and return the adapter that was delivered.

    Args:
        grid: reaches the clients.
        config: of the run.
        directory: gets ``plan.json``, ``sums/``, ``statistics/``, ``checkpoints/`` and
            ``adapter/``. What is there already is gone on with.
        run: identifier; a resumed run has the same one, so that no client spends twice.
        server: folder of the server's key and its memory of ledgers.

    Raises:
        FederationError: if too few organisations answer.
    """
    observers = current()
    loaded = load_model(config)
    begun = (directory / "plan.json").exists()
    # Who is away when a run is resumed may come back during it.
    fewest = config.server.min_replies if begun else config.partition.organisations
    wait_for_nodes(grid, fewest, config.server.round_timeout_s)
    book = HeadBook(server)
    inquiry = Inquiry(run, loaded.sha256, config.server, book, shared_settings(config))
    joined = inquiry.join(grid)
    plan = inquiry.plan = plan_of_run(directory, config, joined)
    for observer in observers:
        observer.planned(plan, len(joined))
    inquiry.ask(grid, messages.PLAN, {})

    average = IterateAverage(config.server.iterate_average, config.training.rounds)
    optimizer = ServerOptimizer(config.server)
    signal = Signal()
    sums = directory / "sums"
    strategy = FederationStrategy(config, inquiry, plan, optimizer, average, signal, sums)
    strategy.summary()

    path = directory / "statistics" / "statistics.safetensors"
    if path.exists():
        statistics = load_file(path)
    else:
        statistics = {k: np.ascontiguousarray(v) for k, v in strategy.statistics(grid).items()}
        with atomic_path(path) as temporary:
            save_file(statistics, temporary)
    inquiry.deliver_statistics(grid, statistics)
    for observer in observers:
        observer.statistics_ready(statistics)

    adapter, first_round = loaded.initial, 1
    checkpoint = load_checkpoint(directory / "checkpoints", plan.sha256)
    if checkpoint is not None:
        checkpoint.restore(optimizer, average, signal)
        adapter, first_round = checkpoint.adapter, checkpoint.round + 1

    rounds = config.training.rounds
    for round_number in range(first_round, rounds + 1):
        started = time.perf_counter()
        inquiry.catch_up(grid, statistics)
        adapter, taken_in, norm = strategy.train_round(grid, round_number, adapter)
        state = Checkpoint.of(round_number, adapter, optimizer, average, signal)
        with stage("files"):
            save_checkpoint(directory / "checkpoints", state, plan.sha256)
        report = RoundReport(
            round_number,
            rounds,
            taken_in,
            norm,
            time.perf_counter() - started,
            adapter,
            signal.reliability(),
        )
        for observer in observers:
            observer.round_finished(report)

    final = average.result(adapter)
    if rounds:
        delivered = pack_delivery(final, signal.reliability())
        taken = inquiry.ask(grid, messages.DELIVER_ADAPTER, delivered, round_number=rounds)
        for observer in observers:
            observer.delivered([reply.name for reply in taken])
        keep_adapter(loaded, final, config, directory, strategy, run)
    if plan.evaluation is not None:
        evaluation = strategy.evaluation(grid)
        for observer in observers:
            observer.evaluated(evaluation)
    for observer in observers:
        observer.finished(final, signal.reliability())
    return final


def plan_of_run(directory: Path, config: Config, joined: Sequence[Reply]) -> PrivacyPlan:
    """The plan that a run began with, or a new one over those that joined, kept in its folder.

    Raises:
        RunError: if the one that is there cannot be read.
    """
    path = directory / "plan.json"
    if path.exists():
        try:
            return PrivacyPlan.from_json(str(json.loads(path.read_text())["plan"]))
        except (OSError, ValueError, KeyError, TypeError, PrivacyError) as error:
            raise RunError(
                f"{path}: holds no privacy plan ({error}); start the run anew"
            ) from error
    plan = make_plan(config, sum(reply.declared_users for reply in joined), len(joined))
    write_json(path, {"sha256": plan.sha256, "plan": plan.to_json()})
    return plan


def keep_adapter(
    loaded: LoadedModel,
    adapter: Arrays,
    config: Config,
    directory: Path,
    strategy: FederationStrategy,
    run: str,
) -> None:
    """Write the run's own ``adapter/``: a PEFT directory with its card."""
    load_arrays(loaded.model, adapter)
    plan, sums = strategy.plan, None
    private = plan.noise is not Noise.NONE and config.privacy.noise_seed < 0
    epsilon = plan.spent() if private else None
    if private and plan.secure:
        alone = plan.spent(binds="alone")
        sums = MaskedSums(plan.least_participants, plan.colluders, alone)
    card = adapter_card(config, epsilon, plan.delta, run, config.training.rounds, sums)
    save_adapter(loaded.model, directory / "adapter", card, strategy.signal.reliability())


def server_directory(run: Path, config: Config) -> Path:
    """Where the server keeps its key and its memory of ledgers; it outlives runs as they do."""
    chosen = config.run.organisations
    return (Path(chosen) if chosen else run) / "server"


def wait_for_nodes(grid: Grid, expected: int, timeout_s: float) -> None:
    """Block until the expected number of nodes is there.

    Nodes register over time; a first round with whatever has joined would leave some out.

    Raises:
        FederationError: after ``timeout_s``.
    """
    deadline = time.monotonic() + timeout_s
    while (present := len(list(grid.get_node_ids()))) < expected:
        if time.monotonic() > deadline:
            raise FederationError(
                f"{present} of {expected} organisations joined within {timeout_s:g} s; set "
                "partition.organisations to how many there are"
            )
        time.sleep(NODE_POLL_S)
