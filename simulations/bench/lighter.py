"""``tacit bench lighter``: the user model that serves recommendations, made lighter.

Two ways, and both together: linear layers of eight bits, and a student of fewer layers that is
taught the directions in which the delivered user model looks (Hinton et al. 2015, "Distilling the
knowledge in a neural network", arXiv 1503.02531; here by cosine, for what ranks is a direction).

The student costs no privacy. It is taught on made-up histories that depend on nothing but the
released statistics, by the delivered adapter: it is post-processing of what was released, and no
user's history is read for it.
"""

import copy
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from shared.config import Config
from shared.devices import Runtime
from shared.encoder import Vectors
from shared.errors import ConfigError, ModelError
from shared.histories import PrivateHistories
from shared.metrics import Evaluation, evaluated_users, paired_bootstrap
from shared.scoring import ROWS_PER_PASS, Scorer, Scores
from shared.statistics import Floats, Statistics
from shared.user_model import (
    PassThrough,
    UserModel,
    build_user_model,
    item_tensor,
    layer_stack,
)
from simulations.bench.settings import Setting
from simulations.federate import federate, outcome_scorer
from simulations.methods import federated
from simulations.world import World, build_world

Ints = npt.NDArray[np.int64]

# Of the steps of a made-up history, those that go to a popular item instead of a near one.
POPULAR_STEPS = 0.3
# A history has an item once, as far as so many draws allow.
DRAWS = 5
ROWS_PER_STEP = 16
LEARNING_RATE = 1e-3
SINGLE_REPEATS = 50
PASS_REPEATS = 5


@dataclass(frozen=True)
class LighterRow:
    """One way to hold the user model.

    Attributes:
        way: as a person reads it.
        data, noise, epsilon: of the federation.
        users: ranked.
        layers: of the user model.
        size_mb: of the weights of these layers, 10^6 bytes.
        cosine: of a user's direction with that of the first way, mean over users.
        adapter_hr10, adapter_ndcg10: of the adapter alone.
        hr10, ndcg10: of the whole blend.
        ndcg10_less_first, low, high: NDCG of the whole blend less that of the first way, and its
            95% interval over users.
        history_ms: to read one history of a full window, median.
        users_per_s: in a pass of up to ``ROWS_PER_PASS`` real histories, median.
    """

    way: str
    data: str
    noise: str
    epsilon: float | None
    users: int
    layers: int
    size_mb: float
    cosine: float
    adapter_hr10: float
    adapter_ndcg10: float
    hr10: float
    ndcg10: float
    ndcg10_less_first: float
    low: float
    high: float
    history_ms: float
    users_per_s: float


@dataclass(frozen=True)
class Lessons:
    """How a student is taught. Public.

    Attributes:
        layers: of the student.
        histories: made up for it, each of a full window.
        epochs: passes over them.
    """

    layers: int = 1
    histories: int = 4000
    epochs: int = 5


def measure(
    config: Config,
    setting: Setting,
    lessons: Lessons,
    told: Callable[[str], None] = lambda _: None,
) -> list[LighterRow]:
    """Run a federation, make its user model lighter in every way, rank and time with each.

    Args:
        config: data, model and training; its own noise is not used.
        setting: of the noise.
        lessons: of the student.
        told: is told what runs next.

    Raises:
        ConfigError: where there is no adapter, no layer to leave out, or another device than a CPU.
    """
    drawn = setting.configure(config, config.run.seed)
    if not drawn.training.rounds:
        raise ConfigError("training.rounds = 0 trains no user model; give at least one round")
    if lessons.layers >= drawn.model.layers:
        raise ConfigError(
            f"--student-layers {lessons.layers}: the user model has {drawn.model.layers} "
            "(model.layers); give the student fewer"
        )
    with tempfile.TemporaryDirectory() as scratch:
        world = build_world(drawn, Path(scratch))
        runtime = world.loaded.runtime
        if runtime.device != "cpu" or runtime.weights == "int8":
            raise ConfigError(
                f"found device {runtime.device} and weights in {runtime.weights}; torch's eight "
                "bits are compared with whole weights on a CPU: set run.device = cpu, and "
                "base.precision = auto"
            )
        told("Running a federation")
        outcome = federate(world, drawn, Path(scratch) / "run", "lighter")
        loaded = world.loaded
        # As a service loads it: the model that was trained here has Opacus's hooks on it.
        fresh = build_user_model(loaded.start, loaded.options, runtime, drawn.run.seed)
        delivered = replace(outcome_scorer(world, drawn, outcome), model=fresh)
        trained = delivered.with_merged_adapter()
        ways = lighter_ways(trained, lessons, told)
        return _rows(world, setting, ways, made_up(trained.statistics, 1, drawn.model.window), told)


def lighter_ways(
    trained: Scorer, lessons: Lessons, told: Callable[[str], None] = lambda _: None
) -> dict[str, Scorer]:
    """Scorers by way, of which the first is ``trained``, with a merged adapter."""
    model = trained.model
    assert model is not None
    assert trained.runtime is not None
    made = made_up(
        trained.statistics, lessons.histories, trained.config.model.window, trained.config.run.seed
    )
    student = taught(model, lessons, made, trained.vectors, trained.runtime, told)
    whole = Runtime("cpu", "float32")
    name = f"student, {lessons.layers} layer{'s' if lessons.layers > 1 else ''}"
    return {
        "as trained": trained,
        "int8": replace(trained, model=in_eight_bits(model), runtime=whole),
        name: replace(trained, model=student),
        f"{name}, int8": replace(trained, model=in_eight_bits(student), runtime=whole),
    }


def made_up(statistics: Statistics, histories: int, length: int, seed: int = 0) -> PrivateHistories:
    """Histories drawn from released statistics alone: a Markov walk over the items that G covers.

    The first item is drawn by popularity P. The next is drawn by the row of the last item in G's
    ``max(transition, 0)``, or by popularity: where G does not cover that item or has nothing to
    say of it, and in ``POPULAR_STEPS`` of the steps anyway. No user's history is touched, so that
    what comes of them is post-processing and has no epsilon of its own.

    Args:
        statistics: as released.
        histories: how many.
        length: of each.
        seed: of the draws.
    """
    draw = np.random.default_rng(seed)
    logs = statistics.log_popularity
    popular = np.cumsum(np.exp(logs - logs.max()))
    near = np.cumsum(np.maximum(statistics.transition, 0.0), axis=1)
    leaving = near.max(axis=1, initial=0.0)
    column = np.full(len(logs), -1, dtype=np.int64)
    column[statistics.top] = np.arange(len(statistics.top))

    walks = np.empty((histories, length), dtype=np.int64)
    for step in range(length):
        again = np.arange(histories)
        for _ in range(DRAWS):
            if not len(again):
                break
            walks[again, step] = _drawn(popular, draw.random(len(again)))
            if step:
                row = column[walks[again, step - 1]]
                walking = draw.random(len(again)) >= POPULAR_STEPS
                walking &= row >= 0
                walking[walking] = leaving[row[walking]] > 0
                point = draw.random(int(walking.sum())) * leaving[row[walking]]
                passed = near[row[walking], :-1] <= point[:, None]
                walks[again[walking], step] = statistics.top[passed.sum(axis=1)]
            had = (walks[again, :step] == walks[again, step : step + 1]).any(axis=1)
            again = again[had]
    return PrivateHistories(
        tuple(f"made-up-{number}" for number in range(histories)),
        np.arange(histories + 1, dtype=np.int64) * length,
        walks.ravel(),
        np.tile(np.arange(length, dtype=np.float64), histories),
    )


def _drawn(cumulated: Floats, uniform: Floats) -> Ints:
    places = np.searchsorted(cumulated[:-1], uniform * cumulated[-1], side="right")
    return np.asarray(places, dtype=np.int64)


def in_eight_bits(model: UserModel) -> UserModel:
    """A copy with its linear layers in eight bits by torch's own dynamic quantisation.

    Weights are rounded with one scale for each output, what comes in with one for each call;
    products are of integers. On a CPU, in float32 around them.

    Raises:
        ModelError: if there is no linear layer, and nothing would be rounded.
    """
    if not any(isinstance(module, nn.Linear) for module in layer_stack(model.backbone).modules()):
        raise ModelError("the layers of this base are not of torch.nn.Linear; none can be rounded")
    own = copy.deepcopy(model)
    with warnings.catch_warnings():
        # That torch's own way will give place to torchao's, which may not be installed.
        warnings.filterwarnings("ignore", message="torch.*quantiz.* deprecated")
        torch.ao.quantization.quantize_dynamic(  # type: ignore[no-untyped-call]
            own.backbone,
            {nn.Linear: torch.ao.quantization.per_channel_dynamic_qconfig},
            inplace=True,
        )
    return own.eval()


def student_of(teacher: UserModel, layers: int) -> UserModel:
    """A copy of a user model with its first ``layers`` layers alone, which are to be trained.

    Taught alike, one layer of two came to a cosine of 0.89 from the first and of 0.82 from the last
    (ml-100k, two epochs of 2,000 made-up histories, learning rate 3e-4).
    """
    student = copy.deepcopy(teacher)
    student.requires_grad_(False)
    stack = layer_stack(student.backbone)
    for index in _kept(stack)[layers:]:
        stack[index] = PassThrough()
    stack.requires_grad_(True)
    return student


def taught(
    teacher: UserModel,
    lessons: Lessons,
    histories: PrivateHistories,
    vectors: Vectors,
    runtime: Runtime,
    told: Callable[[str], None] = lambda _: None,
) -> UserModel:
    """A student whose direction at every position is near the teacher's.

    The loss is one less the cosine of the last hidden states, the mean over all positions of all
    windows; all weights of the student's layers are trained with AdamW, at a rate that falls to 0.

    Args:
        teacher: a user model with its adapter merged.
        lessons: layers and epochs.
        histories: made up, all of one length.
        vectors: ``[items, dim] float32``.
        runtime: device and precision of products.
        told: is told how far it is.
    """
    student = student_of(teacher, lessons.layers)
    windows = torch.from_numpy(histories.items.reshape(len(histories), -1))
    items = item_tensor(vectors, runtime.device, runtime.precision)
    weights = [weight for weight in student.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATE)
    steps = lessons.epochs * -(-len(windows) // ROWS_PER_STEP)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order = torch.Generator().manual_seed(0)
    for epoch in range(lessons.epochs):
        told(f"Teaching a student, epoch {epoch + 1} of {lessons.epochs}")
        shuffled = windows[torch.randperm(len(windows), generator=order)]
        for start in range(0, len(windows), ROWS_PER_STEP):
            embedded = items[shuffled[start : start + ROWS_PER_STEP]].float()
            with runtime.autocast():
                with torch.no_grad():
                    wanted = teacher(embedded)
                found = student(embedded)
            loss = (1.0 - nn.functional.cosine_similarity(found.float(), wanted.float(), -1)).mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return student.requires_grad_(False).eval()


def layers_mb(model: UserModel) -> tuple[int, float]:
    """Layers that a user model has, and the size of their weights, 10^6 bytes."""
    stack = layer_stack(model.backbone)
    return len(_kept(stack)), _bytes(stack.state_dict()) / 1e6


def _kept(stack: nn.ModuleList) -> list[int]:
    return [index for index, layer in enumerate(stack) if not isinstance(layer, PassThrough)]


def _bytes(value: object) -> int:
    """Of all tensors in it: layers of eight bits hold theirs in tuples."""
    if isinstance(value, Tensor):
        return value.nbytes
    parts = value.values() if isinstance(value, Mapping) else value
    return sum(_bytes(part) for part in parts) if isinstance(parts, Iterable) else 0


def _rows(
    world: World,
    setting: Setting,
    ways: Mapping[str, Scorer],
    single: PrivateHistories,
    told: Callable[[str], None],
) -> list[LighterRow]:
    part = world.test
    users = evaluated_users(part)
    alone: list[Evaluation] = []
    whole: list[Evaluation] = []
    directions: list[Scores] = []
    for way, scorer in ways.items():
        told(f"Ranking: {way}")
        alone.append(federated(world, "adapter", part, scorer))
        whole.append(federated(world, "federation", part, scorer))
        directions.append(scorer.states(part.history, users) * world.config.model.temperature)
    first = np.zeros(1, dtype=np.int64)
    told("Timing one history")
    single_s = _in_turn(ways, single, first, SINGLE_REPEATS)
    told("Timing passes")
    pass_users = users[:ROWS_PER_PASS]
    pass_s = _in_turn(ways, part.history, pass_users, PASS_REPEATS)
    rows = []
    for place, (way, scorer) in enumerate(ways.items()):
        assert scorer.model is not None
        difference = paired_bootstrap(whole[place], whole[0], "ndcg")
        cosines = np.einsum("ud,ud->u", directions[place], directions[0])
        rows.append(
            LighterRow(
                way,
                world.dataset.name,
                setting.noise,
                setting.epsilon,
                len(users),
                *layers_mb(scorer.model),
                float(cosines.mean()),
                alone[place].hr,
                alone[place].ndcg,
                whole[place].hr,
                whole[place].ndcg,
                difference.mean,
                difference.low,
                difference.high,
                single_s[way] * 1000,
                len(pass_users) / pass_s[way],
            )
        )
    return rows


def _in_turn(
    ways: Mapping[str, Scorer], histories: PrivateHistories, users: Ints, repeats: int
) -> dict[str, float]:
    """Median seconds to read some histories, by way; the ways take turns, the first round aside."""
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repeats + 1):
        for way, scorer in ways.items():
            started = time.perf_counter()
            scorer.states(histories, users)
            times[way].append(time.perf_counter() - started)
    return {way: statistics.median(found[1:]) for way, found in times.items()}
