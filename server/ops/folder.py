"""The federation's folder: where its files are, and the environment of Flower's own commands."""

import os
import re
import sysconfig
import tomllib
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import tomlkit

from shared.errors import RunError
from shared.files import atomic_path

# The name of the connection in Flower's configuration, as in `flwr list tacit`.
CONNECTION = "tacit"
DEFAULT_PORT = 9092
PRIVATE_FOLDER = 0o700

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Folder:
    """Paths inside a federation's folder.

    Attributes:
        root: absolute; belongs to the user that runs the SuperLink.
    """

    root: Path

    @property
    def tls(self) -> Path:
        """Certificates and their keys."""
        return self.root / "tls"

    @property
    def ca_certificate(self) -> Path:
        """What every organisation needs to know the server."""
        return self.tls / "ca.crt"

    @property
    def server(self) -> Path:
        """The federation's signing key and its memory of ledgers."""
        return self.root / "server"

    @property
    def superlink(self) -> Path:
        """State and logs of Flower's SuperLink."""
        return self.root / "superlink"

    @property
    def log(self) -> Path:
        """What SuperLink and ServerApps print; rotated."""
        return self.superlink / "superlink.log"

    @property
    def flower(self) -> Path:
        """Flower's home: its configuration and the apps that it unpacks."""
        return self.root / "flwr"

    def run(self, name: str) -> Path:
        """Folder of a run.

        Raises:
            RunError: if the name could not be that of a folder.
        """
        if not _NAME.fullmatch(name):
            raise RunError(
                f"{name!r} cannot name a run: use up to 64 letters, digits, dots, dashes and "
                "underscores, beginning with a letter or a digit"
            )
        return self.root / "runs" / name

    def runs(self) -> list[Path]:
        """Folders of all runs, in order of name."""
        return sorted(path.parent for path in self.root.glob("runs/*/config.toml"))


def federation_folder(path: Path) -> Folder:
    """The folder that ``tacit server certs`` made.

    Raises:
        RunError: if it did not.
    """
    folder = Folder(path.expanduser().resolve())
    if not folder.ca_certificate.exists():
        raise RunError(
            f"{path}: is no federation's folder (it holds no tls/ca.crt); make one with: tacit "
            f"server certs {path} --host NAME_OR_ADDRESS"
        )
    return folder


def join_address(host: str, port: int) -> str:
    """``host:port``, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_address(address: str) -> tuple[str, int]:
    """Host and port of ``host:port``.

    Raises:
        RunError: if it is not of that form.
    """
    try:
        parts = urlsplit(f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise RunError(f"{address!r} is no address: {error}; write HOST:PORT") from error
    if not host or port is None:
        raise RunError(f"{address!r} is no address: write HOST:PORT")
    return host, port


def write_connection(folder: Folder, address: str) -> None:
    """Write Flower's configuration, so that its own commands find this SuperLink."""
    connection = tomlkit.table()
    connection["address"] = address
    connection["root-certificates"] = str(folder.ca_certificate)
    document = tomlkit.document()
    document["superlink"] = {"default": CONNECTION, CONNECTION: connection}
    with atomic_path(folder.flower / "config.toml") as temporary:
        temporary.write_text(tomlkit.dumps(document))


def read_address(folder: Folder) -> str:
    """Address of the federation's SuperLink.

    Raises:
        RunError: if Flower's configuration does not tell.
    """
    path = folder.flower / "config.toml"
    try:
        return str(tomllib.loads(path.read_text())["superlink"][CONNECTION]["address"])
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise RunError(
            f"{path}: does not give the SuperLink's address under [superlink.{CONNECTION}] "
            f"({error!r}); tacit server start writes it anew"
        ) from error


def flower_environment(folder: Folder) -> dict[str, str]:
    """What Flower's commands need beyond the environment of this process."""
    return {
        "FLWR_HOME": str(folder.flower),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
    }


def full_environment(folder: Folder) -> dict[str, str]:
    """The environment of a process that runs Flower's commands, and starts others of them."""
    # Flower finds its own programs by name; tacit may be run from a place that is not in PATH.
    path = os.pathsep.join((sysconfig.get_path("scripts"), os.environ.get("PATH", "")))
    return os.environ | flower_environment(folder) | {"PATH": path}
