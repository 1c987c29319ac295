"""``tacit policy``: write an organisation's policy, check it, judge a plan by it, amend it."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from shared.errors import ConfigError, PrivacyError
from shared.words import plural, thousandths_text

# The accountants take a second to import: only commands that need them do.
if TYPE_CHECKING:
    from client.budget import BudgetJudge
    from shared.entries import Intent
    from shared.plan import PrivacyPlan
    from shared.policy import Policy

policy_app = typer.Typer(no_args_is_help=True, help="What an organisation allows.")


@policy_app.command()
def template(
    name: Annotated[str, typer.Option(help="Name of the organisation.")],
    users: Annotated[int, typer.Option(min=1, help="Size that it declares.")],
    epsilon: Annotated[float, typer.Option(help="Budget, for ever.")] = 8.0,
    delta: Annotated[
        float | None, typer.Option(help="At which epsilon counts; default users ** -1.1.")
    ] = None,
    aggregation: Annotated[
        Literal["plain", "secure"],
        typer.Option(
            help="plain: the server sees what this organisation sends, with all of its noise; "
            "secure: it sees the sum of all, and the noise is shared."
        ),
    ] = "plain",
    organisations: Annotated[
        int | None, typer.Option(min=1, help="With secure: how many there are.")
    ] = None,
    member: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY",
            help="With secure: public key of an organisation that counts; give each, your own too.",
        ),
    ] = None,
    colluders: Annotated[
        int, typer.Option(min=0, help="With secure: others that may join hands with the server.")
    ] = 1,
) -> None:
    """Print a policy with safe defaults, each rule with its meaning."""
    from shared.policy import Policy
    from shared.sections import to_toml

    secure = aggregation == "secure"
    if not secure and (organisations is not None or member):
        raise ConfigError("--organisations and --member are of --aggregation secure: give that too")
    policy = Policy.from_values(
        {
            "organisation": {"name": name, "declared_users": users},
            "budget": {"epsilon": epsilon, "delta": delta or float(f"{max(users, 2) ** -1.1:.3g}")},
            **(secure_rules(organisations, member or (), colluders) if secure else {}),
        },
        "tacit policy template",
    )
    sys.stdout.write(to_toml(policy, above=True))


@policy_app.command()
def check(
    path: Annotated[Path, typer.Argument(help="policy.toml, or an organisation's folder.")],
    plan: Annotated[
        Path | None, typer.Option(help="plan.json of a run: judge it before it runs.")
    ] = None,
) -> None:
    """Check a policy, and what a plan would cost under it; writes nothing."""
    from shared.policy import Policy

    folder = path if path.is_dir() else path.parent
    policy = Policy.load(path / "policy.toml" if path.is_dir() else path)
    console = Console()
    console.print(f"[bold]{path}[/bold] is a policy of {policy.organisation.name}.")
    if plan is None:
        return
    broken = _judged(console, policy, folder / "ledger.sqlite", _read_plan(plan))
    if broken:
        raise typer.Exit(1)


@policy_app.command()
def amend(
    folder: Annotated[Path, typer.Argument(help="An organisation's folder.")],
) -> None:
    """Put the folder's changed policy.toml on record; it is in force from then on."""
    from client.directory import key_path, read_population
    from client.ledger import amended
    from shared.keys import SigningKey
    from shared.policy import Policy

    policy = Policy.load(folder / "policy.toml")
    key = SigningKey.load_or_create(key_path(folder))
    changes = amended(folder / "ledger.sqlite", policy, key, read_population(folder))
    console = Console()
    console.print(f"On record, and in force from here: {changes or 'nothing has changed'}.")


def secure_rules(
    organisations: int | None, members: Sequence[str], colluders: int, dropouts: int = -1
) -> dict[str, dict[str, Any]]:
    """Rules of a secure sum whose noise is shared, by section.

    Args:
        organisations: that take part.
        members: their public keys; empty where they are named later.
        colluders: that may join hands with the server.
        dropouts: that may be lost in a sum; -1: one in eight.

    Raises:
        ConfigError: if the figures are missing or do not fit together.
    """
    from shared.tolerance import check_tolerance, least_participants, noise_share

    if organisations is None:
        raise ConfigError("--aggregation secure needs --organisations: how many take part")
    least = least_participants(organisations, dropouts, colluders)
    check_tolerance(organisations, least, colluders)
    keys = tuple(dict.fromkeys(key.lower() for key in members))
    if keys and len(keys) < least:
        raise ConfigError(
            f"--member: {plural(len(keys), 'key')} given, and {least} organisations must be in a "
            "sum; give the key of each that may take part"
        )
    return {
        "mechanism": {
            "noise": "shared",
            "distribution": ("discrete",),
            "least_noise_share": noise_share(least, colluders),
        },
        "trust": {
            "binds": "joint",
            "colluders": colluders,
            "least_participants": least,
            "members": keys,
        },
    }


def _judged(console: Console, policy: "Policy", ledger: Path, plan: "PrivacyPlan") -> bool:
    from client.budget import BudgetJudge
    from shared.chain import Record, now, read_sealed
    from shared.entries import Intent, Opening, parse_entry
    from shared.judge import Past

    past = Past()
    for sealed in read_sealed(ledger) if ledger.exists() else ():
        record = Record.parse(sealed.text)
        entry = parse_entry(record)
        if isinstance(entry, Opening):
            past.opening = entry
        if isinstance(entry, Intent):
            past.add(entry, record.at)
    budget = BudgetJudge(policy, past)
    refusals = budget.judged(_intents(policy, plan), plan, now(), proposed=True)
    found = budget.judgement(plan, "")
    table = Table(title=f"The plan, judged at delta {found.delta:.3g}")
    for heading in ("Epsilon now", "when all of it has run", "budget", "left then"):
        table.add_column(heading, justify="right")
    table.add_row(*map(_shown, (found.now, found.planned, found.budget, found.remains)))
    console.print(table)
    if plan.noise.value == "shared":
        _say_figures(console, policy, budget, plan)
    for refusal in refusals:
        console.print(f"[red]refused[/red] {refusal.rule}: {refusal.sentence}", highlight=False)
    if not refusals:
        console.print("Nothing in the policy forbids it.")
    return bool(refusals)


def _say_figures(
    console: Console, policy: "Policy", budget: "BudgetJudge", plan: "PrivacyPlan"
) -> None:
    others = f"the server and {policy.trust.colluders} other organisations at most hold hands"
    for binds, meaning in (("joint", others), ("alone", "everybody else is against this one")):
        planned = budget.judgement(plan, "", binds).planned
        counted = ", which the budget counts" if binds == policy.trust.binds else ""
        console.print(
            f"{binds}{counted}: {_shown(planned)} when all of it has run, if {meaning}.",
            highlight=False,
        )


def _intents(policy: "Policy", plan: "PrivacyPlan") -> list["Intent"]:
    """One intent of each mechanism, of a run that has not begun; a round has one step."""
    from shared.entries import Intent

    servers = policy.federations.allowed
    return [
        Intent.of(
            mechanism,
            plan,
            1,
            run="",
            round=0,
            federation=servers[0] if servers else "",
            participants=(),
            secret_randomness=True,
            adapter_before="",
            policy=policy.sha256,
            population="",
            code="",
            canaries=0,
        )
        for mechanism in plan.mechanisms
    ]


def _read_plan(path: Path) -> "PrivacyPlan":
    from shared.plan import PrivacyPlan

    try:
        return PrivacyPlan.from_json(str(json.loads(path.read_text())["plan"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PrivacyError(f"{path}: holds no privacy plan ({error})") from error


def _shown(value: float | None) -> str:
    return "-" if value is None else thousandths_text(value)
