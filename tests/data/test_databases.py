"""Databases as sources: a real PostgreSQL and a real SQLite, also where they misbehave."""

import sqlite3
import traceback
from collections.abc import Callable
from pathlib import Path

import connectorx
import pyarrow as pa
import pytest

from client.data import databases
from client.data.address import Address
from client.data.ingest import Dataset, load_dataset
from client.data.sources import opened
from client.data.sql import connect
from client.data.tables import load
from shared.config import DataSection
from shared.errors import ConfigError, DataError, TacitError
from tests.data.postgres import PASSWORD, VARIABLE, Postgres

Write = Callable[..., Path]

ROWS = [(user, item, 1_000_000_000 + 10 * t) for user in "uvw" for t, item in enumerate("bacd")]
ITEMS = [("a", "Anvil"), ("b", "Bell"), ("c", "Cup"), ("d", "Drum")]


def read(source: str, **options: object) -> Dataset:
    return load_dataset(DataSection.model_validate({"source": source, "min_history": 3} | options))


def fill(postgres: Postgres) -> None:
    users, items, times = (list(column) for column in zip(*ROWS, strict=True))
    postgres.fill("interactions", pa.table({"user_id": users, "item_id": items, "time": times}))
    names, titles = (list(column) for column in zip(*ITEMS, strict=True))
    postgres.fill("items", pa.table({"item_id": names, "title": titles}))


def sqlite_shop(path: Path) -> str:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE interactions (user_id TEXT, item_id TEXT, time INTEGER)")
        database.executemany("INSERT INTO interactions VALUES (?, ?, ?)", ROWS)
        database.execute("CREATE TABLE items (item_id TEXT, title TEXT)")
        database.executemany("INSERT INTO items VALUES (?, ?)", ITEMS)
    database.close()
    return f"sqlite:///{path}"


def as_csv(write: Write) -> str:
    rows = "".join(f"{user},{item},{time}\n" for user, item, time in ROWS)
    items = "".join(f"{item},{title}\n" for item, title in ITEMS)
    return str(
        write(
            {
                "interactions.csv": f"user_id,item_id,time\n{rows}",
                "items.csv": f"item_id,title\n{items}",
            }
        )
    )


def same(left: Dataset, right: Dataset) -> bool:
    return (
        left.catalogue == right.catalogue
        and left.histories.user_ids == right.histories.user_ids
        and left.histories.items.tolist() == right.histories.items.tolist()
        and left.histories.times.tolist() == right.histories.times.tolist()
    )


def test_postgresql_gives_the_same_data_as_csv(postgres: Postgres, write: Write) -> None:
    fill(postgres)
    dataset = read(postgres.source)
    assert same(dataset, read(as_csv(write)))
    assert dataset.name == "postgres"


def test_sqlite_gives_the_same_data_as_csv(tmp_path: Path, write: Write) -> None:
    assert same(read(sqlite_shop(tmp_path / "shop.db")), read(as_csv(write)))


def test_queries_of_the_operator_run_as_they_are(postgres: Postgres) -> None:
    fill(postgres)
    dataset = read(
        postgres.source,
        interactions_query="SELECT user_id AS who, item_id, time FROM interactions "
        "WHERE user_id <> 'w' AND user_id NOT LIKE '%''%' -- no staff\n;\n",
        items_query="SELECT item_id, upper(title) AS title FROM items;",
        user_column="who",
    )
    assert dataset.histories.user_ids == ("u", "v")
    assert dataset.catalogue.titles[0] == "ANVIL"


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("timestamptz", "'2024-05-31 20:00:00+02'"),
        ("timestamp", "'2024-05-31 18:00:00'"),
        ("bigint", "1717178400"),
        ("numeric", "1717178400.0"),
        ("double precision", "1717178400"),
        ("text", "'2024-05-31T18:00:00Z'"),
    ],
)
def test_postgresql_times_may_be_of_every_kind(postgres: Postgres, kind: str, value: str) -> None:
    fill(postgres)
    query = f"SELECT user_id, item_id, CAST({value} AS {kind}) AS time FROM interactions"
    assert set(read(postgres.source, interactions_query=query).histories.times) == {1717178400.0}


@pytest.mark.parametrize("kind", ["numeric", "bigint", "smallint"])
def test_postgresql_numbers_are_identifiers_in_order(postgres: Postgres, kind: str) -> None:
    fill(postgres)
    number = f"CAST(ascii(user_id) - 110 AS {kind})"
    query = f"SELECT {number} AS user_id, item_id, time FROM interactions"
    found = read(postgres.source, interactions_query=query)
    assert found.histories.user_ids == ("7", "8", "9")


def test_postgresql_uuids_are_identifiers(postgres: Postgres) -> None:
    fill(postgres)
    query = "SELECT md5(user_id)::uuid AS user_id, item_id, time FROM interactions"
    user = read(postgres.source, interactions_query=query).histories.user_ids[0]
    assert len(user) == 36


def test_columns_that_hold_neither_text_nor_numbers_are_left_out_and_said(
    postgres: Postgres,
) -> None:
    fill(postgres)
    query = "SELECT *, '\\x00'::bytea AS photo, '10.0.0.1'::inet AS address FROM items"
    dataset = read(postgres.source, items_query=query)
    assert dataset.catalogue.attributes == {}
    assert dataset.notices == (
        "data.items_query: left out photo, address, which hold neither text nor numbers",
    )


def test_same_times_keep_the_order_of_the_query(postgres: Postgres) -> None:
    fill(postgres)
    query = "SELECT user_id, item_id, 5 AS time FROM interactions ORDER BY item_id DESC"
    histories = read(postgres.source, interactions_query=query).histories
    assert histories.row(0).tolist() == [3, 2, 1, 0]


def test_many_batches_keep_the_order_of_the_rows(postgres: Postgres) -> None:
    rows = 200_000
    postgres.run(
        "CREATE TABLE items AS SELECT i AS item, 'T' || i AS title FROM generate_series(0, 9) i"
    )
    query = f"SELECT 1 AS user, i % 10 AS item, 5 AS time FROM generate_series(1, {rows}) i"
    histories = read(postgres.source, interactions_query=query).histories
    assert histories.items.tolist() == [i % 10 for i in range(1, rows + 1)]


@pytest.mark.parametrize(
    "name", ['x" FROM items; DROP TABLE items; --', "x'; DROP TABLE items; --"]
)
def test_column_names_are_names_and_not_sql(postgres: Postgres, name: str) -> None:
    fill(postgres)
    escaped = name.replace('"', '""')
    postgres.run(f'ALTER TABLE items ADD COLUMN "{escaped}" text DEFAULT $$v$$')
    assert read(postgres.source).catalogue.attributes == {name: ("v",) * 4}


def test_a_null_is_refused_with_its_row(postgres: Postgres) -> None:
    fill(postgres)
    postgres.run("INSERT INTO interactions VALUES (NULL, 'a', 5)")
    with pytest.raises(DataError, match=r"table interactions, row 13, column user_id: empty \(1 "):
        read(postgres.source)


def test_a_time_without_end_is_refused(postgres: Postgres) -> None:
    fill(postgres)
    query = "SELECT user_id, item_id, 'infinity'::timestamptz AS time FROM interactions"
    with pytest.raises(DataError, match=r"interactions_query, row 1, column time: found .* \(12 "):
        read(postgres.source, interactions_query=query)


def test_a_query_without_users_is_refused(postgres: Postgres) -> None:
    fill(postgres)
    query = "SELECT item_id, time FROM interactions"
    sentence = r"data\.interactions_query: cannot tell .* users; it has item_id, time; name one"
    with pytest.raises(DataError, match=sentence):
        read(postgres.source, interactions_query=query)


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("SELECT 1 AS a, 2 AS a", "column a comes twice"),
        ("SELECT * FROM nowhere", 'refused the query .*relation "nowhere" does not exist'),
        ("SELECT 1; SELECT 2", "refused the query .*multiple commands"),
        ("DELETE FROM items", "read-only transaction"),
        ("CREATE TABLE mine (i int)", "read-only transaction"),
        ("SELECT * FROM interactions WHERE false", "gives no rows"),
        ("SELECT '{}'::bytea AS b", "no column holds text or numbers"),
    ],
)
def test_a_query_that_cannot_be_used_is_refused(
    postgres: Postgres, query: str, sentence: str
) -> None:
    fill(postgres)
    with pytest.raises(DataError, match=sentence):
        read(postgres.source, interactions_query=query)
    assert len(read(postgres.source).catalogue) == 4


def test_a_database_without_the_tables_says_how_to_name_others(postgres: Postgres) -> None:
    with pytest.raises(DataError, match=r"table|name others with data\.interactions_query"):
        read(postgres.source)


def test_what_others_write_meanwhile_is_not_seen(postgres: Postgres) -> None:
    fill(postgres)
    options = DataSection(source=postgres.source)
    with opened(options) as source, connect() as connection:
        load(connection, "first", source.interactions)
        postgres.run("DELETE FROM items", "INSERT INTO interactions VALUES ('x', 'new', 1)")
        load(connection, "second", source.items)
        load(connection, "third", source.interactions)
        for name, rows in (("first", 12), ("second", 4), ("third", 12)):
            assert connection.table(name).shape[0] == rows


def test_a_connection_that_drops_is_an_error_and_not_the_end(postgres: Postgres) -> None:
    fill(postgres)
    query = (
        "SELECT i AS user, 'a' AS item, i AS time, CASE WHEN i = 300000 THEN "
        "pg_terminate_backend(pg_backend_pid()) END AS dropped FROM generate_series(1, 900000) i"
    )
    with pytest.raises(DataError, match=r"the rows broke off .*terminating connection"):
        read(postgres.source, interactions_query=query)


def test_a_wrong_password_is_a_sentence_without_it(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "wr0ng@/secret")
    with pytest.raises(
        DataError, match=r"no connection to the database .*authentication"
    ) as caught:
        read(postgres.source)
    shown = "".join(traceback.format_exception(caught.value))
    assert "wr0ng" not in shown


def test_no_error_shows_the_password(postgres: Postgres) -> None:
    queries = ("SELECT 1; 2", f"SELECT '{PASSWORD}'::int AS user", "SELECT nothing")
    for query in queries:
        with pytest.raises(TacitError) as caught:
            read(postgres.source, interactions_query=query)
        assert PASSWORD not in "".join(traceback.format_exception(caught.value))


def test_a_server_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"postgresql:///shop: no connection to the database"):
        read(f"postgresql:///shop?host={tmp_path}")


def test_progress_counts_the_rows_of_a_query(postgres: Postgres) -> None:
    fill(postgres)
    told: list[str] = []
    with opened(DataSection(source=postgres.source)) as source, connect() as connection:
        load(connection, "first", source.interactions, told.append)
    assert told[-1] == "Reading table interactions: 12 rows"


@pytest.mark.parametrize("option", ["interactions", "items"])
def test_options_for_files_are_refused_beside_a_database(tmp_path: Path, option: str) -> None:
    with pytest.raises(ConfigError, match=rf"data\.{option} is 'x\.csv', but sqlite.*_query"):
        read(sqlite_shop(tmp_path / "shop.db"), **{option: "x.csv"})


@pytest.mark.parametrize("option", ["interactions_query", "items_query"])
def test_queries_are_refused_beside_files(write: Write, option: str) -> None:
    with pytest.raises(ConfigError, match=rf"data\.{option} is given, but .* is no database"):
        read(as_csv(write), **{option: "SELECT 1"})


def test_a_missing_sqlite_file_is_refused_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file .*none\.db; expected sqlite:///RELATIVE"):
        read(f"sqlite:///{tmp_path}/none.db")
    assert not (tmp_path / "none.db").exists()


def test_a_relative_sqlite_path_has_three_slashes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sqlite_shop(tmp_path / "shop.db")
    monkeypatch.chdir(tmp_path)
    assert len(read("sqlite:///shop.db").histories) == 3


def test_sqlite_is_only_read(tmp_path: Path) -> None:
    source = sqlite_shop(tmp_path / "shop.db")
    with pytest.raises(DataError, match="readonly database"):
        read(source, interactions_query="DELETE FROM items RETURNING item_id AS user")
    assert len(read(source).catalogue) == 4


def test_a_sqlite_column_of_two_types_is_a_sentence(tmp_path: Path) -> None:
    source = sqlite_shop(tmp_path / "shop.db")
    query = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 70000) SELECT "
        "CASE WHEN i < 69999 THEN i ELSE 'x' END AS user, 'a' AS item, i AS time FROM n"
    )
    with pytest.raises(DataError, match=r"interactions_query: the rows broke off \("):
        read(source, interactions_query=query)


@pytest.mark.parametrize(
    ("source", "package"),
    [
        ("snowflake://me@account/shop", "adbc-driver-snowflake"),
        ("bigquery://project/shop", "adbc-driver-bigquery"),
        ("sc://cluster:15002", "adbc-driver-spark"),
        ("mysql://me@host/shop", "connectorx"),
        ("mssql://me@host/shop", "connectorx"),
    ],
)
def test_an_absent_package_is_a_sentence_with_its_cure(
    monkeypatch: pytest.MonkeyPatch, source: str, package: str
) -> None:
    def absent(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(databases.importlib, "import_module", absent)
    with pytest.raises(ConfigError, match=rf"needs the package {package},.* pip install {package}"):
        read(source)


def test_connectorx_streams_a_real_database(tmp_path: Path) -> None:
    sqlite_shop(tmp_path / "shop.db")
    address = Address(f"sqlite://{tmp_path}/shop.db", "sqlite", "sqlite", ())
    database = databases._ConnectorX(address, connectorx, address.url)
    reader = database.read("SELECT * FROM interactions")
    assert isinstance(reader, pa.RecordBatchReader)
    assert reader.read_all().to_pydict()["item_id"][:4] == ["b", "a", "c", "d"]
    with pytest.raises(DataError, match=r"cannot be read \(no such table: nowhere\); check"):
        database.read("SELECT * FROM nowhere")
