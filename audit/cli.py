"""``tacit audit verify``, ``export``, ``egress`` and ``tacit server privacy``; without torch."""

import re
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from audit.tables import print_egress, print_members, print_verification, say
from shared.errors import ConfigError
from shared.files import write_json

audit_app = typer.Typer(
    no_args_is_help=True, help="Check what an organisation released, without trusting it."
)

FAULTY = 1

Found = Annotated[
    Path, typer.Argument(help="An organisation's folder, its ledger.sqlite or a bundle.")
]
JsonFile = Annotated[
    Path | None, typer.Option("--json", help="Write what was found here, for machines.")
]


@audit_app.command()
def verify(
    ledger: Found,
    server_heads: Annotated[
        Path | None,
        typer.Option(help="The server's heads.jsonl: what it has seen of the ledger."),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(help="The organisation's public key, or a file with it; not taken from it."),
    ] = None,
    server_key: Annotated[
        str | None, typer.Option(help="The server's public key, or a file with it.")
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Verify a ledger: exit status 0 if it is sound, 1 if not, 2 if it cannot be read."""
    from audit.bundle import read_evidence
    from audit.heads import read_heads
    from audit.verify import verify_ledger

    given = None if key is None else public_key(key, "--key")
    server = None if server_key is None else public_key(server_key, "--server-key")
    heads = None if server_heads is None else read_heads(server_heads)
    found = verify_ledger(read_evidence(ledger), given, server, heads)
    console = Console(highlight=False)
    print_verification(console, found, given is not None, server is not None)
    if json_file is not None:
        write_json(json_file, found.as_json())
    if found.faults:
        raise typer.Exit(FAULTY)


@audit_app.command()
def export(
    ledger: Found,
    out: Annotated[Path, typer.Option(help="Bundle to write; it must not exist yet.")],
) -> None:
    """Write a bundle that an outsider can verify with the public key alone.

    A damaged ledger is exported as it is, with exit status 1: its bundle shows the same faults.
    """
    from audit.bundle import opening_key, read_evidence, write_bundle
    from shared.chain import chain_faults

    evidence = read_evidence(ledger)
    write_bundle(evidence, out)
    console = Console(highlight=False)
    say(
        console,
        f"{out}: {len(evidence.stored)} records. Whoever gets it needs the public key by another "
        "way, to run: tacit audit verify BUNDLE --key "
        f"{opening_key(evidence.stored[0]) or 'KEY'}",
        "",
    )
    if evidence.faults or chain_faults(evidence.stored):
        say(console, "The ledger is damaged; tacit audit verify lists every fault.", "bold red")
        raise typer.Exit(FAULTY)


@audit_app.command()
def egress(
    ledger: Found,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Write the list here.")] = None,
) -> None:
    """List everything that ever left, with its mechanism and bytes, and what was refused."""
    from audit.bundle import read_evidence
    from audit.egress import write_csv
    from shared.chain import chain_faults
    from shared.departures import list_egress

    evidence = read_evidence(ledger)
    found = list_egress(evidence.stored)
    console = Console(highlight=False)
    print_egress(console, found)
    if csv_file is not None:
        write_csv(found, csv_file)
    if evidence.faults or found.unread or chain_faults(evidence.stored):
        say(
            console,
            "The ledger is damaged and this list may be wrong; tacit audit verify says where.",
            "bold red",
        )
        raise typer.Exit(FAULTY)


def server_privacy(
    heads: Annotated[
        Path, typer.Argument(help="A server's heads.jsonl, or the run folder of a simulation.")
    ],
    bundle: Annotated[
        list[Path] | None,
        typer.Option(help="Bundle, ledger or folder of an organisation; may be given often."),
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """What the server has seen of every ledger, and with bundles what each has spent."""
    from audit.bundle import read_evidence
    from audit.heads import members, read_heads
    from audit.verify import verify_ledger

    seen = read_heads(heads)
    paths = bundle or []
    if not paths and heads.is_dir():
        paths = sorted(path.parent for path in heads.glob("organisations/*/ledger.sqlite"))
    checked = [verify_ledger(read_evidence(path), heads=seen) for path in paths]
    found = members(seen, checked)
    print_members(Console(highlight=False), seen, found, checked)
    faulty = bool(
        seen.faults or any(m.faults for m in found) or any(ledger.faults for ledger in checked)
    )
    if json_file is not None:
        write_json(
            json_file,
            {
                "sound": not faulty,
                "seen": [member.as_json() for member in found],
                "checked": [ledger.as_json() for ledger in checked],
                "faults": [fault.sentence for fault in seen.faults],
            },
        )
    if faulty:
        raise typer.Exit(FAULTY)


def public_key(text: str, option: str) -> str:
    """A public key from its 64 hexadecimal digits, or from a file that holds them.

    Raises:
        ConfigError: if it is neither.
    """
    found = text
    path = Path(text)
    if not re.fullmatch("[0-9a-fA-F]{64}", text) and path.is_file():
        found = path.read_bytes()[:1000].decode(errors="replace").strip()
    if not re.fullmatch("[0-9a-fA-F]{64}", found):
        raise ConfigError(
            f"{option} {text[:100]}: expected the 64 hexadecimal digits of a public key, or a file "
            "that holds them"
        )
    return found.lower()
