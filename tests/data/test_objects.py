"""Object stores and HTTP through fsspec: copied, read, and the copies gone."""

import http.server
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from client.data.ingest import Dataset, load_dataset
from shared.config import DataSection
from shared.errors import ConfigError, DataError

Write = Callable[..., Path]


def read(source: str, **options: object) -> Dataset:
    return load_dataset(DataSection.model_validate({"source": source, "min_history": 3} | options))


@pytest.fixture
def bucket(shop: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The shop in fsspec's own store in memory, and a place for copies that ends empty."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    store = fsspec.filesystem("memory")
    for name, text in shop.items():
        store.pipe(f"/bucket/shop/{name}", text.encode())
    yield store
    store.rm("/bucket", recursive=True)
    assert list(scratch.iterdir()) == []


def test_a_folder_is_read_like_a_local_one(bucket: Any, write: Write, shop: dict[str, str]) -> None:
    found, expected = read("memory://bucket/shop"), read(str(write(shop)))
    assert found.catalogue == expected.catalogue
    assert found.histories.items.tolist() == expected.histories.items.tolist()
    assert found.name == "shop"


def test_only_what_could_be_data_is_copied(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.pipe("/bucket/shop/backup.tar", b"x")
    copied: list[str] = []
    get_file = type(bucket).get_file

    def spied(self: Any, path: str, *arguments: Any, **options: Any) -> Any:
        copied.append(path.rpartition("/")[2])
        return get_file(self, path, *arguments, **options)

    monkeypatch.setattr(type(bucket), "get_file", spied)
    read("memory://bucket/shop")
    assert sorted(copied) == ["interactions.csv", "items.csv"]


def test_copies_are_for_their_owner_alone(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[int] = []
    get_file = type(bucket).get_file

    def spied(self: Any, path: str, target: str, **options: Any) -> Any:
        scratch = Path(tempfile.gettempdir())
        modes.extend(entry.stat().st_mode & 0o777 for entry in scratch.iterdir())
        return get_file(self, path, target, **options)

    monkeypatch.setattr(type(bucket), "get_file", spied)
    read("memory://bucket/shop")
    assert set(modes) == {0o700}


def test_files_are_named_one_by_one(bucket: Any, write: Write, shop: dict[str, str]) -> None:
    bucket.mv("/bucket/shop/items.csv", "/bucket/things.csv")
    source = "memory://bucket/shop/interactions.csv"
    assert len(read(source, items="memory://bucket/things.csv").catalogue) == 4
    local = str(write(shop))
    assert len(read(local, items="memory://bucket/things.csv").catalogue) == 4


def test_items_are_found_beside_a_file_and_under_another_name(bucket: Any) -> None:
    bucket.mv("/bucket/shop/items.csv", "/bucket/shop/deep/things.csv")
    source = "memory://bucket/shop"
    assert len(read(f"{source}/interactions.csv", items="deep/things.csv").catalogue) == 4
    assert len(read(source, items="deep/things.csv").catalogue) == 4


def test_folders_of_parts_are_copied_whole(bucket: Any, write: Write, shop: dict[str, str]) -> None:
    bucket.rm("/bucket/shop/interactions.csv")
    folder = write(shop)
    import duckdb

    for day in (1, 2):
        target = folder / f"{day}.parquet"
        duckdb.connect().execute(
            f"COPY (FROM read_csv('{folder}/interactions.csv')) TO '{target}' (FORMAT parquet)"
        )
        bucket.put_file(str(target), f"/bucket/shop/interactions/day={day}/part-0.parquet")
    bucket.pipe("/bucket/shop/interactions/_SUCCESS", b"")
    assert len(read("memory://bucket/shop").histories.items) == 24


def test_errors_name_the_url_and_not_the_copy(bucket: Any, shop: dict[str, str]) -> None:
    bad = shop["interactions.csv"].replace("u2,b,", ",b,", 1)
    bucket.pipe("/bucket/shop/interactions.csv", bad.encode())
    sentence = r"^memory://bucket/shop/interactions\.csv, line 2, column user: empty"
    with pytest.raises(DataError, match=sentence):
        read("memory://bucket/shop")
    bucket.rm("/bucket/shop/items.csv")
    with pytest.raises(DataError, match=r"^memory://bucket/shop: no file of items in this folder"):
        read("memory://bucket/shop")


def test_what_is_not_there_is_a_sentence(bucket: Any) -> None:
    with pytest.raises(DataError, match=r"^memory://bucket/none\.csv: nothing there"):
        read("memory://bucket/shop", items="memory://bucket/none.csv")


def test_names_that_lead_out_of_the_folder_are_refused(bucket: Any) -> None:
    with pytest.raises(DataError, match="leads out of the folder"):
        read("memory://bucket/shop", items="../../../../escaped.csv")


def test_what_a_library_raises_is_a_sentence(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("503 slow down")

    monkeypatch.setattr(type(bucket), "get_file", broken)
    with pytest.raises(DataError, match=r"cannot be fetched \(503 slow down\); check the name"):
        read("memory://bucket/shop")


@pytest.mark.parametrize(
    ("scheme", "package"), [("s3", "s3fs"), ("gs", "gcsfs"), ("az", "adlfs"), ("https", "aiohttp")]
)
def test_an_absent_package_is_a_sentence_with_its_cure(
    monkeypatch: pytest.MonkeyPatch, scheme: str, package: str
) -> None:
    def absent(url: str) -> None:
        raise ImportError(url)

    monkeypatch.setattr(fsspec, "url_to_fs", absent)
    with pytest.raises(ConfigError, match=rf"needs the package {package}, .*pip install {package}"):
        read(f"{scheme}://bucket/shop")


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"begins with oracle://, which is neither"):
        read("oracle://host/shop")


def test_chained_urls_are_refused() -> None:
    with pytest.raises(ConfigError, match="chained URLs"):
        read("simplecache::memory://bucket/shop")


def test_files_behind_http_are_read(write: Write, shop: dict[str, str]) -> None:
    pytest.importorskip("aiohttp", reason="needs the package aiohttp")
    folder = str(write(shop))

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any):
            super().__init__(*arguments, directory=folder)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        dataset = read(f"{address}/interactions.csv", items=f"{address}/items.csv")
        server.shutdown()
    assert len(dataset.histories.items) == 12
