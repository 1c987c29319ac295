"""A warm start: all weights of the user model trained on public histories, without privacy.

Public data only. The result is a base directory like any other (``config.json``, safetensors)
whose layers stand in for the base's own; its card names data, licence and hashes.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer, PreTrainedModel

from client.data.ingest import Dataset, load_dataset
from client.directory import item_vectors
from client.trainer import micro_batches, user_rows
from shared.assets import Base
from shared.config import Config
from shared.devices import Runtime
from shared.encoder import load_encoder
from shared.errors import ConfigError, RunError
from shared.files import sha256_file, write_json
from shared.histories import PrivateHistories
from shared.models import load_model
from shared.softmax import Candidates, public_candidates
from shared.statistics import log_popularity, popularity_sum
from shared.user_model import (
    UserModel,
    input_scale,
    item_tensor,
    load_backbone,
    row_losses,
)

HELD_OUT_USERS = 0.1
PATIENCE = 2
JUDGED_AT_ONCE = 128


@dataclass(frozen=True)
class Pretraining:
    """What came out.

    Attributes:
        directory: the warm start.
        epochs: after which the best weights were kept; 0 is the base itself.
        loss: cross-entropy on the held-out users' histories, by epoch, before any training first.
    """

    directory: Path
    epochs: int
    loss: tuple[float, ...]


def pretrain(
    config: Config,
    out: Path,
    licence: str,
    epochs: int = 8,
    learning_rate: float = 1e-4,
    rows: int = 32,
    progress: Callable[[int, int, float], None] | None = None,
) -> Pretraining:
    """Train all weights of the kept layers and write the warm start.

    Stops when the held-out users' loss has not fallen for ``PATIENCE`` epochs and keeps the best.
    The loss over all their positions is steadier than a ranking of one target for each of them.

    Args:
        config: ``data`` names the public histories; base, layers and window are the user model's.
        out: directory to write; must not exist.
        licence: of the data, for the card.
        epochs: at most.
        learning_rate: of AdamW.
        rows: users of a step.
        progress: told ``(epoch, epochs, loss)``.

    Raises:
        RunError: if ``out`` exists.
        ConfigError: if the configuration already has a warm start.
    """
    if out.exists():
        raise RunError(f"{out}: exists already; give another --out")
    if config.model.warm_start:
        raise ConfigError("model.warm_start: pretraining starts from the base's own weights")
    dataset = load_dataset(config.data)
    loaded = load_model(config)
    runtime = loaded.runtime
    torch.manual_seed(config.run.seed)
    generator = np.random.default_rng(config.run.seed)
    backbone = load_backbone(
        loaded.encoder.path,
        config.model.layers,
        config.model.layers_from,
        attention=runtime.attention(config.model.window),
    )
    backbone.to(runtime.device)  # type: ignore[arg-type]
    model = UserModel(backbone, input_scale(backbone), config.model.temperature)
    vectors = item_vectors(dataset.catalogue, loaded)
    items = item_tensor(vectors, runtime.device, runtime.precision)
    learners, judges = _learners_and_judges(dataset.histories, generator)
    popularity = popularity_sum(learners, len(dataset.catalogue))
    prior = torch.from_numpy(log_popularity(popularity, 0.0)).float().to(runtime.device)
    # All but the words' embeddings: item vectors come in their place.
    words = {id(p) for p in backbone.get_input_embeddings().parameters()}
    parameters = [p for p in backbone.parameters() if id(p) not in words]
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.01)

    draws = torch.Generator().manual_seed(config.run.seed)
    most = config.training.softmax_items
    # The same for every epoch, so that their losses can be compared.
    judged_over = public_candidates(prior, most, draws)
    judge = partial(_loss, model, judges, items, prior, judged_over, config.model.window, runtime)
    history = [judge()]
    best, best_epoch = _copy(backbone), 0
    if progress is not None:
        progress(0, epochs, history[0])
    for epoch in range(1, epochs + 1):
        groups = micro_batches(
            learners, generator.permutation(len(learners)), config.model.window, rows
        )
        for place in generator.permutation(len(groups)):
            batch = user_rows(learners, groups[place], config.model.window, runtime.device)
            with runtime.autocast():
                drawn = public_candidates(prior, most, draws)
                loss = row_losses(model, batch, items, prior, model.temperature, drawn).mean()
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
        history.append(judge())
        if progress is not None:
            progress(epoch, epochs, history[-1])
        if history[-1] < min(history[:-1]):
            best, best_epoch = _copy(backbone), epoch
        elif epoch - best_epoch >= PATIENCE:
            break
    backbone.load_state_dict(best)
    _write(out, loaded.encoder, backbone, config, dataset, licence, best_epoch, history)
    return Pretraining(out, best_epoch, tuple(history))


def _learners_and_judges(
    histories: PrivateHistories, generator: np.random.Generator
) -> tuple[PrivateHistories, PrivateHistories]:
    order = generator.permutation(len(histories))
    held_out = max(1, round(HELD_OUT_USERS * len(histories)))
    return histories.select(order[held_out:]), histories.select(order[:held_out])


def _loss(
    model: UserModel,
    judges: PrivateHistories,
    items: torch.Tensor,
    prior: torch.Tensor,
    candidates: Candidates | None,
    window: int,
    runtime: Runtime,
) -> float:
    total, users = 0.0, 0
    for group in micro_batches(judges, np.arange(len(judges)), window, JUDGED_AT_ONCE):
        rows = user_rows(judges, group, window, runtime.device)
        with torch.inference_mode(), runtime.autocast():
            losses = row_losses(model, rows, items, prior, model.temperature, candidates)
        total += float(losses.sum())
        users += len(group)
    return total / max(1, users)


def _copy(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _write(
    out: Path,
    base: Base,
    backbone: PreTrainedModel,
    config: Config,
    dataset: Dataset,
    licence: str,
    epochs: int,
    history: list[float],
) -> None:
    """The whole base with the trained layers in their places, so that it loads like any base."""
    whole = load_encoder(base.path)
    state = whole.state_dict()
    state.update({k: v.cpu() for k, v in backbone.state_dict().items() if k in state})
    whole.load_state_dict(state)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        folder = Path(scratch) / "warm-start"
        whole.save_pretrained(str(folder))  # type: ignore[operator]
        AutoTokenizer.from_pretrained(base.path, local_files_only=True).save_pretrained(folder)
        write_json(
            folder / "card.json",
            {
                "what": "warm start of a tacit user model, trained without privacy on public data",
                "base": base.reference,
                "base_sha256": base.weights_sha256,
                "weights_sha256": sha256_file(folder / "model.safetensors"),
                "layers": config.model.layers,
                "layers_from": config.model.layers_from,
                "data": dataset.name,
                "licence": licence,
                "users": len(dataset.histories),
                "items": len(dataset.catalogue),
                "interactions": int(dataset.histories.lengths.sum()),
                "epochs": epochs,
                "held_out_loss_by_epoch": history,
            },
        )
        folder.replace(out)
