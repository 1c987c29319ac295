"""Files in object stores and behind HTTP: copied into a private folder, then read like others."""

import fnmatch
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec

from client.data.address import Address, is_address, resolve
from client.data.formats import BESIDE, PATTERNS
from shared.config import DataSection
from shared.errors import ConfigError, DataError, TacitError

_PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "http": "aiohttp",
    "https": "aiohttp",
}


@contextmanager
def copied(options: DataSection) -> Iterator[DataSection]:
    """Copy what ``options`` names by URL; the same options with local paths, inside the block.

    The copies lie in a folder of the system's place for temporary files (``TMPDIR``) that only
    this user can read, and go when the block ends. A folder is not copied whole: only files that
    could be interactions or items are.

    Raises:
        ConfigError: if the package for a kind of URL is missing, or the kind is unknown.
        DataError: if something cannot be fetched. Errors of the block name URLs, not copies.
    """
    with tempfile.TemporaryDirectory(prefix="tacit-") as folder:
        copier = _Copier(Path(folder))
        try:
            yield copier.local(options)
        except DataError as error:
            raise DataError(copier.renamed(str(error))) from error


class _Copier:
    """Copies of files in one folder, and which URL each comes from."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._shown: dict[str, str] = {}

    def local(self, options: DataSection) -> DataSection:
        """Options that name the copies."""
        changed = {}
        for name in ("interactions", "items"):
            given = getattr(options, name)
            if is_address(given):
                changed[name] = str(self._whole(resolve(given, f"data.{name}")))
        if is_address(options.source):
            address = resolve(options.source, "data.source")
            with _reported(address):
                system, path = _system(address)
                if system.isdir(path):
                    wanted = [
                        given
                        for name in ("interactions", "items")
                        if name not in changed and (given := getattr(options, name))
                    ]
                    changed["source"] = str(self._chosen(address, system, path, wanted))
                else:
                    changed["source"] = str(self._whole(address))
                    if options.items and "items" not in changed:
                        beside = f"{path.rpartition('/')[0]}/{options.items}"
                        target = Path(changed["source"]).parent / options.items
                        self._copy(system, beside, target)
        return options.model_copy(update=changed)

    def renamed(self, sentence: str) -> str:
        """A sentence with URLs in the place of copies."""
        for copy, shown in sorted(self._shown.items(), key=lambda pair: -len(pair[0])):
            sentence = sentence.replace(copy, shown)
        return sentence

    def _place(self, address: Address) -> Path:
        """A new folder for what comes from an address, under the name that it has there."""
        parent = self._folder / str(len(self._shown))
        name = PurePosixPath(address.shown.partition("://")[2].rstrip("/")).name or "data"
        self._shown[str(parent / name)] = address.shown.rstrip("/")
        self._shown[str(parent)] = address.shown.rstrip("/").rpartition("/")[0]
        parent.mkdir()
        return parent / name

    def _whole(self, address: Address) -> Path:
        """The copy of one file, or of one folder of parts."""
        target = self._place(address)
        with _reported(address):
            system, path = _system(address)
            self._copy(system, path, target)
        return target

    def _chosen(self, address: Address, system: Any, path: str, wanted: list[str]) -> Path:
        """Copies of what a folder holds that could be interactions or items, or is named."""
        patterns = [pattern for of_part in PATTERNS.values() for pattern in of_part]
        target = self._place(address)
        target.mkdir()
        for entry in system.ls(path, detail=False):
            name = PurePosixPath(entry).name
            usual = any(fnmatch.fnmatchcase(name, p) for p in (*patterns, *BESIDE))
            if usual and name not in wanted:
                self._copy(system, entry, target / name)
        for name in wanted:
            self._copy(system, f"{path.rstrip('/')}/{name}", target / name)
        return target

    def _copy(self, system: Any, path: str, target: Path) -> None:
        if self._folder not in target.resolve().parents:
            raise DataError(f"{path}: leads out of the folder; give its whole URL")
        target.parent.mkdir(parents=True, exist_ok=True)
        if not system.isdir(path):
            system.get_file(path, str(target))
            return
        target.mkdir()
        for entry in system.find(path):
            relative = PurePosixPath(entry).relative_to(PurePosixPath(path))
            self._copy(system, entry, target / relative)


def _system(address: Address) -> tuple[Any, str]:
    if "::" in address.url:
        raise ConfigError(
            f"{address}: chained URLs with :: are not read, since some of them keep copies; give "
            "the URL of the files themselves"
        )
    system, path = fsspec.url_to_fs(address.url)
    return system, path


@contextmanager
def _reported(address: Address) -> Iterator[None]:
    """Sentences in the place of what fsspec and the libraries below it raise."""
    try:
        yield
    except TacitError:
        raise
    except ImportError:
        package = _PACKAGES.get(address.scheme, f"fsspec's package for {address.scheme}://")
        raise ConfigError(
            f"{address}: reading {address.scheme}:// needs the package {package}, which is not "
            f"installed; install it with: pip install {package}"
        ) from None
    except FileNotFoundError:
        raise DataError(f"{address}: nothing there; check the name and the right to see it") from (
            None
        )
    # Every library below fsspec has exceptions of its own, with no common base.
    except Exception as error:
        if isinstance(error, ValueError) and "Protocol not known" in str(error):
            raise ConfigError(
                f"data.source begins with {address.scheme}://, which is neither a database nor an "
                f"object store that can be read; expected one of {', '.join(_PACKAGES)}, or a path"
            ) from None
        raise DataError(
            f"{address}: cannot be fetched ({address.redacted(error)}); check the name, the "
            "network and the credentials"
        ) from None
