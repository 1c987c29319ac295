"""What a run writes down, line by line, while it goes: the records of ``metrics.jsonl``.

Every line is one JSON object that ends with a newline; ``event`` tells its kind. What follows the
last newline is what a crash left of a line: readers ignore it, and the next writer cuts it off.

>>> TimingRecord(stage="vectors", seconds=1.5).model_dump_json()
'{"event":"timing","stage":"vectors","seconds":1.5}'
"""

import math
import os
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from shared.errors import RunError

Count = Annotated[int, Field(ge=0)]
Size = Annotated[float, Field(ge=0.0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
RunName = Literal["private", "noise_free"]
NoiseName = Literal["own", "shared", "none"]
AggregationName = Literal["plain", "secure"]


def _finite_or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Epsilon = Annotated[Size | None, BeforeValidator(_finite_or_none)]
"""None where there is no finite bound: JSON has no infinity."""


class Line(BaseModel):
    """Base of all records: unknown keys, infinities and NaN are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DatasetRecord(Line):
    """The data of the run; ``notices`` are sentences about what reading it changed or left out."""

    event: Literal["dataset"] = "dataset"
    name: str
    users: Count
    items: Count
    interactions: Count
    organisations: Count
    notices: tuple[str, ...] = ()


class GuaranteeRecord(Line):
    """What the run promises; the sigmas are noise multipliers, None where there is no such release.

    ``private`` is False without noise, and where the noise came from a seed. ``epsilon`` is the
    budget, ``epsilon_pld`` and the two beside it what the accountants say that the plan costs: all
    these are joint, against a server that sees the sum and at most ``colluders`` organisations.
    ``epsilon_alone`` is what holds where all other organisations help it. Of a secure sum
    ``least_participants`` are the fewest organisations in it.
    """

    event: Literal["guarantee"] = "guarantee"
    unit: str
    adjacency: str
    epsilon: Epsilon
    delta: Share
    noise: NoiseName
    aggregation: AggregationName
    least_participants: Count
    colluders: Count
    private: bool
    sigma_popularity: Size | None
    sigma_cooccurrence: Size | None
    sigma_step: Size | None
    sampling_rate: Share
    steps: Count
    accountant: str
    epsilon_pld: Epsilon
    epsilon_prv: Epsilon
    epsilon_rdp: Epsilon
    epsilon_alone: Epsilon


class RoundRecord(Line):
    """A finished round.

    ``epsilon`` is what is spent so far, ``seconds`` the wall time, ``overhead_ms`` the part of it
    that was neither training nor aggregation (None where it was not measured), ``update_norm`` the
    L2 norm of the mean update, ``replies`` how many updates are in that mean, ``stages`` the
    seconds by stage (``shared.stages``), empty where the organisations were not in this process.
    """

    event: Literal["round"] = "round"
    run: RunName
    round: Count
    rounds: Count
    epsilon: Epsilon
    seconds: Size
    overhead_ms: Size | None = None
    update_norm: Size
    replies: Count
    stages: dict[str, Size] = Field(default_factory=dict)


class EvaluationRecord(Line):
    """Ranking quality after a round, and what it took to know; None in runs of earlier versions."""

    event: Literal["evaluation"] = "evaluation"
    run: RunName
    round: Count
    part: str
    hr: Share
    ndcg: Share
    seconds: Size | None = None


class ResultRecord(Line):
    """Final ranking quality of one method, with standard errors over users (``_se``).

    The ``cold`` figures are means over the ``cold_users`` users whose target is a cold item: one
    that the co-occurrence statistics do not cover. None where there are none.
    """

    event: Literal["result"] = "result"
    method: str
    label: str
    epsilon: Epsilon
    noise: NoiseName
    aggregation: AggregationName = "plain"
    hr: Share
    hr_se: Size
    ndcg: Share
    ndcg_se: Size
    cold_hr: Share | None = None
    cold_ndcg: Share | None = None
    cold_users: Count | None = None
    private: bool


class PrivateEvaluationRecord(Line):
    """Ranking quality that left through a mechanism, with the deviation that its noise gives it."""

    event: Literal["private_evaluation"] = "private_evaluation"
    run: RunName
    cutoff: Count
    hr: float
    hr_deviation: Size
    ndcg: float
    ndcg_deviation: Size
    users: float


class RatingRecord(Line):
    """Errors of predicted ratings on the held-out item of each of ``users``, in units of the scale.

    ``low`` and ``high`` are the 95% interval of the RMSE minus that of the users' own means, paired
    over users; None for what is compared with.
    """

    event: Literal["rating"] = "rating"
    method: str
    label: str
    epsilon: Epsilon
    noise: NoiseName
    aggregation: AggregationName = "plain"
    users: Count
    rmse: Size
    mae: Size
    low: float | None = None
    high: float | None = None
    private: bool


class ComparisonRecord(Line):
    """Method ``a`` minus method ``b``, paired over users, with its 95% interval."""

    event: Literal["comparison"] = "comparison"
    a: str
    b: str
    metric: str
    mean: float
    low: float
    high: float


class WeightRecord(Line):
    """What one part of the score weighs after a run.

    ``most`` is the weight as configured; ``lift`` is the share by which released pairs are more
    frequent for a deviation more of the part's likenesses, None where nothing can be told.
    """

    event: Literal["weight"] = "weight"
    run: RunName
    part: Literal["texts", "user_model"]
    weight: Size
    most: Size
    lift: float | None


class ReleaseSummary(Line):
    """A kind of release that left an organisation ``times`` times; ``bytes`` is their sum.

    ``protocol`` are keys and shares of secure sums, which are no function of the data.
    """

    what: str
    times: Count
    bytes: Count
    sigma: Size | None


class OrganisationRecord(Line):
    """An organisation's budget and releases at the end of the run.

    ``epsilon_before`` was spent before the run began; the other figures are of the whole ledger.
    ``epsilon_spent`` is the figure that the budget binds, ``epsilon_alone`` what holds where all
    other organisations help the server.
    """

    event: Literal["organisation"] = "organisation"
    name: str
    declared_users: Count
    epsilon_before: Epsilon = None
    epsilon_spent: Epsilon
    epsilon_alone: Epsilon
    epsilon_budget: Epsilon
    delta: Share
    releases: tuple[ReleaseSummary, ...]


class Recommended(Line):
    """A recommended item."""

    title: str
    score: float


class ExampleRecord(Line):
    """One user's recent titles, newest first, and recommendations, best first. Private."""

    event: Literal["example"] = "example"
    organisation: str
    user: str
    recent: tuple[str, ...]
    recommended: tuple[Recommended, ...]


class TimingRecord(Line):
    """Wall-clock time of a stage of the run."""

    event: Literal["timing"] = "timing"
    stage: str
    seconds: Size


Record = (
    DatasetRecord
    | GuaranteeRecord
    | RoundRecord
    | EvaluationRecord
    | ResultRecord
    | PrivateEvaluationRecord
    | RatingRecord
    | ComparisonRecord
    | WeightRecord
    | OrganisationRecord
    | ExampleRecord
    | TimingRecord
)

_RECORD: TypeAdapter[Record] = TypeAdapter(Annotated[Record, Field(discriminator="event")])


def append_record(path: Path, record: Record) -> None:
    """Add one line to ``path`` (made if absent) and flush it, after any broken last line is cut."""
    with path.open("a+b") as file:
        _cut_broken_line(file)
        file.write(record.model_dump_json().encode() + b"\n")
        file.flush()


def read_records(path: Path) -> list[Record]:
    """All records of ``path`` in order, without a last line that a crash cut short.

    Raises:
        RunError: if there is no such file, or a whole line is not a record.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise RunError(
            f"{path}: no such file; a run folder holds the metrics.jsonl that its run wrote"
        ) from error
    return [
        _parse(path, number, line) for number, line in enumerate(content.split(b"\n")[:-1], start=1)
    ]


def _parse(path: Path, number: int, line: bytes) -> Record:
    try:
        return _RECORD.validate_json(line)
    except ValidationError as error:
        detail = error.errors()[0]
        place = ".".join(str(part) for part in detail["loc"])
        problem = f"{place}: {detail['msg']}" if place else detail["msg"]
        raise RunError(
            f"{path}, line {number}: not a record of a run ({problem}); "
            "restore the file, or remove the line to do without it"
        ) from error


def _cut_broken_line(file: BinaryIO) -> None:
    end = file.seek(0, os.SEEK_END)
    position, tail = end, b""
    while position and b"\n" not in tail:
        start = max(0, position - 4096)
        file.seek(start)
        tail = file.read(position - start)
        position = start
    whole = position + tail.rfind(b"\n") + 1
    if whole < end:
        file.truncate(whole)
