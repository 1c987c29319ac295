"""Folders of Parquet parts as Spark and Hadoop jobs leave them: which files, and their keys."""

from pathlib import Path
from urllib.parse import unquote

from shared.errors import DataError

_MAGIC = b"PAR1"
# What Hive and Spark write for a partition whose value is null.
_NULL = "__HIVE_DEFAULT_PARTITION__"


def parts_of(folder: Path) -> tuple[Path, ...]:
    """The data files of a folder of parts, ordered by name; hidden and marker files are no data.

    Raises:
        DataError: if there is none, one is not Parquet, or a job is still writing.
    """
    temporary = folder / "_temporary"
    if temporary.exists():
        raise DataError(
            f"{temporary}: the job that writes this folder has not finished; wait for it, or "
            "remove what it left if it has failed"
        )
    parts = [
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(map(_hidden, path.relative_to(folder).parts))
    ]
    if not parts:
        raise DataError(f"{folder}: no Parquet file in this folder; expected files such as part-0")
    for path in parts:
        with path.open("rb") as file:
            if file.read(4) != _MAGIC:
                raise DataError(
                    f"{path}: not a Parquet file; a folder of parts holds nothing else, apart from "
                    "names that begin with _ or ."
                )
    return tuple(sorted(parts, key=lambda path: path.relative_to(folder).parts))


def keys_of(folder: Path, parts: tuple[Path, ...]) -> dict[str, list[str | None]]:
    """``{partition key: its value for each part}``, from folders ``key=value`` below ``folder``."""
    keys: dict[str, list[str | None]] = {}
    for place, path in enumerate(parts):
        for name in path.relative_to(folder).parts[:-1]:
            key, equals, value = name.partition("=")
            if equals:
                of_parts = keys.setdefault(unquote(key), [None] * len(parts))
                of_parts[place] = None if value == _NULL else unquote(value)
    return keys


def _hidden(name: str) -> bool:
    return name.startswith(".") or (name.startswith("_") and "=" not in name)
