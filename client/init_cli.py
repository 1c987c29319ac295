"""``tacit client init``: asks what is not given, says what it found and what the budget buys."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from client.settings import node_directory
from shared.errors import ConfigError
from shared.words import delta_text, plural, thousandths_text

# torch and DuckDB take seconds to import: only the command itself needs them.
if TYPE_CHECKING:
    from client.data.findings import Findings
    from client.outlook import Share
    from client.setup import Wishes
    from shared.policy import Policy

NodeOption = Annotated[
    Path | None,
    typer.Option(
        metavar="NODE",
        help="Folder of the SuperNode; default ORG-node beside ORG.",
        # It may belong to another user: what follows says so better than Typer.
        readable=False,
    ),
]


def init_command(
    org: Annotated[Path, typer.Argument(metavar="ORG", help="Folder to make.")],
    name: Annotated[str | None, typer.Option(help="Name of the organisation.")] = None,
    users: Annotated[int | None, typer.Option(min=1, help="Size that it declares; public.")] = None,
    node: NodeOption = None,
    epsilon: Annotated[float, typer.Option(help="Budget, for ever.")] = 8.0,
    delta: Annotated[
        float | None, typer.Option(help="At which epsilon counts; default users ** -1.1.")
    ] = None,
    aggregation: Annotated[
        Literal["plain", "secure"],
        typer.Option(
            help="plain: what leaves has all of this organisation's noise; secure: only sums of "
            "all leave, and the noise is shared."
        ),
    ] = "plain",
    organisations: Annotated[
        int | None, typer.Option(min=1, help="With secure: how many there are.")
    ] = None,
    colluders: Annotated[
        int, typer.Option(min=0, help="With secure: others that may join hands with the server.")
    ] = 1,
    dropouts: Annotated[
        int, typer.Option(min=-1, help="With secure: that may be lost in a sum; -1: one in eight.")
    ] = -1,
    data: Annotated[
        str | None, typer.Option(help="A folder, a file, or the URL of a database or store.")
    ] = None,
    interactions: Annotated[str | None, typer.Option(help="Interactions inside --data.")] = None,
    items: Annotated[str | None, typer.Option(help="Items inside --data, or beside it.")] = None,
    user_column: Annotated[str | None, typer.Option(help="Column of users.")] = None,
    item_column: Annotated[str | None, typer.Option(help="Column of items.")] = None,
    time_column: Annotated[str | None, typer.Option(help="Column of times.")] = None,
    rating_column: Annotated[str | None, typer.Option(help="Column of ratings.")] = None,
    title_column: Annotated[str | None, typer.Option(help="Column of titles.")] = None,
    key_column: Annotated[
        str | None, typer.Option(help="Column that matches items across organisations.")
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="minilm, smollm2, a directory or a hub id.")
    ] = None,
    warm_start: Annotated[
        str | None, typer.Option(help="Directory made by tacit pretrain.")
    ] = None,
    socket: Annotated[
        str | None, typer.Option(help="Unix socket of the agent; default agent.sock in NODE.")
    ] = None,
    socket_group: Annotated[
        str | None, typer.Option(help="Group of the SuperNode's user, which may connect.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Set any option of agent.toml."),
    ] = None,
) -> None:
    """Make an organisation: policy, settings, keys, ledger, and its data read in."""
    from client.approval import public_key
    from client.outlook import outlook
    from client.own_data import far_off
    from client.policy_cli import secure_rules
    from client.setup import default_policy, make_organisation, notices, refuse_taken, wishes
    from shared.assets import resolve_base

    refuse_taken(org)
    secure = aggregation == "secure"
    if organisations is not None and not secure:
        raise ConfigError("--organisations is of --aggregation secure: give that too")
    rules = secure_rules(organisations, (), colluders, dropouts) if secure else {}
    named = {
        "data.source": data or _asked("--data", "Data: a folder, a file or an address"),
        "data.interactions": interactions,
        "data.items": items,
        "data.user_column": user_column,
        "data.item_column": item_column,
        "data.time_column": time_column,
        "data.rating_column": rating_column,
        "data.title_column": title_column,
        "data.key_column": key_column,
        "base.name": base,
        "base.warm_start": warm_start,
        "agent.socket": socket,
        "agent.socket_group": socket_group,
    }
    wished = wishes(
        org,
        node,
        name or _asked("--name", "Name of the organisation"),
        {key: value for key, value in named.items() if value is not None},
        set_ or [],
    )
    console = Console()
    # Before the data, which may take minutes to read.
    for notice in notices(wished.settings.data):
        _say(console, f"{notice}.")
    weights = resolve_base(wished.settings.base.name).weights_sha256

    def policy_of(found: "Findings") -> "Policy":
        _print_found(console, wished, found)
        declared = users or _asked_size(found.users)
        _warn(console, far_off(declared, found.users))
        return default_policy(wished.name, declared, epsilon, delta, weights, rules)

    if users is not None:
        default_policy(wished.name, users, epsilon, delta, weights, rules)
    policy = make_organisation(wished, policy_of, lambda told: _say(console, f"{told} ..."))
    _print_outlook(console, policy, outlook(policy))
    _print_next(console, wished, public_key(org), secure)


def _asked(option: str, question: str) -> str:
    _need_terminal(option)
    return str(typer.prompt(question))


def _asked_size(users: int) -> int:
    _need_terminal("--users")
    # The exact number stays here: what is declared is public.
    digits = 10 ** max(0, len(str(users)) - 2)
    rounded = max(1, round(users / digits) * digits)
    return int(typer.prompt("Size to declare; it is public", default=rounded, type=int))


def _need_terminal(option: str) -> None:
    if not sys.stdin.isatty():
        raise ConfigError(f"tacit client init: give {option}; there is no terminal to ask at")


def _print_found(console: Console, wished: "Wishes", found: "Findings") -> None:
    _say(
        console,
        f"Found in {wished.settings.data.source}: {plural(found.users, 'user')}, "
        f"{plural(found.items, 'item')}, {plural(found.interactions, 'interaction')} from "
        f"{found.first_day} to {found.last_day}. These figures stay here.",
    )
    if found.short_users:
        _say(
            console,
            f"Left out: {plural(found.short_users, 'user')} with fewer than "
            f"{wished.settings.data.min_history} interactions.",
        )
    if found.unknown_interactions:
        _say(
            console,
            f"Left out: {plural(found.unknown_interactions, 'interaction')} with items that are "
            "not among the items.",
        )


def _warn(console: Console, sentence: str) -> None:
    if sentence:
        console.print(Text.assemble(("Warning: ", "yellow"), sentence), soft_wrap=True)


def _print_outlook(console: Console, policy: "Policy", shares: "Sequence[Share]") -> None:
    budget = policy.budget
    assert budget.epsilon is not None
    _say(
        console,
        f"What epsilon {budget.epsilon:g} at delta {delta_text(budget.delta)} buys, for ever, in "
        "runs of the default plan:",
    )
    table = Table()
    table.add_column("Runs", justify="right")
    table.add_column("epsilon of each", justify="right")
    for share in shares:
        table.add_row(str(share.runs), thousandths_text(share.epsilon))
    console.print(table)
    _say(console, "Every run on these users adds up; more runs are noisier runs.")


def _print_next(console: Console, wished: "Wishes", key: str, secure: bool) -> None:
    org, node, chosen = wished.directory, wished.node, wished.settings.agent
    apart = "" if node == node_directory(org) else f" --node {node}"
    socket = f" --socket {chosen.socket}" if chosen.socket else ""
    _say(console, f"Its ledger's public key, by which others know it: {key}")
    _say(console, f"Made {org} and {node}. Read {org / 'policy.toml'}, then:")
    steps = [
        f"send {node / 'key.pub'} to the federation; it answers with its key and its ca.crt",
        f"put the ca.crt at {node / 'ca.crt'}",
        f"tacit client approve {org} --federation KEY",
        f"tacit client check {org} --superlink HOST:PORT{apart}",
        f"tacit client agent {org}",
        f"tacit client node {node} --superlink HOST:PORT{socket}",
    ]
    if secure:
        steps[3:3] = [
            f"tell each other organisation, by another way than the server: --member {key}",
            f"tacit client approve {org} --member KEY, for the key that each of them tells you",
        ]
    if chosen.socket_group:
        user = f"the SuperNode's user, who is in group {chosen.socket_group}"
        steps.insert(2, f"chown -R that folder to {user}: {node}")
    for step in steps:
        _say(console, f"  {step}")


def _say(console: Console, sentence: str) -> None:
    console.print(Text(sentence), soft_wrap=True)
