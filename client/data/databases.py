"""Databases as sources: opened read-only, their rows streamed as Arrow record batches."""

import importlib
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import adbc_driver_manager
import pyarrow

from client.data.address import Address
from client.data.formats import Database, Source, SourceQuery
from shared.config import DataSection
from shared.errors import ConfigError, DataError

# A host that is gone must not hold an import for the two hours of the kernel's own limits.
_POSTGRESQL_LIMITS = {
    "connect_timeout": "10",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
}
_SQLITE_ROWS = 65_536
_CONNECTORX_ROWS = 65_536


@contextmanager
def open_database(address: Address, options: DataSection) -> Iterator[Source]:
    """The interactions and items of a database, for as long as the block lasts.

    Each is what ``options.interactions_query`` and ``options.items_query`` select, or else the
    table of that name. PostgreSQL and SQLite show both in one state, whatever others write
    meanwhile, and let nothing be written.

    Raises:
        ConfigError: if the package for this database is missing, or an option is for files only.
        DataError: if the database cannot be reached. No sentence holds a password.
    """
    for name in ("interactions", "items"):
        if getattr(options, name):
            raise ConfigError(
                f"data.{name} is {getattr(options, name)!r}, but {address} is a database; leave "
                f"it out, or give a query as data.{name}_query"
            )
    database = _OPENERS[address.scheme](address)
    try:
        interactions, items = (
            _query(database, address, name, getattr(options, f"{name}_query"))
            for name in ("interactions", "items")
        )
        name = address.shown.rstrip("/").rpartition("/")[2] or address.scheme
        yield Source(name, interactions, items)
    finally:
        database.close()


def _query(database: Database, address: Address, name: str, sql: str) -> SourceQuery:
    if sql.strip():
        label = f"data.{name}_query"
        # The line break ends a comment: drivers put the query in brackets.
        query = sql.strip().rstrip("; \n") + "\n"
        return SourceQuery(database, query, label, f"{address}, {label}")
    return SourceQuery(
        database, f"SELECT * FROM {name}", f"table {name}", f"{address}, table {name}"
    )


class _Adbc:
    """A connection through an ADBC driver."""

    def __init__(
        self,
        address: Address,
        connection: Any,
        first: tuple[str, ...] = (),
        options: dict[str, str] | None = None,
    ):
        self.scheme = address.scheme
        self._address = address
        self._connection = connection
        self._options = options
        for sql in first:
            with connection.cursor() as cursor:
                cursor.execute(sql)
        self._cursors: list[Any] = []

    def read(self, sql: str) -> pyarrow.RecordBatchReader:
        cursor = self._connection.cursor(adbc_stmt_kwargs=self._options)
        self._cursors.append(cursor)
        try:
            cursor.execute(sql)
            return cursor.fetch_record_batch()
        except (adbc_driver_manager.Error, pyarrow.ArrowException, OSError) as error:
            raise _refused(self._address, error, sql) from None

    def lost(self, error: BaseException) -> str:
        return self._address.redacted(error)

    def close(self) -> None:
        for closing in (*self._cursors, self._connection):
            try:
                closing.close()
            except adbc_driver_manager.Error:
                # A lost connection has nothing left to give back; what lost it is reported.
                continue


class _ConnectorX:
    """A database that has no ADBC driver; every read is a connection of its own."""

    def __init__(self, address: Address, connectorx: Any, url: str):
        self.scheme = address.scheme
        self._address = address
        self._connectorx = connectorx
        self._url = url

    def read(self, sql: str) -> pyarrow.RecordBatchReader:
        try:
            return self._connectorx.read_sql(
                self._url, sql, return_type="arrow_stream", batch_size=_CONNECTORX_ROWS
            )
        except (RuntimeError, ValueError, OSError) as error:
            raise DataError(
                f"{self._address}: cannot be read ({self._address.redacted(error, sql)}); check "
                "host, port, name, user, password and the query"
            ) from None

    def lost(self, error: BaseException) -> str:
        return self._address.redacted(error)

    def close(self) -> None:
        """Nothing is held between reads."""


def _refused(address: Address, error: BaseException, sql: str) -> DataError:
    reason = address.redacted(error, sql)
    return DataError(
        f"{address}: the database refused the query ({reason}); expected tables interactions and "
        "items, or name others with data.interactions_query and data.items_query"
    )


def _driver(address: Address, package: str, module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        raise ConfigError(
            f"{address}: reading {address.scheme}:// needs the package {package}, which is not "
            f"installed; install it with: pip install {package}"
        ) from None


def _connect(address: Address, package: str, *arguments: Any, **options: Any) -> Any:
    driver = _driver(address, package, f"{package.replace('-', '_')}.dbapi")
    try:
        with warnings.catch_warnings():
            # Drivers without transactions say so; each statement then sees its own state.
            warnings.simplefilter("ignore")
            return driver.connect(*arguments, **options)
    except (adbc_driver_manager.Error, OSError) as error:
        raise DataError(
            f"{address}: no connection to the database ({address.redacted(error)}); check host, "
            "port, name, user and password"
        ) from None


def _postgresql(address: Address) -> _Adbc:
    given = dict(parse_qsl(urlsplit(address.url).query))
    limits = "&".join(f"{k}={v}" for k, v in _POSTGRESQL_LIMITS.items() if k not in given)
    url = address.url + ("&" if urlsplit(address.url).query else "?") + limits
    connection = _connect(address, "adbc-driver-postgresql", url)
    first = (
        "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY",
        # Otherwise a scan may begin in the middle of a table, and rows of one time change places.
        "SET LOCAL synchronize_seqscans = off",
    )
    return _Adbc(address, connection, first)


def _sqlite(address: Address) -> _Adbc:
    parts = urlsplit(address.url)
    path = Path(unquote(parts.path.removeprefix("/"))).expanduser()
    if parts.netloc or not path.is_file():
        raise DataError(
            f"{address}: no file {path}; expected sqlite:///RELATIVE/PATH or sqlite:////ABSOLUTE/"
            "PATH of a SQLite database"
        )
    uri = path.resolve().as_uri() + "?mode=ro"
    connection = _connect(address, "adbc-driver-sqlite", uri)
    return _Adbc(address, connection, options={"adbc.sqlite.query.batch_rows": str(_SQLITE_ROWS)})


def _snowflake(address: Address) -> _Adbc:
    url = address.url.partition("://")[2]
    return _Adbc(address, _connect(address, "adbc-driver-snowflake", url, autocommit=True))


def _bigquery(address: Address) -> _Adbc:
    parts = urlsplit(address.url)
    options = {
        "adbc.bigquery.sql.project_id": parts.netloc,
        "adbc.bigquery.sql.dataset_id": parts.path.strip("/"),
        "adbc.bigquery.sql.auth_type": "adbc.bigquery.sql.auth_type.auth_bigquery",
    }
    return _Adbc(
        address, _connect(address, "adbc-driver-bigquery", db_kwargs=options, autocommit=True)
    )


def _spark(address: Address) -> _Adbc:
    return _Adbc(address, _connect(address, "adbc-driver-spark", address.url, autocommit=True))


def _connectorx(address: Address) -> _ConnectorX:
    return _ConnectorX(address, _driver(address, "connectorx", "connectorx"), address.url)


_OPENERS: dict[str, Callable[[Address], Any]] = {
    "postgresql": _postgresql,
    "postgres": _postgresql,
    "sqlite": _sqlite,
    "snowflake": _snowflake,
    "bigquery": _bigquery,
    "sc": _spark,
    "mysql": _connectorx,
    "mssql": _connectorx,
}
SCHEMES = tuple(_OPENERS)
