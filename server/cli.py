"""``tacit server certs``, ``start``, ``register``, ``members``, ``run``, ``status`` and others."""

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from shared.errors import ConfigError, RunError

# Certificates, Flower's client and the like are imported by the commands that need them, so that
# `tacit --help` stays quick.
FolderArgument = Annotated[Path, typer.Argument(metavar="FED", help="The federation's folder.")]
KeyFiles = Annotated[
    list[Path], typer.Argument(metavar="KEY.pub...", help="Public keys of SuperNodes.")
]


def register_commands(app: typer.Typer) -> None:
    """Hang the commands under ``tacit server``."""
    for command in (certs, start, register, unregister, members, run, status):
        app.command()(command)


def certs(
    fed: FolderArgument,
    host: Annotated[
        list[str] | None,
        typer.Option(help="Name or address by which organisations reach the SuperLink; repeat it."),
    ] = None,
    days: Annotated[int, typer.Option(min=1, help="Days that the certificate is valid.")] = 365,
    renew: Annotated[
        bool, typer.Option("--renew", help="A new certificate under the same authority.")
    ] = False,
) -> None:
    """Make the federation's folder: certificates, signing key, Flower's configuration."""
    from server.ops.certs import make_authority, make_server_certificate, read_certificate
    from server.ops.folder import (
        DEFAULT_PORT,
        PRIVATE_FOLDER,
        Folder,
        federation_folder,
        join_address,
        write_connection,
    )

    if renew:
        folder = federation_folder(fed)
        hosts = tuple(host or read_certificate(folder.tls / "server.crt").hosts)
        made = make_server_certificate(folder, hosts, days)
        _say(f"{made.path}: for {', '.join(made.hosts)}, until {made.ends:%Y-%m-%d}.")
        _say(f"Organisations need nothing new. Restart: tacit server start {fed}")
        return
    if not host:
        raise ConfigError(
            "--host is missing: by which name or address do organisations reach this machine? For "
            f"example: tacit server certs {fed} --host federation.example.org"
        )
    from server.heads import HeadBook

    folder = Folder(fed.expanduser().resolve())
    folder.root.mkdir(parents=True, exist_ok=True, mode=PRIVATE_FOLDER)
    make_authority(folder, tuple(host))
    made = make_server_certificate(folder, tuple(host), days)
    key = HeadBook(folder.server).key.public
    write_connection(folder, join_address("127.0.0.1", DEFAULT_PORT))
    authority = read_certificate(folder.ca_certificate)
    address = join_address(host[0], DEFAULT_PORT)
    _say(f"CA certificate   {authority.path}, until {authority.ends:%Y-%m-%d}")
    _say(f"Certificate      for {', '.join(made.hosts)}, until {made.ends:%Y-%m-%d}")
    _say(f"Federation key   {key}")
    _say(
        "\nKeep the folder to yourself, and a copy of it in a safe place. Next, here:\n"
        f"  tacit server start {fed}\n"
        f"  tacit server register {fed} KEY.pub      for the public key of each organisation\n"
        "and at each organisation, which gets ca.crt and, by a way it trusts, the key:\n"
        f"  tacit client approve ORG --federation {key}\n"
        f"  tacit client node NODE --superlink {address} --root-certificates ca.crt"
    )


def start(
    fed: FolderArgument,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the SuperLink.")] = 9092,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 is all of them.")
    ] = "0.0.0.0",
) -> None:
    """Run the SuperLink until Ctrl-C or SIGTERM; nothing that it started stays behind."""
    from server.ops.folder import federation_folder
    from server.ops.superlink import start as run_superlink

    folder = federation_folder(fed)
    raise typer.Exit(run_superlink(folder, host, port, _say, _warn))


def register(
    fed: FolderArgument,
    keys: KeyFiles,
    name: Annotated[
        str | None, typer.Option(help="Name of the node; default: the key's comment.")
    ] = None,
) -> None:
    """Let SuperNodes join, by their public keys."""
    from server.ops.folder import federation_folder
    from server.ops.nodes import read_public_key
    from server.ops.nodes import register as register_node

    if name is not None and len(keys) > 1:
        raise ConfigError("--name: names one node; register the keys one by one")
    folder = federation_folder(fed)
    # All are read before the first is registered: a wrong one changes nothing.
    for key in keys:
        read_public_key(key)
    for key in keys:
        register_node(folder, key, name, _say)


def unregister(fed: FolderArgument, keys: KeyFiles) -> None:
    """Keep SuperNodes out for ever, by their public keys: Flower takes none a second time."""
    from server.ops.folder import federation_folder
    from server.ops.nodes import unregister as unregister_node

    folder = federation_folder(fed)
    for key in keys:
        unregister_node(folder, key, _say)


def members(fed: FolderArgument) -> None:
    """Print name and ledger's public key of each organisation that has answered.

    Organisations compare them with those that they told each other by another way: a server that is
    believed here could invent organisations.
    """
    from server.ops.folder import federation_folder
    from server.ops.members import members as met

    found = met(federation_folder(fed))
    for member in found:
        _say(f"{member.name}\t{member.key}")
    if not found:
        _warn("no organisation has answered yet; the first run asks them who they are")


def run(
    fed: FolderArgument,
    config_file: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="TOML file with options.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Set any option."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the run; default: the time.")] = None,
    orgs: Annotated[
        int | None, typer.Option(min=1, help="Organisations that must be online.")
    ] = None,
    aggregation: Annotated[
        str | None, typer.Option(help="secure or plain: what the server gets.")
    ] = None,
    resume: Annotated[
        str | None, typer.Option(metavar="NAME", help="Go on with a run that was cut off.")
    ] = None,
    wait: Annotated[
        float, typer.Option(min=0.0, help="Seconds to wait for organisations to be online.")
    ] = 60.0,
    detach: Annotated[bool, typer.Option("--detach", help="Submit and do not follow.")] = False,
) -> None:
    """Submit a run and follow it: exit status 0 when it finished, 1 when it failed."""
    from server.ops.folder import federation_folder
    from server.ops.follow import follow
    from server.ops.submit import resume as go_on
    from server.ops.submit import submit
    from server.ops.tail import Tail
    from shared.config import load_config

    folder = federation_folder(fed)
    if resume is not None:
        if config_file or set_ or orgs or aggregation or name:
            raise RunError("--resume takes the run's own configuration; give no other option")
        chosen = resume
        tail = Tail(folder.run(chosen), from_end=True)
        number = go_on(folder, chosen, wait, _say)
    else:
        named = {"partition.organisations": orgs, "aggregation.mode": aggregation}
        config = load_config(
            config_file, set_ or [], {k: v for k, v in named.items() if v is not None}
        )
        chosen = name or datetime.now().strftime("%Y%m%d-%H%M%S")
        tail = Tail(folder.run(chosen))
        number = submit(folder, config, chosen, wait, _say)
    if detach:
        return
    status = follow(folder, tail, number, _say)
    if status == 0:
        _say(f"Run {chosen} finished; what came of it is in {folder.run(chosen)}")
    raise typer.Exit(status)


def status(
    fed: FolderArgument,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")] = False,
) -> None:
    """Show SuperLink, nodes and runs; exit status 1 while the SuperLink is down."""
    from server.ops.folder import federation_folder
    from server.ops.status import print_status, status_of

    found = status_of(federation_folder(fed))
    if as_json:
        sys.stdout.write(json.dumps(found.as_json(), indent=2) + "\n")
    else:
        print_status(Console(highlight=False), found, str(fed))
    if not found.up:
        raise typer.Exit(1)


def _say(line: str) -> None:
    # Without the flush a service's log would lag behind.
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _warn(line: str) -> None:
    Console(stderr=True).print(Text.assemble(("Warning: ", "yellow"), line), soft_wrap=True)
