"""The organisation's store: imported whole, refreshed to what a new import would give."""

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.data.findings import Findings, describe, describe_store
from client.data.imports import Refreshed, import_store, refresh_store
from client.data.ingest import load_dataset
from client.data.store import open_store, read_facts, read_store, write_store
from shared.config import DataSection
from shared.errors import DataError
from tests.data.postgres import Postgres

Write = Callable[..., Path]
Row = tuple[str, str, int]

ITEMS = ("a", "b", "c", "d")
NOTHING = Refreshed(
    whole=False,
    new_interactions=0,
    gone_interactions=0,
    new_users=0,
    gone_users=0,
    new_items=0,
    gone_items=0,
    short_users=0,
)


class Shop:
    """A SQLite database, and a store that follows it."""

    def __init__(self, folder: Path, time: str = "INTEGER"):
        self.database = folder / "shop.db"
        self.store = folder / "store" / "histories.duckdb"
        self.run("DROP TABLE IF EXISTS interactions")
        self.run("DROP TABLE IF EXISTS items")
        self.run(f"CREATE TABLE interactions (user TEXT, item TEXT, time {time})")
        self.run("CREATE TABLE items (item TEXT, title TEXT)")
        for item in ITEMS:
            self.run("INSERT INTO items VALUES (?, ?)", (item, item.upper()))

    def run(self, sql: str, *rows: Sequence[object]) -> None:
        with closing(sqlite3.connect(self.database)) as database:
            database.execute("PRAGMA synchronous = OFF")
            database.executemany(sql, rows or [()])
            database.commit()

    def add(self, *rows: Row) -> None:
        if rows:
            self.run("INSERT INTO interactions VALUES (?, ?, ?)", *rows)

    def options(self, **more: object) -> DataSection:
        source = f"sqlite:///{self.database}"
        return DataSection.model_validate({"source": source, "min_history": 3} | more)

    def load(self, **more: object) -> Findings:
        return import_store(self.store, "shop", self.options(**more))

    def refresh(self, *, whole: bool = False, **more: object) -> Refreshed:
        return refresh_store(self.store, self.options(**more), whole)

    def histories(self) -> dict[str, list[tuple[str, float]]]:
        return contents(self.store)


def contents(store: Path) -> dict[str, list[tuple[str, float]]]:
    """``{user: items and times in order}``."""
    catalogue, histories = read_store(store)
    return {
        user: [
            (catalogue.item_ids[item], time)
            for item, time in zip(
                histories.row(place), histories.times[histories.offsets[place] :], strict=False
            )
        ]
        for place, user in enumerate(histories.user_ids)
    }


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """Users u and v with three interactions each, w with two."""
    made = Shop(tmp_path)
    made.add(*[(user, item, time) for user in "uv" for time, item in enumerate("abc", 1000)])
    made.add(("w", "a", 1000), ("w", "b", 1001))
    return made


def test_an_import_says_what_it_found(shop: Shop) -> None:
    shop.run("INSERT INTO interactions VALUES ('u', 'gone', 86400000)")
    expected = Findings(2, 1, 4, 6, 1, "1970-01-01", "1970-01-01")
    assert shop.load(unknown_items="leave-out") == expected
    assert describe_store(shop.store) == expected
    assert describe(load_dataset(shop.options(unknown_items="leave-out"))) == expected


def test_a_store_without_figures_is_described_by_what_it_holds(shop: Shop) -> None:
    dataset = load_dataset(shop.options())
    write_store(shop.store, "shop", dataset.catalogue, dataset.histories)
    assert describe_store(shop.store).short_users == 0
    assert describe_store(shop.store).interactions == 6


def test_days_are_those_of_the_first_and_last_interaction(shop: Shop) -> None:
    shop.add(("u", "a", -1), ("v", "a", 1717200000))
    found = shop.load()
    assert (found.first_day, found.last_day) == ("1969-12-31", "2024-06-01")


def test_interactions_with_unknown_items_are_refused_unless_left_out(shop: Shop) -> None:
    shop.add(("u", "gone", 2000), ("v", "gone", 2000))
    with pytest.raises(DataError, match=r'\(2 interactions in all .*data\.unknown_items = "leave'):
        shop.load()
    assert not shop.store.exists()
    shop.load(unknown_items="leave-out")
    assert [item for item, _ in shop.histories()["u"]] == ["a", "b", "c"]


def test_interactions_left_out_do_not_make_a_history_long_enough(shop: Shop) -> None:
    shop.add(("w", "gone", 2000))
    assert shop.load(unknown_items="leave-out").short_users == 1


def test_a_refresh_without_news_changes_nothing(shop: Shop) -> None:
    shop.load()
    before = shop.histories()
    assert shop.refresh() == Refreshed(**{**vars(NOTHING), "short_users": 1})
    assert shop.histories() == before


def test_a_refresh_brings_what_is_new(shop: Shop) -> None:
    shop.load()
    shop.run("INSERT INTO items VALUES ('0', 'Zero')")
    shop.add(("u", "0", 2000), *[("x", "d", time) for time in (1002, 1500, 3000)])
    assert shop.refresh() == Refreshed(False, 4, 0, 1, 0, 1, 0, 1)
    assert shop.histories()["u"] == [("a", 1000), ("b", 1001), ("c", 1002), ("0", 2000)]


def test_a_refresh_reads_new_rows_alone(shop: Shop) -> None:
    shop.load()
    shop.add(("u", "d", 2000))
    told: list[str] = []
    refresh_store(shop.store, shop.options(), progress=told.append)
    # The newest second is read again: two of its rows were there before.
    assert "Reading table interactions: 3 rows" in told


def test_a_user_whose_history_becomes_long_enough_brings_all_of_it(shop: Shop) -> None:
    shop.load()
    shop.add(("w", "c", 2000))
    assert shop.refresh() == Refreshed(False, 3, 0, 1, 0, 0, 0, 0)
    assert shop.histories()["w"] == [("a", 1000), ("b", 1001), ("c", 2000)]


def test_new_rows_in_the_newest_second_are_neither_lost_nor_doubled(shop: Shop) -> None:
    shop.load()
    shop.add(("u", "d", 1002), ("u", "c", 1002))
    found = shop.refresh()
    assert (found.whole, found.new_interactions) == (False, 2)
    assert [item for item, _ in shop.histories()["u"]] == ["a", "b", "c", "d", "c"]


def test_an_erased_user_is_noticed_and_gone(shop: Shop) -> None:
    shop.load()
    shop.run("DELETE FROM interactions WHERE user = 'v'")
    found = shop.refresh()
    assert (found.whole, found.gone_users, found.gone_interactions) == (True, 1, 3)
    assert list(shop.histories()) == ["u"]
    assert b"v" not in {user.encode() for user in read_store(shop.store)[1].user_ids}


def test_rows_that_come_late_are_noticed(shop: Shop) -> None:
    shop.load()
    shop.add(("u", "d", 500))
    found = shop.refresh()
    assert (found.whole, found.new_interactions) == (True, 1)
    assert shop.histories()["u"][0] == ("d", 500)


def test_a_whole_refresh_sees_what_counts_cannot(shop: Shop) -> None:
    shop.load()
    shop.run("UPDATE interactions SET item = 'd' WHERE user = 'u' AND time = 1000")
    assert shop.refresh().new_interactions == 0
    found = shop.refresh(whole=True)
    assert (found.whole, found.new_interactions, found.gone_interactions) == (True, 1, 1)
    assert shop.histories()["u"][0] == ("d", 1000)


def test_other_settings_make_a_refresh_whole(shop: Shop) -> None:
    shop.load()
    query = "SELECT * FROM interactions WHERE user <> 'u'"
    found = shop.refresh(interactions_query=query)
    assert (found.whole, found.gone_users) == (True, 1)
    shop.add(("v", "d", 2000))
    assert not shop.refresh(interactions_query=query).whole


def test_a_query_that_gives_as_many_other_rows_makes_a_refresh_whole(shop: Shop) -> None:
    shop.load()
    query = "SELECT user, 'd' AS item, time FROM interactions"
    assert shop.refresh(interactions_query=query).whole
    assert shop.histories()["u"][0] == ("d", 1000)


def test_a_lower_threshold_needs_no_whole_refresh(shop: Shop) -> None:
    shop.load()
    shop.add(*[("x", item, 2000) for item in "abcd"])
    found = shop.refresh(min_history=4)
    assert (found.whole, found.new_users, found.gone_users, found.short_users) == (False, 1, 2, 3)


def test_text_times_are_read_whole(tmp_path: Path) -> None:
    shop = Shop(tmp_path, time="TEXT")
    shop.add(*[("u", item, f"2024-05-0{day}") for day, item in enumerate("abc", 1)])  # type: ignore[misc]
    shop.load()
    shop.add(("u", "d", "2024-05-09"))  # type: ignore[arg-type]
    found = shop.refresh()
    assert (found.whole, found.new_interactions) == (True, 1)


def test_a_unit_that_changes_makes_a_refresh_whole(shop: Shop) -> None:
    shop.load()
    shop.add(("u", "d", 1_700_000_000_000))
    assert shop.refresh().whole
    assert shop.histories()["u"][0] == ("a", 1.0)


def test_an_item_that_goes_is_refused_and_the_store_stays(shop: Shop) -> None:
    shop.load()
    before = shop.store.read_bytes()
    shop.run("DELETE FROM items WHERE item = 'a'")
    with pytest.raises(DataError, match=r"a row read earlier, column item: item 'a' is not among"):
        shop.refresh()
    assert shop.store.read_bytes() == before
    assert [entry.name for entry in shop.store.parent.iterdir()] == ["histories.duckdb"]


def test_an_item_that_comes_later_brings_its_interactions(shop: Shop) -> None:
    shop.add(("u", "e", 500))
    shop.load(unknown_items="leave-out")
    shop.run("INSERT INTO items VALUES ('e', 'E')")
    found = shop.refresh(unknown_items="leave-out")
    assert (found.whole, found.new_interactions, found.new_items) == (False, 1, 1)


def test_a_store_that_was_not_imported_is_refreshed_whole(shop: Shop) -> None:
    dataset = load_dataset(shop.options())
    write_store(shop.store, "shop", dataset.catalogue, dataset.histories)
    shop.add(("u", "d", 2000))
    found = shop.refresh()
    assert (found.whole, found.new_interactions) == (True, 1)


def test_a_refresh_without_a_store_is_refused(shop: Shop) -> None:
    with pytest.raises(DataError, match=r"no such store; make it by importing"):
        shop.refresh()


def test_files_are_refreshed_whole(write: Write, shop: Shop) -> None:
    rows = "".join(f"u,{item},{time}\n" for time, item in enumerate("abc"))
    files = {"interactions.csv": f"user,item,time\n{rows}", "items.csv": "item,title\na,A\nb,B\n"}
    files["items.csv"] += "c,C\n"
    options = DataSection(source=str(write(files)), min_history=3)
    import_store(shop.store, "shop", options)
    write(files | {"interactions.csv": files["interactions.csv"] + "u,a,9\n"})
    assert refresh_store(shop.store, options) == Refreshed(True, 1, 0, 0, 0, 0, 0, 0)


def test_a_store_of_files_keeps_no_second_copy_of_the_rows(write: Write, shop: Shop) -> None:
    rows = "".join(f"u,{item},{time}\n" for time, item in enumerate("abc"))
    files = {"interactions.csv": f"user,item,time\n{rows}", "items.csv": "item,title\na,A\nb,B\n"}
    files["items.csv"] += "c,C\n"
    import_store(shop.store, "shop", DataSection(source=str(write(files)), min_history=3))
    with open_store(shop.store) as store:
        assert store.table("loaded").shape[0] == 0


ROWS = st.lists(
    st.tuples(st.sampled_from("uvw"), st.sampled_from("abcdz"), st.integers(0, 6)), max_size=12
)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(batches=st.lists(ROWS, min_size=2, max_size=3), erased=st.sampled_from(["", "u", "v"]))
def test_refreshes_end_where_a_new_import_would(
    tmp_path: Path, batches: list[list[Row]], erased: str
) -> None:
    shop = Shop(tmp_path)
    shop.add(*[("u", item, 1) for item in "abc"])
    shop.load(unknown_items="leave-out")
    for place, batch in enumerate(batches):
        # Most rows are new, some are late, some come in the second that is the newest.
        shop.add(*[(user, item, time + 3 * place) for user, item, time in batch])
        shop.add(*[("keeper", item, 1) for item in "abc"])
        shop.run("DELETE FROM interactions WHERE user = ?", (erased,))
        shop.refresh(unknown_items="leave-out")
    refreshed, facts = shop.histories(), read_facts(shop.store)
    shop.load(unknown_items="leave-out")
    assert refreshed == shop.histories()
    assert facts == read_facts(shop.store)


def fill(postgres: Postgres, kind: str, rows: str) -> DataSection:
    postgres.run(
        f'CREATE TABLE interactions ("user" text, item text, time {kind})',
        "CREATE TABLE items AS SELECT i AS item, upper(i) AS title FROM unnest(ARRAY['a','b']) i",
        f"INSERT INTO interactions VALUES {rows}",
    )
    return DataSection(source=postgres.source, min_history=3)


@pytest.mark.parametrize(
    ("kind", "old", "new"),
    [
        ("timestamptz", "2024-05-31 18:00:00.25+00", "2024-05-31 18:00:00.75+00"),
        ("timestamp", "2024-05-31 18:00:00.25", "2024-05-31 18:00:00.75"),
        ("date", "2024-05-31", "2024-05-31"),
        ("bigint", "1717178400", "1717178401"),
        ("bigint", "1717178400250", "1717178400750"),
        ("double precision", "1717178400.25", "1717178400.75"),
    ],
)
def test_postgresql_is_asked_for_new_rows_alone(
    postgres: Postgres, tmp_path: Path, kind: str, old: str, new: str
) -> None:
    first = f"('u', 'a', '{old}'), ('u', 'b', '{old}'), ('u', 'a', '{old}')"
    store, options = tmp_path / "store.duckdb", fill(postgres, kind, first)
    import_store(store, "shop", options)
    postgres.run(f"INSERT INTO interactions VALUES ('u', 'b', '{new}')")
    found = refresh_store(store, options)
    assert (found.whole, found.new_interactions) == (False, 1)
    refreshed = contents(store)
    import_store(store, "shop", options)
    assert contents(store) == refreshed


def test_a_connection_that_drops_leaves_the_store_as_it_was(
    postgres: Postgres, tmp_path: Path
) -> None:
    rows = ", ".join(f"('u', 'a', {time})" for time in range(3))
    store, options = tmp_path / "store.duckdb", fill(postgres, "bigint", rows)
    import_store(store, "shop", options)
    before = store.read_bytes()
    query = (
        "SELECT 'u' AS \"user\", 'a' AS item, i AS time, CASE WHEN i = 300000 THEN "
        "pg_terminate_backend(pg_backend_pid()) END AS dropped FROM generate_series(1, 900000) i"
    )
    with pytest.raises(DataError, match="the rows broke off"):
        refresh_store(store, options.model_copy(update={"interactions_query": query}))
    assert store.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["store.duckdb"]


def test_no_store_holds_the_password_or_the_address(postgres: Postgres, tmp_path: Path) -> None:
    rows = ", ".join(f"('u', 'a', {time})" for time in range(3))
    store, options = tmp_path / "store.duckdb", fill(postgres, "bigint", rows)
    import_store(store, "shop", options)
    assert b"postgresql://" not in store.read_bytes()
