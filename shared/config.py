"""Every option of a run in one model: read from TOML, overridden, printed with its meaning."""

import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from shared.errors import ConfigError
from shared.sections import Count, Positive, Section, Share, read_toml, sentence


class RunSection(Section):
    """The run as a whole."""

    seed: int = Field(0, ge=0, description="Seed of everything but private noise and sampling.")
    engine: Literal["in-process", "ray"] = Field(
        "in-process", description="Where clients run: this process, or Flower's Ray simulation."
    )
    threads: int = Field(0, ge=0, description="Threads of torch; 0 takes all cores.")
    device: str = Field("auto", description="auto, cpu or cuda.")
    organisations: str = Field(
        "",
        description="Folder of organisations (policy, key, ledger) that outlives runs; empty: the "
        "run's own.",
    )
    noise_free_twin: bool = Field(
        True, description="Also run the same federation without noise, for comparison."
    )
    examples: int = Field(3, ge=0, description="Users shown with recommendations at the end.")


# From the sum of two, each knows the other's part.
LEAST_TO_AGGREGATE = 3
# What each does grows with their number.
MOST_BY_DEFAULT = 100

_VARIABLE = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}")
_PASSWORDS = (
    re.compile(r"[a-z][a-z0-9+.-]*://[^:/@]*:(?P<value>.+)@", re.IGNORECASE | re.DOTALL),
    re.compile(
        r"[?&;](?:[^=&;]*(?:passw|pwd|token|secret|credential|signature|(?:access|account|api"
        r"|private)[-_]?key)[^=&;]*|sig)=(?P<value>[^&;]+)",
        re.IGNORECASE,
    ),
)


class DataSection(Section):
    """Where histories and items come from and which column is which."""

    source: str = Field(
        "movielens-100k",
        description="movielens-100k, synthetic, a path, or the URL of a database or object store.",
    )
    interactions: str = Field("", description="Interactions file inside source; empty: found.")
    items: str = Field("", description="Items file inside source; empty: found by its name.")
    interactions_query: str = Field("", description="SQL of a database; empty: its interactions.")
    items_query: str = Field("", description="SQL of a database; empty: its table items.")
    user_column: str = Field("", description="Column of users; empty: guessed.")
    item_column: str = Field("", description="Column of items; empty: guessed.")
    time_column: str = Field("", description="Column of times; empty: guessed.")
    rating_column: str = Field("", description="Column of ratings; empty: guessed, may be absent.")
    title_column: str = Field("", description="Column of titles in items; empty: guessed.")
    key_column: str = Field("", description="Column that matches items across organisations.")
    min_history: int = Field(5, ge=3, description="Users with fewer interactions are left out.")
    unknown_items: Literal["refuse", "leave-out"] = Field(
        "refuse", description="What happens to interactions whose item is not among the items."
    )
    synthetic_users: Count = Field(2000, description="Users of --data synthetic.")
    synthetic_items: Count = Field(1000, description="Items of --data synthetic.")

    @model_validator(mode="after")
    def _no_password(self) -> Self:
        for name in ("source", "interactions", "items"):
            address = getattr(self, name)
            found = [match["value"] for form in _PASSWORDS for match in form.finditer(address)]
            if "://" in address and not all(_VARIABLE.fullmatch(value) for value in found):
                raise ValueError(
                    f"data.{name} holds a password, and settings are written to files: put it "
                    "into an environment variable and write ${NAME} in its place"
                )
        return self


class PartitionSection(Section):
    """How one data set becomes several organisations, in simulation."""

    organisations: Count = Field(8, description="Number of organisations.")
    scheme: str = Field(
        "iid", description="iid, dirichlet:ALPHA (by favourite genre) or column:NAME."
    )


class BaseSection(Section):
    """The base language model."""

    name: str = Field("minilm", description="minilm, smollm2, a directory, or a hub id.")
    precision: Literal["auto", "float32", "bfloat16", "int8"] = Field(
        "auto",
        description="auto takes bfloat16 where the processor has it; int8 holds the frozen weights "
        "in eight bits (needs torchao) and takes products as auto.",
    )


class ModelSection(Section):
    """The user model: LoRA-tuned layers of the base over item vectors."""

    layers: Count = Field(2, description="How many of the base's layers the user model keeps.")
    layers_from: Literal["top", "bottom"] = Field(
        "top", description="Which end of the base's stack of layers is kept."
    )
    adapter: Literal["ffa-lora", "lora"] = Field(
        "ffa-lora", description="ffa-lora trains B and freezes A; lora trains both."
    )
    rank: Count = Field(2, description="Rank of the adapters.")
    alpha: Count = Field(4, description="LoRA alpha; the scale is alpha / rank.")
    targets: tuple[str, ...] = Field((), description="Names of adapted linear layers; empty: all.")
    temperature: Positive = Field(0.07, description="Temperature of the cosine scores.")
    window: int = Field(
        50, ge=2, le=4096, description="Newest items of a history that the model reads."
    )
    warm_start: str = Field("", description="Directory made by tacit pretrain; empty: none.")
    rating_weight: float = Field(
        0.0,
        ge=0.0,
        description="Weight of the squared error of ratings beside the cross-entropy; 0: none are "
        "predicted.",
    )
    rating_low: float = Field(1.0, description="Least rating of the scale; public.")
    rating_high: float = Field(5.0, description="Greatest rating of the scale; public.")

    @model_validator(mode="after")
    def _rating_scale(self) -> Self:
        if not self.rating_low < self.rating_high:
            raise ValueError(
                f"rating_low must be below rating_high, they are {self.rating_low:g} and "
                f"{self.rating_high:g}"
            )
        return self


class PrivacySection(Section):
    """The guarantee. Unit: user. Adjacency: add or remove one user."""

    epsilon: Annotated[float, Field(gt=0.0, le=50.0)] = Field(
        8.0, description="Budget of every organisation for the whole run; at most 50."
    )
    delta: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.0, description="0 takes 1 / (users of the federation) ** 1.1."
    )
    noise: Literal["auto", "own", "shared", "none"] = Field(
        "auto",
        description="own: every organisation adds its full noise; shared: one noise for the sum of "
        "all, simulated where aggregation is plain; none: no noise, no guarantee; auto: shared "
        "where aggregation is secure, own elsewhere.",
    )
    distribution: Literal["gaussian", "discrete"] = Field(
        "gaussian",
        description="gaussian: drawn in float64; discrete: exact discrete Gaussian on a grid.",
    )
    noise_seed: int = Field(
        -1, ge=-1, description="-1: the operating system. Any other marks the run not private."
    )
    popularity_share: Share = Field(0.19, description="Share of the budget (mu squared) for P.")
    cooccurrence_share: Share = Field(0.76, description="Share of the budget for G.")
    adapter_share: Share = Field(0.05, description="Share of the budget for adapter rounds.")
    evaluation_share: Share = Field(
        0.0, description="Share of the budget for one private evaluation at the end; 0: none."
    )
    clipping: Literal["automatic", "flat"] = Field(
        "automatic", description="automatic scales every user's gradient to the clipping norm."
    )
    clipping_norm: Positive = Field(1.0, description="L2 bound of one user's gradient.")

    @model_validator(mode="after")
    def _shares(self) -> Self:
        total = self.popularity_share + self.cooccurrence_share + self.adapter_share
        total += self.evaluation_share
        if abs(total - 1.0) > 1e-9:
            raise ValueError(
                "popularity_share, cooccurrence_share, adapter_share and evaluation_share must add "
                f"up to 1, they add up to {total:g}"
            )
        if self.distribution == "discrete" and self.noise_seed >= 0:
            raise ValueError(
                "discrete noise comes from the operating system only: leave noise_seed at -1 or "
                'set distribution = "gaussian"'
            )
        if self.delta and self.delta < 1e-12:
            raise ValueError("delta below 1e-12 is beyond what the accountants compute")
        return self


class AggregationSection(Section):
    """How the sums of organisations reach the server."""

    mode: Literal["auto", "secure", "plain"] = Field(
        "auto",
        description="secure: the server sees only the sum, and the noise is added once; plain: it "
        "sees what each sends; auto: secure where 3 to 100 organisations take part.",
    )
    colluders: int = Field(
        1, ge=0, le=1000, description="Organisations that may join hands with the server."
    )
    dropouts: int = Field(
        -1,
        ge=-1,
        le=1000,
        description="Organisations that may be lost in a round; -1: one in eight, fewer among "
        "many. Noise is added for them, and for colluders.",
    )


class StatisticsSection(Section):
    """The one-shot private statistics P (popularity) and G (co-occurrence)."""

    top_items: int = Field(
        0,
        ge=0,
        description="K: items that G covers; 0: those whose popularity stands out of noise.",
    )
    pair_window: int = Field(
        10, ge=1, le=1000, description="Pairs of a history up to this many steps apart."
    )
    pair_decay: Share = Field(0.8, description="Weight of a pair is this to (distance - 1).")
    rank: int = Field(
        0,
        ge=0,
        description="Rank to which the noisy G is truncated; 0: as many as stand out of the noise.",
    )
    row_power: Share = Field(0.5, description="G is divided by popularity to this power, rows.")
    column_power: Share = Field(0.3, description="The same for columns.")
    history_decay: Share = Field(0.6, description="Weight of a history item, a step back.")
    weight: float = Field(0.7, ge=0.0, description="Weight of the standardised G beside log P.")


class TrainingSection(Section):
    """The private steps at the client."""

    rounds: int = Field(4, ge=0, description="Adapter rounds; 0 leaves the statistics alone.")
    steps_per_round: Count = Field(1, description="Private steps of a client in a round.")
    sampling_rate: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        1.0, description="Probability with which each user enters a step (Poisson)."
    )
    step_size: Positive = Field(1.0, description="Step of the client's optimiser (SGD).")
    send_precision: Literal["float32", "float16"] = Field(
        "float32",
        description="Of adapters and updates on the way; float16 halves a round's bytes. Rounding "
        "comes after the noise.",
    )
    micro_batch_rows: Count = Field(64, description="Rows of a forward pass; bounds memory.")
    softmax_items: int = Field(
        8192,
        ge=2,
        description="Most items in the normaliser of the cross-entropy; of a larger catalogue a "
        "public sample stands for all.",
    )


class ServerSection(Section):
    """Aggregation and the server's optimiser."""

    optimizer: Literal["average", "momentum", "normalised", "adam"] = Field(
        "normalised",
        description="average adds the mean update; momentum and adam smooth it; normalised goes "
        "the way of momentum by a fixed length, however loud the noise is.",
    )
    learning_rate: float = Field(
        0.0,
        ge=0.0,
        description="Step of momentum and adam, length of a step of normalised; 0: 3, 0.015 and "
        "1.2.",
    )
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.9, description="Momentum, and beta 1 of adam."
    )
    second_momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.999, description="Beta 2 of adam."
    )
    iterate_average: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.0, description="Share of the last rounds whose adapters are averaged; 0: the last one."
    )
    min_replies: Count = Field(1, description="Fewest replies with which a round counts.")
    round_timeout_s: Positive = Field(3600.0, description="Seconds to wait for replies.")


class FusionSection(Section):
    """Late fusion at scoring: log P + statistics + adapter."""

    adapter_weight: float = Field(
        0.4, ge=0.0, description="Weight of the user model's scores, at most."
    )
    content_weight: float = Field(
        0.8, ge=0.0, description="Weight of the likeness to the texts of a history, at most."
    )
    content_decay: Share = Field(0.8, description="Weight of a history item's text, a step back.")
    need_weight: float = Field(1.0, ge=0.0, description="Weight of a stated need's score.")
    weight_per_lift: float = Field(
        8.0,
        ge=0.0,
        description="Texts and user model weigh this times the share, above 0.04, by which "
        "released pairs are more frequent for a deviation more of likeness; 0: the most, always.",
    )


class PersonalisationSection(Section):
    """What an organisation mixes in for its own users: outside the guarantee, its own choice."""

    own_cooccurrence: float = Field(
        0.0,
        ge=0.0,
        description="Weight of the organisation's own co-occurrence beside the federation's, "
        "without noise, in its own lists; 0: none. 1 suits a hundred users and more.",
    )
    least_users: Count = Field(
        2, description="Pairs of items that fewer of its users had do not count there."
    )


class EvaluationSection(Section):
    """Ranking quality: exact in simulation, and outside the guarantee there."""

    protocol: Literal["leave-one-out", "temporal"] = Field(
        "leave-one-out", description="Last item per user, or the first after a global cut in time."
    )
    cutoff: Count = Field(10, description="k of HR@k and NDCG@k.")
    every_rounds: int = Field(1, ge=0, description="Rounds between evaluations; 0: only the end.")
    bootstrap_samples: int = Field(1000, ge=100, description="Resamples of the paired bootstrap.")


class AuditSection(Section):
    """The empirical audit that rides on a run."""

    canaries: int = Field(
        0, ge=0, description="Pretend users per release whose traces bound epsilon from below."
    )


class Config(Section):
    """All sections of a run's configuration."""

    run: RunSection = Field(default_factory=RunSection)
    data: DataSection = Field(default_factory=DataSection)
    partition: PartitionSection = Field(default_factory=PartitionSection)
    base: BaseSection = Field(default_factory=BaseSection)
    model: ModelSection = Field(default_factory=ModelSection)
    privacy: PrivacySection = Field(default_factory=PrivacySection)
    aggregation: AggregationSection = Field(default_factory=AggregationSection)
    statistics: StatisticsSection = Field(default_factory=StatisticsSection)
    training: TrainingSection = Field(default_factory=TrainingSection)
    server: ServerSection = Field(default_factory=ServerSection)
    fusion: FusionSection = Field(default_factory=FusionSection)
    personalisation: PersonalisationSection = Field(default_factory=PersonalisationSection)
    evaluation: EvaluationSection = Field(default_factory=EvaluationSection)
    audit: AuditSection = Field(default_factory=AuditSection)

    @model_validator(mode="after")
    def _evaluation(self) -> Self:
        if self.privacy.evaluation_share and self.evaluation.protocol != "leave-one-out":
            raise ValueError(
                "privacy.evaluation_share needs evaluation.protocol = leave-one-out: a cut in time "
                "is taken from all users' times, so their rows would depend on each other"
            )
        return self

    @model_validator(mode="after")
    def _settle(self) -> Self:
        """Put in place of each auto what it means here."""
        mode, noise = self.aggregation.mode, self.privacy.noise
        several = LEAST_TO_AGGREGATE <= self.partition.organisations <= MOST_BY_DEFAULT
        if mode == "auto":
            wanted = noise in ("auto", "shared") and self.training.steps_per_round == 1
            mode = "secure" if wanted and several and self.privacy.noise_seed < 0 else "plain"
        if noise == "auto":
            noise = "shared" if mode == "secure" else "own"
        if mode == "secure":
            self._check_secure(noise)
        settled = {
            "aggregation": self.aggregation.model_copy(update={"mode": mode}),
            "privacy": self.privacy.model_copy(update={"noise": noise}),
        }
        self.__dict__.update(settled)
        return self

    def _check_secure(self, noise: str) -> None:
        if self.partition.organisations < LEAST_TO_AGGREGATE:
            raise ValueError(
                "aggregation.mode = secure needs partition.organisations of 3 or more: from the "
                "sum of two, each knows the other's part; set aggregation.mode = plain"
            )
        if self.privacy.noise_seed >= 0 and noise != "none":
            raise ValueError(
                "aggregation.mode = secure draws its noise from the operating system only: leave "
                "privacy.noise_seed at -1 or set aggregation.mode = plain"
            )
        if noise == "shared" and self.training.steps_per_round > 1:
            # A second step would start from a first one that has only this organisation's share of
            # the noise, and what follows would tell more of it than the sum does.
            raise ValueError(
                "noise for the sum of all covers one private step a round: set "
                "training.steps_per_round = 1 or privacy.noise = own"
            )


def parse_config(values: Mapping[str, Any], where: str) -> Config:
    """Validate nested ``values``; ``where`` names their origin in an error.

    Raises:
        ConfigError: for an unknown key (with the nearest valid one) or a bad value.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{where}: {sentence(error, Config)}") from error


def load_config(
    path: Path | None, overrides: Iterable[str] = (), named: Mapping[str, Any] | None = None
) -> Config:
    """Read a TOML file (or the defaults) and apply overrides, the later ones last.

    Args:
        path: TOML file; None for the defaults.
        overrides: of the form ``section.key=value``.
        named: ``{"section.key": value}``, from options of the command line.

    Raises:
        ConfigError: for a file that cannot be read, an unknown key or a bad value.
    """
    values: dict[str, Any] = {}
    where = "configuration"
    if path is not None:
        where = str(path)
        if not path.exists():
            raise ConfigError(f"{path}: no such configuration file")
        values = read_toml(path, ConfigError)
    for override in overrides:
        apply_override(values, override)
    for dotted, value in (named or {}).items():
        section, _, key = dotted.partition(".")
        table = values.setdefault(section, {})
        if not isinstance(table, dict):
            raise ConfigError(f"{where}: {section} is not a section; write [{section}]")
        table[key] = value
    return parse_config(values, where)


def from_run_config(flat: Mapping[str, Any]) -> Config:
    """The configuration from Flower's flat run config (``{"privacy.epsilon": 8.0}``)."""
    values: dict[str, Any] = {}
    for dotted, value in flat.items():
        if dotted.startswith("tacit."):
            continue
        section, _, key = dotted.partition(".")
        field = _field(section, key)
        if field is not None and "tuple" in str(field.annotation) and isinstance(value, str):
            values.setdefault(section, {})[key] = [part for part in value.split(",") if part]
            continue
        values.setdefault(section, {})[key] = value
    return parse_config(values, "[tool.flwr.app.config]")


def to_run_config(config: Config) -> dict[str, str | int | float | bool]:
    """The flat form of a configuration that Flower's ``run_config`` carries."""
    return {
        f"{section}.{key}": ",".join(value) if isinstance(value, tuple) else value
        for section, table in config.model_dump().items()
        for key, value in table.items()
    }


def _field(section: str, key: str) -> Any:
    table = Config.model_fields.get(section)
    if table is None or table.annotation is None:
        return None
    return table.annotation.model_fields.get(key)


def apply_override(values: dict[str, Any], override: str) -> None:
    """Put an override of the form ``section.key=value`` into nested values.

    Raises:
        ConfigError: if it has another form.
    """
    dotted, equals, text = override.partition("=")
    section, dot, key = dotted.strip().partition(".")
    if not equals or not dot or not key:
        raise ConfigError(f"--set {override}: expected section.key=value")
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    table = values.setdefault(section, {})
    if not isinstance(table, dict):
        raise ConfigError(f"--set {override}: {section} is not a section")
    table[key] = value
