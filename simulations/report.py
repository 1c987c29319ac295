"""The report of a run: one HTML file with its figures, its guarantee, and what left whom."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TypeVar

from markupsafe import Markup

from shared.config import load_config
from shared.errors import RunError
from shared.files import atomic_path
from shared.pages import page_environment
from simulations import charts, report_words
from simulations.records import (
    ComparisonRecord,
    DatasetRecord,
    EvaluationRecord,
    ExampleRecord,
    GuaranteeRecord,
    OrganisationRecord,
    RatingRecord,
    Record,
    ReleaseSummary,
    ResultRecord,
    RoundRecord,
    RunName,
    TimingRecord,
    WeightRecord,
    read_records,
)
from simulations.timing import GROUPS, REST, grouped, stage_shares, timed_rounds

MOST_EXAMPLES = 3
MOST_BARS = 40
FILTERS = (
    "epsilon",
    "delta",
    "factor",
    "signed",
    "bytes",
    "seconds",
    "short_seconds",
    "compared",
    "part",
    "lift",
    "release",
    "rating_protection",
    "sums",
    "noise",
    "joint",
    "alone",
    "left",
)
RUNS: dict[RunName, tuple[str, str]] = {
    "private": ("This run", "--private"),
    "noise_free": ("The same without noise", "--noise-free"),
}

_Kind = TypeVar("_Kind", bound=Record)


@dataclass(frozen=True)
class Chart:
    """A chart in two shapes; the page shows the one that fits it."""

    wide: Markup
    narrow: Markup


@dataclass(frozen=True)
class Method:
    """A row of the table of results; ``colour`` is the custom property of its bar."""

    label: str
    protection: str
    colour: str
    result: ResultRecord


@dataclass(frozen=True)
class Rounds:
    """Adapter rounds of one run: how many were done, and their median cost."""

    label: str
    colour: str
    done: int
    planned: int
    seconds: float
    overhead_ms: float | None
    last_norm: float


@dataclass(frozen=True)
class Budget:
    """An organisation's budget; ``percent`` is the part spent, None where there is no bound."""

    organisation: OrganisationRecord
    percent: float | None


@dataclass(frozen=True)
class Sent:
    """What left one organisation, one entry for every kind of release, None where it made none."""

    organisation: str
    releases: tuple[ReleaseSummary | None, ...]
    total_bytes: int


def write_report(run_dir: Path) -> Path:
    """Write ``report.html`` into a run folder from its ``config.toml`` and ``metrics.jsonl``.

    The file needs nothing from outside: styles and charts are in it. Records of a stopped run, or
    of a resumed one that wrote some twice, are fine: the last of each counts, and sections without
    data are left out.

    Raises:
        RunError: if one of the two files is missing, or a line of the metrics is no record.
        ConfigError: if the configuration is not one.
    """
    config_path = run_dir / "config.toml"
    if not config_path.is_file():
        raise RunError(
            f"{config_path}: no such file; a report is made in the folder of a run, which holds "
            "config.toml and metrics.jsonl"
        )
    cutoff = load_config(config_path).evaluation.cutoff
    records = read_records(run_dir / "metrics.jsonl")
    page = (
        page_environment(Path(__file__).parent, report_words, FILTERS)
        .get_template("report.html.j2")
        .render(
            run_name=run_dir.resolve().name,
            cutoff=cutoff,
            config_text=config_path.read_text(),
            **_context(records, cutoff),
        )
    )
    path = run_dir / "report.html"
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def _context(records: Sequence[Record], cutoff: int) -> dict[str, object]:
    """Everything that the template shows, by the names that it uses."""
    dataset = _last(records, DatasetRecord)
    guarantee = _last(records, GuaranteeRecord)
    methods = _methods(_latest(records, ResultRecord, lambda r: (r.method, r.epsilon, r.noise)))
    organisations = _latest(records, OrganisationRecord, lambda r: r.name)
    kinds, sent = _sent(organisations)
    timed = timed_rounds(records)
    return {
        "dataset": dataset,
        "guarantee": guarantee,
        "data_sentence": None if dataset is None else report_words.data_sentence(dataset),
        "guarantee_sentence": report_words.guarantee_sentence(guarantee),
        "warning": report_words.warning(guarantee),
        "secure_limits": () if guarantee is None else report_words.secure_limits(guarantee),
        "headline": next((m for m in methods if m.result.method == "federation"), None),
        "methods": methods,
        "comparisons": _latest(records, ComparisonRecord, lambda r: (r.a, r.b, r.metric)),
        "ratings": _latest(records, RatingRecord, lambda r: (r.method, r.epsilon, r.noise)),
        "weights": _latest(records, WeightRecord, lambda r: (r.run, r.part)),
        "results_chart": _results_chart(methods, cutoff),
        "rounds": _rounds(records),
        "rounds_chart": _rounds_chart(records, cutoff, guarantee),
        "budgets": [_budget(organisation) for organisation in organisations],
        "kinds": kinds,
        "sent": sent,
        "bytes_chart": _bytes_chart(kinds, sent),
        "most_bars": MOST_BARS,
        "examples": _latest(records, ExampleRecord, lambda r: (r.organisation, r.user))[
            :MOST_EXAMPLES
        ],
        "timings": _latest(records, TimingRecord, lambda r: r.stage),
        "stages": stage_shares(timed),
        "stages_chart": _stages_chart(timed),
        "stage_groups": [*GROUPS, REST],
        "series": charts.SERIES,
    }


def _last(records: Sequence[Record], kind: type[_Kind]) -> _Kind | None:
    return next((r for r in reversed(records) if isinstance(r, kind)), None)


def _latest(
    records: Sequence[Record], kind: type[_Kind], key: Callable[[_Kind], Hashable]
) -> list[_Kind]:
    """Records of a kind in order of first appearance, the last one for every key."""
    return list({key(record): record for record in records if isinstance(record, kind)}.values())


def _methods(results: Sequence[ResultRecord]) -> list[Method]:
    return [
        Method(
            label=report_words.method_text(result),
            protection=report_words.protection_text(result),
            colour="--private"
            if result.private
            else "--noise-free"
            if result.method in report_words.FEDERATED
            else "--pooled",
            result=result,
        )
        for result in results
    ]


def _results_chart(methods: Sequence[Method], cutoff: int) -> Chart | None:
    if not methods:
        return None
    bars = [
        charts.Bar(m.label, m.colour, m.result.hr, m.result.hr_se, m.result.ndcg, m.result.ndcg_se)
        for m in methods
    ]
    return _chart(lambda shape: charts.results_chart(bars, cutoff, shape))


def _rounds(records: Sequence[Record]) -> list[Rounds]:
    made = []
    for run, (label, colour) in RUNS.items():
        own = [r for r in _latest(records, RoundRecord, lambda r: (r.run, r.round)) if r.run == run]
        if own:
            overheads = [r.overhead_ms for r in own if r.overhead_ms is not None]
            made.append(
                Rounds(
                    label=label,
                    colour=colour,
                    done=len(own),
                    planned=own[-1].rounds,
                    seconds=median(r.seconds for r in own),
                    overhead_ms=median(overheads) if overheads else None,
                    last_norm=own[-1].update_norm,
                )
            )
    return made


def _rounds_chart(
    records: Sequence[Record], cutoff: int, guarantee: GuaranteeRecord | None
) -> Chart | None:
    rounds = _latest(records, RoundRecord, lambda r: (r.run, r.round))
    evaluations = [
        r
        for r in _latest(records, EvaluationRecord, lambda r: (r.run, r.part, r.round))
        if r.part == "validation"
    ]
    curves = [
        charts.Curve(
            colour=colour,
            utility=sorted((r.round, r.ndcg) for r in evaluations if r.run == run),
            epsilon=sorted(
                (r.round, r.epsilon) for r in rounds if r.run == run and r.epsilon is not None
            ),
        )
        for run, (_, colour) in RUNS.items()
    ]
    if not any(curve.utility or curve.epsilon for curve in curves):
        return None
    budget = None if guarantee is None else guarantee.epsilon
    return _chart(lambda shape: charts.rounds_chart(curves, cutoff, budget, shape))


def _budget(organisation: OrganisationRecord) -> Budget:
    spent, budget = organisation.epsilon_spent, organisation.epsilon_budget
    if spent is None or not budget:
        return Budget(organisation, None)
    return Budget(organisation, 100 * spent / budget)


def _sent(organisations: Sequence[OrganisationRecord]) -> tuple[list[str], list[Sent]]:
    """Kinds of releases in order of appearance, and what left every organisation by kind."""
    kinds = list(dict.fromkeys(r.what for o in organisations for r in o.releases))
    sent = []
    for organisation in organisations:
        by_kind = {release.what: release for release in organisation.releases}
        total = sum(release.bytes for release in by_kind.values())
        sent.append(Sent(organisation.name, tuple(by_kind.get(kind) for kind in kinds), total))
    return kinds, sent if kinds else []


def _bytes_chart(kinds: Sequence[str], sent: Sequence[Sent]) -> Chart | None:
    if not sent:
        return None
    shown = (
        sorted(sent, key=lambda s: -s.total_bytes)[:MOST_BARS] if len(sent) > MOST_BARS else sent
    )
    kilobytes = [
        [r.bytes / 1000 if (r := s.releases[k]) else 0.0 for s in shown] for k in range(len(kinds))
    ]
    names = [s.organisation for s in shown]
    return _chart(lambda shape: charts.bytes_chart(names, kilobytes, shape))


def _stages_chart(timed: Sequence[RoundRecord]) -> Chart | None:
    if not timed:
        return None
    parts = [grouped(record) for record in timed]
    seconds = [[part[group] for part in parts] for group in parts[0]]
    numbers = [record.round for record in timed]
    return _chart(lambda shape: charts.stages_chart(numbers, seconds, shape))


def _chart(draw: Callable[[charts.Shape], str]) -> Chart:
    # Markup is safe here: matplotlib escapes the labels, and the rest of the SVG is drawn by us.
    return Chart(wide=Markup(draw("wide")), narrow=Markup(draw("narrow")))
