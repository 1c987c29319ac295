"""Order, times, columns and thresholds of ingestion, and every sentence with which it refuses."""

import random
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.data.ingest import Dataset, load_dataset
from shared.config import DataSection
from shared.errors import DataError


def load(source: Path, **options: object) -> Dataset:
    return load_dataset(
        DataSection.model_validate({"source": str(source), "min_history": 3} | options)
    )


def with_line(text: str, line: int, new: str) -> str:
    """``text`` with one line, counted from 1, replaced."""
    lines = text.splitlines()
    lines[line - 1] = new
    return "\n".join(lines) + "\n"


def test_histories_are_ordered_by_user_and_time_as_places_in_the_catalogue(
    write: Callable[..., Path], shop: dict[str, str]
) -> None:
    histories = load(write(shop)).histories
    assert histories.user_ids == ("u1", "u10", "u2")
    assert histories.offsets.tolist() == [0, 4, 8, 12]
    assert histories.row(0).tolist() == [1, 0, 2, 3]
    assert histories.ratings is not None
    assert histories.ratings[:4].tolist() == [1, 2, 3, 4]
    arrays = (histories.offsets, histories.items, histories.times, histories.ratings)
    assert [array.dtype for array in arrays] == [np.int64, np.int64, np.float64, np.float32]


def test_integer_identifiers_are_ordered_as_numbers(
    write: Callable[..., Path], shop: dict[str, str]
) -> None:
    files = {name: text.replace("u", "").replace("ser", "user") for name, text in shop.items()}
    files["items.csv"] = "item,title\n10,T\n9,N\n100,H\n2,Z\n"
    for old, new in (("b", "10"), ("a", "9"), ("c", "100"), ("d", "2")):
        files["interactions.csv"] = files["interactions.csv"].replace(f",{old},", f",{new},")
    dataset = load(write(files))
    assert dataset.histories.user_ids == ("1", "2", "10")
    assert dataset.catalogue.item_ids == ("2", "9", "10", "100")


def test_one_identifier_that_is_no_integer_makes_all_of_them_text(
    write: Callable[..., Path], shop: dict[str, str]
) -> None:
    shop["items.csv"] += "10,Ten,\n9,Nine,\n1.5,Half,\n"
    assert load(write(shop)).catalogue.item_ids == ("1.5", "10", "9", "a", "b", "c", "d")


def test_same_times_keep_the_order_of_the_file(
    write: Callable[..., Path], shop: dict[str, str]
) -> None:
    rows = "\n".join(f"u,{item},5" for item in ("d", "b", "a", "c"))
    shop["interactions.csv"] = f"user,item,time\n{rows}\n"
    histories = load(write(shop)).histories
    assert histories.items.tolist() == [3, 1, 0, 2]
    assert histories.ratings is None


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 2**32))
def test_order_of_rows_does_not_matter_where_times_differ(
    write: Callable[..., Path], seed: int
) -> None:
    shuffled = random.Random(seed)
    rows = [
        f"u{u},{i},{t},{r}"
        for u in (1, 2)
        for i, t, r in zip("aabcb", (4, 3, 5, 1, 2), "21321", strict=True)
    ]
    items = ["a,A", "b,B", "c,C"]
    expected = load(
        write(
            {
                "interactions.csv": table("user,item,time,rating", rows),
                "items.csv": table("item,title", items),
            }
        )
    )
    shuffled.shuffle(rows)
    shuffled.shuffle(items)
    found = load(
        write(
            {
                "interactions.csv": table("user,item,time,rating", rows),
                "items.csv": table("item,title", items),
            }
        )
    )
    assert found.catalogue == expected.catalogue
    assert (
        found.histories.items.tolist() == expected.histories.items.tolist() == [2, 1, 0, 0, 1] * 2
    )
    assert found.histories.ratings is not None
    assert found.histories.ratings.tolist() == [2, 1, 1, 2, 3] * 2


def table(header: str, rows: list[str]) -> str:
    return "\n".join([header, *rows]) + "\n"


def test_repeated_interactions_are_kept(write: Callable[..., Path], shop: dict[str, str]) -> None:
    shop["interactions.csv"] += "u1,a,2000000000,5\nu1,a,2000000000,5\n"
    assert load(write(shop)).histories.row(0).tolist() == [1, 0, 2, 3, 0, 0]


def test_items_that_nobody_had_stay_in_the_catalogue(
    write: Callable[..., Path], shop: dict[str, str]
) -> None:
    shop["items.csv"] += "zebra,Zebra,\n"
    dataset = load(write(shop))
    assert dataset.catalogue.item_ids[-1] == "zebra"
    assert dataset.histories.items.max() == 3


def test_users_with_short_histories_are_left_out_and_said(
    write: Callable[..., Path], shop: dict[str, str]
) -> None:
    shop["interactions.csv"] += "u3,a,1,1\nu3,b,2,1\nu4,a,1,1\n"
    dataset = load(write(shop))
    assert dataset.histories.user_ids == ("u1", "u10", "u2")
    assert dataset.dropped_users == 2
    assert dataset.notices == ("2 of 5 users have fewer than 3 interactions and are left out",)


def test_a_history_of_exactly_the_threshold_is_kept(
    write: Callable[..., Path], shop: dict[str, str]
) -> None:
    dataset = load(write(shop), min_history=4)
    assert (dataset.dropped_users, dataset.notices) == (0, ())


def test_nobody_left_is_refused(write: Callable[..., Path], shop: dict[str, str]) -> None:
    with pytest.raises(DataError, match=r"none of the 3 users has at least 5 interactions"):
        load(write(shop), min_history=5)


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("1e9", 1e9),
        ("-5.5", -5.5),
        ("1000000000123", 1000000000.123),
        ("2024-05-31T18:00:00Z", 1717178400.0),
        ("2024-05-31T18:00:00+02:00", 1717171200.0),
        ("2024-05-31 18:00:00.25", 1717178400.25),
        ("2024-05-31", 1717113600.0),
    ],
)
def test_times_are_seconds_milliseconds_or_iso_text(
    write: Callable[..., Path], shop: dict[str, str], written: str, seconds: float
) -> None:
    rows = "\n".join(f"u,{item},{written}" for item in "abc")
    shop["interactions.csv"] = f"user,item,time\n{rows}\n"
    assert load(write(shop)).histories.times.tolist() == [seconds] * 3


def test_one_column_of_numbers_has_one_unit(
    write: Callable[..., Path], shop: dict[str, str]
) -> None:
    rows = "\n".join(["u,a,1000000000000", "u,b,5000", "u,c,1000000000001"])
    shop["interactions.csv"] = f"user,item,time\n{rows}\n"
    assert load(write(shop)).histories.times.tolist() == [5.0, 1e9, 1000000000.001]


@pytest.mark.parametrize(
    "kind", ["TIMESTAMP", "TIMESTAMPTZ", "TIMESTAMP_NS", "TIMESTAMP_MS", "DATE", "VARCHAR"]
)
def test_parquet_times_may_be_of_every_kind(
    write: Callable[..., Path], shop: dict[str, str], kind: str
) -> None:
    folder = write({"items.csv": shop["items.csv"]})
    duckdb.connect().execute(
        f"SET TimeZone = 'Asia/Tokyo'; COPY (SELECT 'u' AS user, unnest(['a', 'b', 'c']) AS item, "
        f"'2024-05-31 00:00:00+00'::TIMESTAMPTZ AT TIME ZONE 'UTC' AS moment, "
        f"{'timezone($$UTC$$, moment)' if kind == 'TIMESTAMPTZ' else f'CAST(moment AS {kind})'} "
        f"AS time) TO '{folder}/interactions.parquet' (FORMAT parquet)"
    )
    assert load(folder, time_column="time").histories.times.tolist() == [1717113600.0] * 3


def test_columns_are_guessed_without_regard_to_case_and_punctuation(
    write: Callable[..., Path], shop: dict[str, str]
) -> None:
    shop["interactions.csv"] = shop["interactions.csv"].replace(
        "user,item,time,rating", "Customer-ID,Product ID,Created_At,STARS"
    )
    shop["items.csv"] = shop["items.csv"].replace("item,title,maker", "ID,Product_Name,maker")
    dataset = load(write(shop))
    assert dataset.histories.ratings is not None
    assert dataset.catalogue.titles[0] == "Anvil"


def test_columns_can_be_named(write: Callable[..., Path], shop: dict[str, str]) -> None:
    shop["interactions.csv"] = shop["interactions.csv"].replace(
        "user,item,time,rating", "who,what,when,how"
    )
    shop["items.csv"] = "what,label,code\na,A,1\nb,B,2\nc,C,3\nd,D,4\n"
    dataset = load(
        write(shop),
        user_column="who",
        item_column="What",
        time_column="when",
        rating_column="how",
        title_column="label",
        key_column="code",
    )
    assert dataset.histories.ratings is not None
    assert dataset.catalogue.keys == ("1", "2", "3", "4")
    assert dataset.catalogue.attributes == {}


@pytest.mark.parametrize("name", ["interactions.csv", "items.csv"])
def test_the_item_column_may_have_its_name_in_one_file_only(
    write: Callable[..., Path], shop: dict[str, str], name: str
) -> None:
    shop[name] = shop[name].replace("item", "code", 1)
    assert len(load(write(shop), item_column="code").catalogue) == 4


def test_columns_constant_within_each_user_describe_users(
    write: Callable[..., Path], shop: dict[str, str]
) -> None:
    lines = shop["interactions.csv"].splitlines()
    lines[0] += ",country,device"
    lines[1:] = [
        f"{line},{country},{place % 4 if country == 'DE' else 0}"
        for place, line in enumerate(lines[1:])
        for country in ["FR" if line.startswith("u2,") else "DE"]
    ]
    shop["interactions.csv"] = "\n".join(lines) + "\n"
    assert load(write(shop)).user_columns == {"country": ("DE", "DE", "FR")}


@pytest.mark.parametrize(
    ("file", "old", "flag"),
    [
        ("interactions.csv", "user", "--user-column NAME"),
        ("interactions.csv", "item", "--item-column NAME"),
        ("interactions.csv", "time", "--time-column NAME"),
        ("items.csv", "item", "--item-column NAME"),
        ("items.csv", "title", "--title-column NAME"),
    ],
)
def test_a_column_that_cannot_be_guessed_is_asked_for(
    write: Callable[..., Path], shop: dict[str, str], file: str, old: str, flag: str
) -> None:
    shop[file] = shop[file].replace(old, "mystery", 1)
    with pytest.raises(DataError, match=rf"{file}: cannot tell .*it has .*mystery.*{flag}"):
        load(write(shop))


@pytest.mark.parametrize(
    ("option", "file"),
    [
        ("user", "interactions"),
        ("item", "interactions"),
        ("time", "interactions"),
        ("rating", "interactions"),
        ("title", "items"),
        ("key", "items"),
    ],
)
def test_a_named_column_that_is_missing_is_refused(
    write: Callable[..., Path], shop: dict[str, str], option: str, file: str
) -> None:
    sentence = rf"{file}\.csv: no column 'nope' .*; it has .*, .*--{option}-column NAME"
    with pytest.raises(DataError, match=sentence):
        load(write(shop), **{f"{option}_column": "nope"})


@pytest.mark.parametrize(
    ("line", "new", "sentence"),
    [
        (5, ",a,1,1", r"line 5, column user: empty \(1 such rows\)"),
        (6, "u1, ,1,1", r"line 6, column item: empty"),
        (7, "u1,a,yesterday,1", r"line 7, column time: found 'yesterday' \(1 such rows\)"),
        (8, "u1,a,,1", r"line 8, column time: found ''"),
        (8, "u1,a,inf,1", r"line 8, column time: found 'inf'"),
        (8, "u1,a,1e18,1", r"line 8, column time: found '1e18'"),
        (9, "u1,a,1,good", r"line 9, column rating: found 'good'"),
        (9, "u1,a,1,", r"line 9, column rating: found ''"),
        (9, "u1,a,1,nan", r"line 9, column rating: found 'nan'"),
        (3, "u1,gone,1,1", r"line 3, column item: item 'gone' is not among the items \(1 "),
        (4, "u1,a,1", r"line 4: expected 4 columns, found 3"),
        (4, "u1,a,1,1,1", r"line 4: expected 4 columns, found 5"),
        (4, '"u1,a,1,1', r"line 4: "),
    ],
)
def test_a_bad_interaction_is_named_by_its_line_and_column(
    write: Callable[..., Path], shop: dict[str, str], line: int, new: str, sentence: str
) -> None:
    shop["interactions.csv"] = with_line(shop["interactions.csv"], line, new)
    with pytest.raises(DataError, match=r"interactions\.csv, " + sentence):
        load(write(shop))


def test_interactions_with_unknown_items_are_counted(
    write: Callable[..., Path], shop: dict[str, str]
) -> None:
    shop["items.csv"] = with_line(shop["items.csv"], 4, "x,Xylophone,")
    with pytest.raises(DataError, match=r"line 4, column item: item 'c' .*\(3 interactions in all"):
        load(write(shop))


@pytest.mark.parametrize(
    ("line", "new", "sentence"),
    [
        (3, ",Bell,", r"line 3, column item: empty"),
        (4, "c,,", r"line 4, column title: empty"),
        (5, "a,Drum,", r"line 5, column item: 'a' is already in line 2 \(2 times in all\)"),
        (1, "item,title,title", r"line 1: column title appears twice"),
        (1, "item,title,", r"line 1: a column has no name"),
        (1, "item", r"line 1: expected a header with at least two columns, found item"),
    ],
)
def test_a_bad_item_is_named_by_its_line_and_column(
    write: Callable[..., Path], shop: dict[str, str], line: int, new: str, sentence: str
) -> None:
    shop["items.csv"] = with_line(shop["items.csv"], line, new)
    with pytest.raises(DataError, match=r"items\.csv, " + sentence):
        load(write(shop))


def test_an_empty_key_is_refused(write: Callable[..., Path], shop: dict[str, str]) -> None:
    shop["items.csv"] = shop["items.csv"].replace("maker", "key")
    with pytest.raises(DataError, match=r"items\.csv, line 3, column key: empty"):
        load(write(shop))


def test_lines_count_blank_lines_and_line_breaks_inside_quotes(
    write: Callable[..., Path], shop: dict[str, str]
) -> None:
    shop["items.csv"] = 'item,title\n\na,"An\nvil"\nb,Bell\n\nc,Cup\nc,Cup\n'
    with pytest.raises(DataError, match=r"items\.csv, line 8, .* is already in line 7 "):
        load(write(shop))


def test_rows_of_parquet_are_counted_without_a_header(
    write: Callable[..., Path], shop: dict[str, str]
) -> None:
    folder = write({"items.csv": shop["items.csv"]})
    duckdb.connect().execute(
        "COPY (SELECT 'u' AS user, unnest(['a', NULL, 'b']) AS item, 1 AS time) "
        f"TO '{folder}/interactions.parquet' (FORMAT parquet)"
    )
    with pytest.raises(DataError, match=r"interactions\.parquet, row 2, column item: empty"):
        load(folder)


def test_text_that_is_not_utf_8_is_refused_with_its_line(
    write: Callable[..., Path], shop: dict[str, str]
) -> None:
    files = {**shop, "items.csv": shop["items.csv"].replace("Bell", "Bébé").encode("latin-1")}
    with pytest.raises(DataError, match=r"items\.csv, line 3: not UTF-8; save the file as UTF-8"):
        load(write(files))


def test_a_recbole_header_without_types_is_refused(write: Callable[..., Path]) -> None:
    files = {
        "t.inter": "user_id\titem_id\ttimestamp\n1\t1\t1\n",
        "t.item": "a:token\tb:token\n1\t1\n",
    }
    with pytest.raises(
        DataError, match=r"t\.inter, line 1: found column 'user_id', expected name:"
    ):
        load(write(files))


def test_a_line_of_a_dat_file_is_counted_from_the_first(write: Callable[..., Path]) -> None:
    files = {"ratings.dat": "1::1::5::1\n1::1::5::x\n", "movies.dat": "1::One (1990)::War\n"}
    with pytest.raises(DataError, match=r"ratings\.dat, line 2, column timestamp: found 'x'"):
        load(write(files))


def test_a_film_without_a_link_is_refused(write: Callable[..., Path]) -> None:
    files = {
        "ratings.csv": "userId,movieId,rating,timestamp\n1,1,1,1\n",
        "movies.csv": "movieId,title,genres\n1,A,War\n2,B,War\n",
        "links.csv": "movieId,imdbId,tmdbId\n1,1,1\n",
    }
    with pytest.raises(
        DataError, match=r"movies\.csv, line 3, column movieId: item '2' has no row"
    ):
        load(write(files))


def test_a_user_described_twice_is_refused(write: Callable[..., Path]) -> None:
    files = {
        "t.inter": "user_id:token\titem_id:token\ttimestamp:float\n1\t1\t1\n",
        "t.item": "item_id:token\ttitle:token\n1\tA\n",
        "t.user": "user_id:token\tage:token\n1\t5\n2\t6\n1\t7\n",
    }
    with pytest.raises(DataError, match=r"none of the 1 users"):
        load(write(files))
    files["t.inter"] += "1\t1\t2\n1\t1\t3\n"
    with pytest.raises(
        DataError, match=r"t\.user, line 4, column user_id: '1' is already in line 2"
    ):
        load(write(files))
