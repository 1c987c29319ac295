"""The SASRec baseline: a small causal transformer over item ids with full cross-entropy."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from shared.errors import DataError
from shared.histories import PrivateHistories
from shared.metrics import Scorer, evaluate
from shared.splits import Split

PADDING = -1


@dataclass(frozen=True)
class SasrecSettings:
    """Size and training of SASRec.

    Attributes:
        layers: transformer blocks.
        width: of item vectors and blocks.
        heads: of attention.
        window: newest items of a history that are read.
        dropout: probability, on the input, attention and blocks.
        learning_rate: of Adam.
        batch: users in a step, one window each.
        most_epochs: passes over all users after which training ends in any case.
        validate_every: epochs between validations; the last epoch is always validated.
        patience: validations in a row without a better NDCG after which training ends.
    """

    layers: int = 2
    width: int = 64
    heads: int = 2
    window: int = 50
    dropout: float = 0.2
    learning_rate: float = 1e-3
    batch: int = 16
    most_epochs: int = 80
    validate_every: int = 5
    patience: int = 4


DEFAULTS = SasrecSettings()


class Sasrec(nn.Module):
    """Item and position vectors, pre-norm causal transformer blocks, scores by the item vectors.

    After Kang and McAuley, "Self-attentive sequential recommendation", ICDM 2018, with the loss of
    Klenitskiy and Vasilev, "Turning dross into gold loss", RecSys 2023 (section 3): cross-entropy
    over the whole catalogue in place of one sampled negative.
    """

    def __init__(self, items: int, settings: SasrecSettings) -> None:
        """Random weights from torch's current random state."""
        super().__init__()
        self.items = items
        self.item_vectors = nn.Embedding(items + 1, settings.width, padding_idx=items)
        self.position_vectors = nn.Embedding(settings.window, settings.width)
        nn.init.normal_(self.item_vectors.weight, std=0.02)
        nn.init.normal_(self.position_vectors.weight, std=0.02)
        self.dropout = nn.Dropout(settings.dropout)
        block = nn.TransformerEncoderLayer(
            settings.width,
            settings.heads,
            dim_feedforward=4 * settings.width,
            dropout=settings.dropout,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.blocks = nn.TransformerEncoder(
            block, settings.layers, norm=nn.LayerNorm(settings.width), enable_nested_tensor=False
        )

    def forward(self, windows: Tensor) -> Tensor:
        """States after each item.

        Args:
            windows: ``[users, positions] int64`` items, oldest first, padded at the end with -1.
                The causal mask keeps padding from reaching any item before it.

        Returns:
            ``[users, positions, width] float32``.
        """
        length = windows.shape[1]
        known = torch.where(windows == PADDING, self.items, windows)
        states = self.item_vectors(known) + self.position_vectors.weight[:length]
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=windows.device)
        blocks_output: Tensor = self.blocks(self.dropout(states), mask=mask, is_causal=True)
        return blocks_output

    def scores(self, states: Tensor) -> Tensor:
        """Scores of all items for each state: ``[..., width]`` to ``[..., items]``."""
        return states @ self.item_vectors.weight[: self.items].T


def sasrec(
    train: PrivateHistories,
    history: PrivateHistories,
    validation: Split,
    items: int,
    settings: SasrecSettings = DEFAULTS,
    seed: int = 0,
) -> Scorer:
    """Fit SASRec and score the item after each user's history. Runs on the processor.

    Every epoch takes one window of every user, ending at a place drawn uniformly among those with
    a full window before them (all items of users who have fewer): on small data this shows the
    model far more than the newest window alone. The state with the best NDCG on ``validation`` is
    kept, so its targets decide when to stop and are never learnt from.

    Args:
        train: what is learnt from.
        history: what is read when scoring; rows are the users that the scorer is asked for.
        validation: the split whose NDCG decides when to stop.
        items: size of the catalogue.
        settings: size and training.
        seed: of initial weights, dropout, order and windows; torch's own random state is left as
            it was.

    Raises:
        DataError: if no user has two items to learn from.
        ModelError: if training diverged, found by the validation.
    """
    if train.lengths.max(initial=0) < 2:
        raise DataError(
            f"SASRec: none of the {len(train)} users has two items to learn from; expected at "
            "least one. Give longer histories, or leave this baseline out"
        )
    generator = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Sasrec(items, settings)
        _train(model, train, validation, settings, generator)
    return _scorer(model, history, settings.window)


def _train(
    model: Sasrec,
    train: PrivateHistories,
    validation: Split,
    settings: SasrecSettings,
    generator: np.random.Generator,
) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
    validation_scorer = _scorer(model, validation.history, settings.window)
    best, best_ndcg, misses = _copy(model), -1.0, 0
    for epoch in range(1, settings.most_epochs + 1):
        model.train()
        for windows in _batches(train, settings, generator):
            loss = _loss(model, windows)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
        if epoch % settings.validate_every and epoch < settings.most_epochs:
            continue
        ndcg = evaluate(validation_scorer, validation, model.items).ndcg
        if ndcg > best_ndcg:
            best, best_ndcg, misses = _copy(model), ndcg, 0
        else:
            misses += 1
        if misses == settings.patience:
            break
    model.load_state_dict(best)


def _loss(model: Sasrec, windows: Tensor) -> Tensor:
    targets = windows[:, 1:]
    real = targets != PADDING
    states = model(windows[:, :-1])
    return functional.cross_entropy(model.scores(states[real]), targets[real])


def _copy(model: Sasrec) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def _batches(
    train: PrivateHistories, settings: SasrecSettings, generator: np.random.Generator
) -> Iterator[Tensor]:
    # One more than the model reads: the item after the last position is its target.
    span = settings.window + 1
    lengths = train.lengths
    ends = generator.integers(np.minimum(lengths, span), lengths, endpoint=True)
    users = generator.permutation(np.flatnonzero(lengths >= 2))
    for start in range(0, len(users), settings.batch):
        part = users[start : start + settings.batch]
        yield _windows(train, part, ends[part], span)


def _windows(
    histories: PrivateHistories,
    users: npt.NDArray[np.int64],
    ends: npt.NDArray[np.int64],
    span: int,
) -> Tensor:
    kept = np.minimum(ends, span)
    steps = np.arange(max(1, kept.max()))
    places = (histories.offsets[users] + ends - kept)[:, None] + steps
    inside = steps < kept[:, None]
    windows = np.full(inside.shape, PADDING, dtype=np.int64)
    windows[inside] = histories.items[places[inside]]
    return torch.from_numpy(windows)


def _scorer(model: Sasrec, history: PrivateHistories, window: int) -> Scorer:
    def score(users: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        model.eval()
        ends = history.lengths[users]
        newest = torch.from_numpy(np.clip(ends, 1, window) - 1)
        with torch.no_grad():
            states = model(_windows(history, users, ends, window))
            scores: npt.NDArray[np.float32] = model.scores(
                states[torch.arange(len(users)), newest]
            ).numpy()
        return scores

    return score
