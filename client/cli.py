"""``tacit client``: what the operator of an organisation types."""

import dataclasses
import json
import sys
import threading
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from client.init_cli import NodeOption, init_command
from client.outcomes import Outcome
from client.recommend import options
from client.settings import node_directory
from shared.errors import ConfigError, RunError

# torch and DuckDB take seconds to import: only commands that need them do, inside.
client_app = typer.Typer(no_args_is_help=True, help="An organisation's side.")
client_app.command("init")(init_command)

Organisation = Annotated[Path, typer.Argument(metavar="ORG", help="The organisation's folder.")]
PAUSE_S, HELD_S = 5.0, 180.0
STYLES = {"ok": "green", "warning": "yellow", "failed": "red", "skipped": "dim"}


@client_app.command()
def check(
    org: Organisation,
    superlink: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="The federation's SuperLink.")
    ] = None,
    root_certificates: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The federation's ca.crt.")
    ] = None,
    node: NodeOption = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Neither load the model nor ask a remote data source.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check everything that could go wrong before joining; exit status 1 if something would."""
    from client.readiness import outcomes, scene

    seen = scene(org, node or node_directory(org.resolve()), superlink, root_certificates, quick)
    found = []
    for outcome in outcomes(seen):
        found.append(outcome)
        if not as_json:
            _print_outcome(outcome)
    if as_json:
        sys.stdout.write(json.dumps([dataclasses.asdict(one) for one in found], indent=2) + "\n")
    if any(outcome.state == "failed" for outcome in found):
        raise typer.Exit(1)


@client_app.command()
def approve(
    org: Organisation,
    federation: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Public key of its server, 64 hexadecimal digits."),
    ] = None,
    plan: Annotated[
        list[str] | None,
        typer.Option(metavar="PREFIX", help="Allow only plans whose hash begins so."),
    ] = None,
    member: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY",
            help="Public key of another organisation that counts in a secure sum; repeat it. The "
            "own one is added by itself.",
        ),
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take away instead.")] = False,
) -> None:
    """Let a federation ask, or others count in a secure sum, on record; without, all is refused."""
    from client.approval import approve as change

    if federation is None and not plan and not member:
        raise ConfigError("approve: give --federation KEY, --plan PREFIX or --member KEY")
    changes = change(org, [federation] if federation else [], plan or [], remove, member or [])
    _say(f"On record, and in force from here: {changes or 'nothing has changed'}.")


@client_app.command()
def agent(org: Organisation) -> None:
    """Run the organisation's agent until it is told to end."""
    from client.service import serve

    _log_to_stderr()
    serve(org)


@client_app.command()
def node(
    folder: Annotated[Path, typer.Argument(metavar="NODE", help="The SuperNode's folder.")],
    superlink: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="The federation's SuperLink.")
    ],
    root_certificates: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The federation's certificates; default NODE/ca.crt."),
    ] = None,
    socket: Annotated[
        Path | None, typer.Option(help="The agent's socket; default agent.sock in NODE.")
    ] = None,
) -> None:
    """Run Flower's SuperNode, which carries messages between the federation and the agent."""
    from client.link import Link, first_look
    from client.node import free_port, node_environment, run_until_ended, supernode_command, typed
    from client.supernode import GAVE_UP

    folder = folder.resolve()
    link = Link(superlink, (root_certificates or folder / "ca.crt").absolute())
    path = (socket or folder / "agent.sock").absolute()
    command = supernode_command(folder, link, path, free_port())
    for outcome in first_look(link, folder):
        _print_outcome(outcome, error=True)
    if not path.exists():
        _say(f"No agent listens at {path} yet; it may be started later.", error=True)
    environment = node_environment(folder)
    _say(typed(command, environment), error=True)
    held_until = 0.0
    while status := run_until_ended(command, environment):
        if status == GAVE_UP:
            held_until = time.monotonic() + HELD_S
        elif time.monotonic() > held_until:
            break
        _say(
            "Flower's SuperNode gave up its link, as it does when the SuperLink ends in the middle "
            "of a handshake. It is started again until the SuperLink, which counts it as online "
            "for a minute, lets it in.",
            error=True,
        )
        time.sleep(PAUSE_S)
    if status:
        raise RunError(
            f"Flower's SuperNode ended with status {status}; what it says of it stands above. "
            "After one was killed, the SuperLink counts it as online for a minute and lets no "
            "second one in: start it again then"
        )


@client_app.command()
def refresh(
    org: Organisation,
    whole: Annotated[
        bool, typer.Option("--whole", help="Read everything anew, not only what is new.")
    ] = False,
) -> None:
    """Read what is new in the data source; a running agent uses it from the next run on."""
    from client.own_data import refreshed

    for sentence in refreshed(org, whole, lambda told: _say(f"{told} ...", error=True)):
        _say(sentence)


@client_app.command()
def recommend(
    org: Organisation,
    user: options.User,
    k: options.Length = 10,
    need: options.Need = None,
    interest: options.Interest = None,
    mode: options.ModeOption = "hybrid",
    filters: options.FilterOption = None,
    diversity: options.Diversity = 0.0,
    popularity_damping: options.Damping = 0.0,
    seen: options.Seen = False,
    reasons: options.Reasons = False,
) -> None:
    """Recommend items to one user, with what the federation has delivered."""
    from client.recommend.listing import print_recommendations
    from client.recommend.opening import open_delivered

    query = options.query_of(k, need, interest, mode, filters, diversity, popularity_damping, seen)
    print_recommendations(Console(), open_delivered(org), user, query, reasons)


@client_app.command()
def serve(
    org: Organisation,
    host: Annotated[
        str, typer.Option(help="Where to listen; beyond this machine an API key is needed.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8088,
    key_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="With the API key; default: the variable TACIT_API_KEY."),
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Certificate for TLS, PEM.")
    ] = None,
    private_key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its private key, PEM.")
    ] = None,
    writer: options.Writer = "",
) -> None:
    """Serve recommendations over HTTP, and a page, until told to end."""
    from client.serving.command import serve as run

    _log_to_stderr()
    run(org, host, port, key_file, certificate, private_key, writer)


@client_app.command()
def describe(
    org: Organisation,
    user: options.User,
    k: Annotated[int, typer.Option("-k", min=0, max=100, help="Recommendations told of.")] = 3,
    need: options.Need = None,
    writer: options.Writer = "",
) -> None:
    """Say in words what a user's history is about and why items are recommended."""
    from client.recommend.listing import say_what_counts
    from client.recommend.opening import open_delivered
    from client.serving.command import loader
    from client.serving.language import Language
    from client.serving.metrics import Metrics
    from client.serving.words import Speaker

    recommender, load = open_delivered(org), loader(writer, org)
    speaker = Speaker(None if load is None else Language(load), Metrics())
    for name, told in speaker.told(recommender, user, k, need, threading.Event()):
        if name != "done":
            _say("".join((f"{told['title']}: " if "title" in told else "", str(told["text"]))))
        elif told["model"]:
            _say(
                f"{told['written']} texts; the model's own {told['written'] - told['fallbacks']} "
                f"({told['retried']} at the second try), templates {told['fallbacks']}.",
                error=True,
            )
    say_what_counts(Console(stderr=True), recommender)


@client_app.command()
def recommend_all(
    org: Organisation,
    out: options.Out,
    k: options.Length = 10,
    mode: options.ModeOption = "hybrid",
    filters: options.FilterOption = None,
    diversity: options.Diversity = 0.0,
    popularity_damping: options.Damping = 0.0,
    seen: options.Seen = False,
) -> None:
    """Write every user's list to one Parquet file."""
    from rich.progress import Progress

    from client.recommend.batch import recommend_all
    from client.recommend.listing import say_what_counts
    from client.recommend.opening import open_delivered

    query = options.query_of(k, None, None, mode, filters, diversity, popularity_damping, seen)
    recommender = open_delivered(org)
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("Users", total=len(recommender.histories))
        lines = recommend_all(
            recommender, query, out, lambda done, _: progress.update(task, completed=done)
        )
    _say(f"{lines:,} lines for {len(recommender.histories):,} users are in {out}.")
    say_what_counts(Console(stderr=True), recommender)


def _print_outcome(outcome: Outcome, error: bool = False) -> None:
    line = Text.assemble(
        (f"{outcome.state:<8}", STYLES[outcome.state]),
        (f"{outcome.name}: ", "bold"),
        outcome.sentence,
    )
    if outcome.cure:
        line.append(f"\n{'':8}-> {outcome.cure}")
    Console(stderr=error).print(line, soft_wrap=True)


def _say(sentence: str, error: bool = False) -> None:
    Console(stderr=error).print(Text(sentence), soft_wrap=True)


def _log_to_stderr() -> None:
    import logging

    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S%z",
        # A library may have set its own before.
        force=True,
    )
