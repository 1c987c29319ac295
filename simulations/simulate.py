"""The main job: a private federation on one machine, from data to recommendations and a report."""

import json
import math
from pathlib import Path
from typing import Literal
from uuid import uuid4

import numpy as np
from rich.console import Console

from audit.empirical import print_report
from audit.empirical_cli import audited
from audit.empirical_plot import plot
from client.directory import open_ledger, organisation_directory
from client.ledger import Ledger
from shared.config import Config, load_config
from shared.errors import PrivacyError, RunError
from shared.files import atomic_path, write_json
from shared.metrics import paired_bootstrap
from shared.plan import Noise, PrivacyPlan
from shared.scoring import Scorer, top_items
from shared.sections import to_toml
from simulations import records
from simulations.federate import Outcome, federate, outcome_scorer
from simulations.methods import Result, baseline, cold_slice, federated
from simulations.progress import ProgressObserver, Screen
from simulations.ratings import rating_lines
from simulations.recorder import Recorder
from simulations.report import write_report
from simulations.tables import (
    print_examples,
    print_organisations,
    print_private_evaluation,
    print_ratings,
    print_results,
    print_stages,
    print_weights,
)
from simulations.timing import stage_shares, timed_rounds
from simulations.variants import with_sections
from simulations.world import World, build_world

BASELINES = ("zero_shot", "popularity", "item_knn", "by_itself")
RECENT = 5
SHOWN = 10


def simulate(config: Config, directory: Path, console: Console, resume: bool = False) -> Path:
    """Run the main job and return the path of its report.

    Args:
        config: of the run.
        directory: run folder; must not hold another run.
        console: for progress and tables.
        resume: go on with the run that the folder holds.

    Raises:
        RunError: if the folder holds a run and ``resume`` is False, or the other way round.
    """
    check_directory(config, directory, resume)
    path = directory / "metrics.jsonl"
    screen = Screen(console)
    with screen.live():
        with screen.stage("Reading data") as stage:
            world = build_world(config, directory, stage.counter)
        with screen.stage("Loading the base model") as stage:
            stage.note = world.loaded.runtime.precision
        if not resume:
            # Only now: a run that cannot start leaves no folder that looks like one.
            with atomic_path(directory / "config.toml") as temporary:
                temporary.write_text(to_toml(config))
        announce(world, config, console, path)
        with screen.stage("Item vectors", world.items) as stage:
            world.encode(stage.counter)
        with screen.stage("Writing organisations' folders"):
            world.write_organisations(config, directory)
        private, told = _federation(world, config, directory, "private", path, screen)
        twin = None
        if config.run.noise_free_twin and config.privacy.noise != "none":
            bare = without_noise(config)
            folder = directory / "noise_free"
            twin, _ = _federation(world, bare, folder, "noise_free", path, screen)
        scorers = [(private, outcome_scorer(world, config, private))]
        if twin is not None:
            scorers.append((twin, outcome_scorer(world, without_noise(config), twin)))
        results = evaluate_all(world, config, scorers, screen)
        ratings: list[records.RatingRecord] = []
        if config.model.rating_weight:
            runs = [(private, config)] + ([] if twin is None else [(twin, without_noise(config))])
            with screen.stage("Predicting ratings"):
                ratings = rating_lines(world, config, runs)
    for result in results:
        records.append_record(path, result_record(result, config, private.plan))
    weights = weight_records(scorers[0][1], "private")
    for _, scorer in scorers[1:]:
        weights += weight_records(scorer, "noise_free")
    organisations = organisation_records(directory, config, len(world.organisations))
    examples = example_records(world, config, scorers[0][1])
    timings = [records.TimingRecord(stage=k, seconds=v) for k, v in screen.timings.items()]
    last: list[records.Record] = [
        *ratings,
        *comparisons(results, config),
        *weights,
        *organisations,
        *examples,
        *timings,
    ]
    for record in last:
        records.append_record(path, record)
    report = write_report(directory)
    print_results(console, results, config)
    print_weights(console, weights)
    if config.model.rating_weight:
        print_ratings(console, ratings)
    if told is not None:
        print_private_evaluation(console, told)
    print_organisations(console, organisations, private.plan)
    print_examples(console, examples)
    print_stages(console, stage_shares(timed_rounds(records.read_records(path))))
    if config.audit.canaries and private.plan.noise is not Noise.NONE:
        audit(directory, console)
    console.print(f"Everything is in [bold]{directory}[/bold]; open [bold]{report}[/bold].")
    return report


def audit(directory: Path, console: Console) -> None:
    """Print what the run's canaries say, with a picture, and fail a run whose claim they refute.

    Raises:
        PrivacyError: if a lower bound lies above the claim, or a test of the record fails.
    """
    found = audited(directory)
    print_report(console, found)
    plot(found, directory / "audit.svg")
    if not found.passed:
        raise PrivacyError(
            f"{directory}: the audit refutes the run's claim; see tacit audit empirical "
            f"{directory}. " + found.faults[0]
        )


def check_directory(config: Config, directory: Path, resume: bool) -> None:
    """Refuse a folder that holds something else, or a run that cannot be resumed."""
    path = directory / "config.toml"
    if resume:
        if not path.exists():
            raise RunError(f"{directory}: holds no config.toml; there is no run to resume")
        if load_config(path) != config:
            raise RunError(f"{path}: another configuration; resume without further options")
        return
    if directory.exists() and not directory.is_dir():
        raise RunError(f"{directory}: is a file; give a folder as --out")
    if directory.exists() and any(directory.iterdir()):
        raise RunError(f"{directory}: is not empty; give another --out, or --resume {directory}")


def without_noise(config: Config) -> Config:
    """The same federation with no noise and so no guarantee, in organisations of its own."""
    return with_sections(
        config,
        privacy={"noise": "none"},
        aggregation={"mode": "plain"},
        run={"organisations": ""},
    )


def announce(world: World, config: Config, console: Console, path: Path) -> None:
    """Say and write what the data is."""
    dataset = world.dataset
    for notice in dataset.notices:
        console.print(f"  [yellow]{notice}[/yellow]")
    interactions = int(dataset.histories.lengths.sum())
    console.print(
        f"  {dataset.name}: {len(dataset.histories):,} users, {world.items:,} items, "
        f"{interactions:,} interactions in {len(world.organisations)} organisations"
    )
    records.append_record(
        path,
        records.DatasetRecord(
            name=dataset.name,
            users=len(dataset.histories),
            items=world.items,
            interactions=interactions,
            organisations=len(world.organisations),
            notices=dataset.notices,
        ),
    )


def evaluate_all(
    world: World, config: Config, scorers: list[tuple[Outcome, Scorer]], screen: Screen
) -> list[Result]:
    """Every row of the final table, on the test split."""
    results = []
    with screen.stage("Evaluating on the test split", len(BASELINES) + 8) as stage:
        for done, method in enumerate(BASELINES):
            results.append(Result(method, None, "none", baseline(world, method, world.test)))
            stage.at(done + 1)
        for outcome, scores in scorers:
            for method in ("statistics", "texts", "federation", "personalised"):
                if method == "federation" and outcome.adapter is None:
                    continue
                if method == "personalised" and not config.personalisation.own_cooccurrence:
                    continue
                found = federated(world, method, world.test, scores)
                cold = cold_slice(world, found, scores)
                plan = outcome.plan
                summed = plan.aggregation.value
                results.append(Result(method, plan.epsilon, plan.noise.value, found, cold, summed))
                stage.at(len(results))
    return results


def result_record(result: Result, config: Config, plan: PrivacyPlan) -> records.ResultRecord:
    """A table row as a record."""
    found, cold = result.evaluation, result.cold
    return records.ResultRecord(
        method=result.method,
        label=result.label,
        epsilon=result.epsilon,
        noise=result.noise,
        aggregation=result.aggregation,
        hr=found.hr,
        hr_se=found.standard_error("hr"),
        ndcg=found.ndcg,
        ndcg_se=found.standard_error("ndcg"),
        cold_hr=None if cold is None else cold.hr,
        cold_ndcg=None if cold is None else cold.ndcg,
        cold_users=None if cold is None else len(cold),
        private=result.method != "personalised"
        and result.epsilon is not None
        and config.privacy.noise_seed < 0,
    )


def comparisons(results: list[Result], config: Config) -> list[records.ComparisonRecord]:
    """Paired bootstrap over users: the federation against its statistics, each noise apart."""
    found = {(r.method, r.noise): r.evaluation for r in results}
    made = []
    for noise in dict.fromkeys(r.noise for r in results if r.method == "federation"):
        whole, part = found["federation", noise], found["statistics", noise]
        difference = paired_bootstrap(
            whole, part, "ndcg", config.evaluation.bootstrap_samples, config.run.seed
        )
        made.append(
            records.ComparisonRecord(
                a=f"federation ({noise})",
                b=f"statistics ({noise})",
                metric="ndcg",
                mean=difference.mean,
                low=difference.low,
                high=difference.high,
            )
        )
    return made


def weight_records(scorer: Scorer, run: records.RunName) -> list[records.WeightRecord]:
    """What texts and, where there is one, the user model weigh in the scores of a run."""
    blend, fusion = scorer.blend(), scorer.config.fusion
    parts: list[tuple[Literal["texts", "user_model"], float, float, float]] = []
    if fusion.content_weight:
        parts.append(("texts", blend.content, fusion.content_weight, scorer.lift_of_texts))
    if fusion.adapter_weight and scorer.adapter is not None:
        parts.append(("user_model", blend.adapter, fusion.adapter_weight, scorer.lift_of_adapter))
    return [
        records.WeightRecord(
            run=run,
            part=part,
            weight=weight,
            most=most,
            lift=None if math.isnan(lift) else lift,
        )
        for part, weight, most, lift in parts
    ]


def organisation_records(
    directory: Path, config: Config, count: int
) -> list[records.OrganisationRecord]:
    """What each organisation's ledger says: budget, spending, and everything that left."""
    made = []
    for number in range(count):
        folder = organisation_directory(directory, config, number)
        judgement = json.loads((folder / "judgement.json").read_text())
        before = float(judgement["epsilon_now"])
        with open_ledger(folder) as ledger:
            spent, alone, policy = ledger.spent(), ledger.spent("alone"), ledger.policy
            made.append(
                records.OrganisationRecord(
                    name=policy.organisation.name,
                    declared_users=policy.organisation.declared_users,
                    epsilon_before=before if math.isfinite(before) else None,
                    epsilon_spent=spent if math.isfinite(spent) else None,
                    epsilon_alone=alone if math.isfinite(alone) else None,
                    epsilon_budget=policy.budget.epsilon,
                    delta=policy.budget.delta,
                    releases=release_summaries(ledger),
                )
            )
    return made


def release_summaries(ledger: Ledger) -> tuple[records.ReleaseSummary, ...]:
    """Everything with arrays that left by a ledger, one line per mechanism."""
    releases = [release for release in ledger.releases() if release.arrays]
    sigma: dict[str, float] = {}
    for intent in ledger.intents():
        name = intent.mechanism
        sigma[name] = min(intent.noise_multiplier, sigma.get(name, math.inf))
    return tuple(
        records.ReleaseSummary(
            what=what,
            times=sum(r.mechanism == what for r in releases),
            bytes=sum(r.size_bytes for r in releases if r.mechanism == what),
            sigma=sigma.get(what),
        )
        for what in dict.fromkeys(r.mechanism for r in releases)
    )


def example_records(world: World, config: Config, scores: Scorer) -> list[records.ExampleRecord]:
    """A few users, one of each organisation in turn, with their newest items and their list."""
    histories, titles = world.dataset.histories, world.dataset.catalogue.titles
    made = []
    for part in world.organisations[: config.run.examples]:
        user = int(part.users[0])
        row = scores.fused(histories, np.array([user]))[0]
        seen = histories.row(user)
        made.append(
            records.ExampleRecord(
                organisation=part.name,
                user=histories.user_ids[user],
                recent=tuple(titles[i] for i in seen[-RECENT:][::-1]),
                recommended=tuple(
                    records.Recommended(title=titles[place], score=score)
                    for place, score in top_items(row, seen, SHOWN)
                ),
            )
        )
    return made


def _federation(
    world: World, config: Config, directory: Path, run: str, path: Path, screen: Screen
) -> tuple[Outcome, records.PrivateEvaluationRecord | None]:
    name = "Private federation" if run == "private" else "The same without noise"
    with screen.stage(name, max(1, config.training.rounds)) as stage:
        recorder = Recorder(world, config, path, run)
        observers = (ProgressObserver(stage, config.training.steps_per_round), recorder)
        outcome = federate(world, config, directory, run_identifier(directory), observers)
    return outcome, recorder.private_evaluation


def run_identifier(directory: Path) -> str:
    """Identifier of a run: made once, kept in its folder, so that a resumed run has the same."""
    path = directory / "run.json"
    if path.exists():
        return str(json.loads(path.read_text())["run"])
    identifier = uuid4().hex
    write_json(path, {"run": identifier})
    return identifier
