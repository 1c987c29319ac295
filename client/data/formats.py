"""Which files a data source consists of: MovieLens, RecBole, or interactions and items tables."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

import pyarrow

from client.data.parts import parts_of
from shared.assets import package_file, require_hash
from shared.config import DataSection
from shared.errors import AssetError, ConfigError, DataError

Kind = Literal["delimited", "recbole", "dat", "parquet"]
Part = Literal["interactions", "items", "users", "links"]

KINDS: dict[str, Kind] = {
    ".csv": "delimited",
    ".tsv": "delimited",
    ".txt": "delimited",
    ".parquet": "parquet",
    ".inter": "recbole",
    ".item": "recbole",
    ".user": "recbole",
    ".dat": "dat",
}
# The .dat files of MovieLens 1M and 10M have no header; their README gives the order.
DAT_COLUMNS: dict[Part, tuple[str, ...]] = {
    "interactions": ("user_id", "item_id", "rating", "timestamp"),
    "items": ("item_id", "title", "genres"),
    "users": ("user_id", "gender", "age", "occupation", "zip_code"),
}
MOVIELENS_ITEMS = ("movies.csv", "movies.dat")
PATTERNS: dict[str, tuple[str, ...]] = {
    "interactions": (
        "*.inter",
        "ratings.csv",
        "ratings.dat",
        "interactions.csv",
        "interactions.parquet",
        "interactions",
    ),
    "items": ("*.item", *MOVIELENS_ITEMS, "items.csv", "items.parquet", "items"),
}
# Files that a format has beside those two.
BESIDE = ("*.user", "users.dat", "links.csv")
ML100K_INTERACTIONS_SHA256 = "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff"
ML100K_ITEMS_SHA256 = "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532"
ML100K_INSTALL = (
    "install it with: pip install --no-deps recbole==1.2.1, or use made-up data: --data synthetic"
)
ML100K_LICENCE = (
    "MovieLens 100K is GroupLens data for research use only, without redistribution; cite Harper "
    "and Konstan 2015, https://doi.org/10.1145/2827872"
)


@dataclass(frozen=True)
class SourceFile:
    """One file of a source, or one folder of Parquet parts, and how it is written.

    Attributes:
        path: where it lies; it exists and is not empty.
        kind: delimited (with a header), recbole (tabs, header ``name:type``), dat (``::`` between
            values, no header) or parquet.
        columns: names of the columns of a file that has no header; empty otherwise.
        parts: files of a folder in the order in which they are read; empty for a single file.
    """

    path: Path
    kind: Kind
    columns: tuple[str, ...] = ()
    parts: tuple[Path, ...] = ()

    @property
    def place(self) -> str:
        """What an error calls it."""
        return str(self.path)

    @property
    def label(self) -> str:
        """What a notice calls it."""
        return self.path.name


class Database(Protocol):
    """An open connection that reads; all reads see the same state where the database can."""

    scheme: str

    def read(self, sql: str) -> pyarrow.RecordBatchReader:
        """The rows of a query as they come."""

    def lost(self, error: BaseException) -> str:
        """What an error while rows come says, without secrets."""


@dataclass(frozen=True)
class SourceQuery:
    """One query of a database.

    Attributes:
        database: where it runs.
        sql: the query, without a semicolon at its end.
        label: what a notice calls it.
        place: what an error calls it.
    """

    database: Database
    sql: str
    label: str
    place: str
    kind: Literal["sql"] = "sql"
    columns: tuple[str, ...] = ()


Origin = SourceFile | SourceQuery


@dataclass(frozen=True)
class Source:
    """The files, or queries, that together are one data set.

    Attributes:
        name: what the data set is called in reports.
        interactions: one row per interaction.
        items: one row per item.
        users: one row per user with columns about users, or None.
        links: MovieLens ``links.csv``, which gives every film its IMDb number, or None.
        movielens: whether titles end in a year and genres stand between bars.
        notices: sentences that a person must see who uses this data.
    """

    name: str
    interactions: Origin
    items: Origin
    users: SourceFile | None = None
    links: SourceFile | None = None
    movielens: bool = False
    notices: tuple[str, ...] = ()


def recognise(options: DataSection) -> Source:
    """Find the files of ``options.source``, and of ``options.interactions`` and ``options.items``.

    A source is ``movielens-100k``, a folder (RecBole atomic files, MovieLens, or
    ``interactions`` and ``items`` as CSV, Parquet or folders of Parquet parts), or one interactions
    file beside which ``options.items`` names the other.

    Raises:
        AssetError: if the package with MovieLens 100K is missing or has other bytes.
        ConfigError: if the source is not one that is read from files.
        DataError: if a file is missing, empty, of an unknown kind, or one of several.
    """
    if options.source in ("movielens-100k", "synthetic", ""):
        return _built_in(options)
    root = Path(options.source).expanduser()
    if not root.exists():
        raise DataError(
            f"{root}: no such file or folder; expected movielens-100k, synthetic, the path of a "
            "folder or an interactions file, or the URL of a database or object store"
        )
    if root.is_dir() and root.suffix != ".parquet":
        interactions = _named(root, options.interactions, "interactions")
        items = _named(root, options.items, "items")
        return _source(
            root.resolve().name,
            interactions or _found(root, "interactions"),
            items or _found(root, "items"),
        )
    if options.interactions:
        raise ConfigError(
            f"data.interactions is {options.interactions!r}, but data.source is already a file, "
            f"{root}; leave data.interactions out, or give the folder as data.source"
        )
    items = _named(root.parent, options.items, "items")
    if items is None:
        raise DataError(
            f"{root}: this is one file of interactions; name the file of items with --items FILE, "
            "or give a folder that holds both"
        )
    return _source(root.stem, _file(root, "interactions"), items)


def _built_in(options: DataSection) -> Source:
    if options.source != "movielens-100k":
        raise ConfigError(
            f"data.source is {options.source!r}, which is not read from files; expected "
            "movielens-100k or a path"
        )
    if options.interactions or options.items:
        raise ConfigError(
            "data.source is movielens-100k, which has its own files; leave data.interactions and "
            "data.items out, or give a folder as data.source"
        )
    folder = "recbole/dataset_example/ml-100k"
    interactions = package_file("recbole", f"{folder}/ml-100k.inter", ML100K_INSTALL)
    items = package_file("recbole", f"{folder}/ml-100k.item", ML100K_INSTALL)
    for path, digest in ((interactions, ML100K_INTERACTIONS_SHA256), (items, ML100K_ITEMS_SHA256)):
        if not path.is_file():
            raise AssetError(f"{path}: missing from package recbole; {ML100K_INSTALL}")
        require_hash(path, digest, f"MovieLens 100K ({ML100K_INSTALL})")
    return Source(
        name="movielens-100k",
        interactions=SourceFile(interactions, "recbole"),
        items=SourceFile(items, "recbole"),
        notices=(ML100K_LICENCE,),
    )


def _source(name: str, interactions: SourceFile, items: SourceFile) -> Source:
    """The whole source: what lies beside the two files under a name that its format fixes."""
    source = Source(name, interactions, items, movielens=items.path.name in MOVIELENS_ITEMS)
    if interactions.kind == "recbole":
        source = replace(source, users=_beside(interactions.path.with_suffix(".user"), "users"))
    elif interactions.path.name == "ratings.dat":
        source = replace(source, users=_beside(interactions.path.with_name("users.dat"), "users"))
    if items.path.name == "movies.csv":
        source = replace(source, links=_beside(items.path.with_name("links.csv"), "links"))
    return source


def _beside(path: Path, part: Part) -> SourceFile | None:
    return _file(path, part) if path.exists() else None


def _named(folder: Path, given: str, part: Part) -> SourceFile | None:
    if not given:
        return None
    path = folder / Path(given).expanduser()
    if not path.exists():
        raise DataError(
            f"{path}: no such file; data.{part} is {given!r}, expected a file inside {folder} or "
            "an absolute path"
        )
    return _file(path, part)


def _found(folder: Path, part: Part) -> SourceFile:
    patterns = PATTERNS[part]
    paths = [path for pattern in patterns for path in sorted(folder.glob(pattern))]
    if len(paths) == 1:
        return _file(paths[0], part)
    if not paths:
        raise DataError(
            f"{folder}: no file of {part} in this folder; expected one of {', '.join(patterns)}; "
            f"if it has another name, give it with --{part} FILE"
        )
    names = ", ".join(path.name for path in paths)
    raise DataError(
        f"{folder}: several files could be the {part}: {names}; choose one with --{part} FILE"
    )


def _file(path: Path, part: Part) -> SourceFile:
    if path.is_dir():
        return SourceFile(path, "parquet", parts=parts_of(path))
    kind = KINDS.get(path.suffix.lower())
    if kind is None:
        raise DataError(
            f"{path}: unknown kind of file {path.suffix!r}; expected one of {', '.join(KINDS)}"
        )
    if not path.is_file():
        raise DataError(f"{path}: not a file; expected the file of {part}")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty; expected {part}, one a row")
    return SourceFile(path, kind, DAT_COLUMNS.get(part, ()) if kind == "dat" else ())
