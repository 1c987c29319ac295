"""The one door to every source: files, object stores and databases, open while they are read."""

from collections.abc import Iterator
from contextlib import contextmanager

from client.data.address import is_address, resolve
from client.data.databases import SCHEMES, open_database
from client.data.formats import Source, recognise
from client.data.objects import copied
from shared.config import DataSection
from shared.errors import ConfigError


@contextmanager
def opened(options: DataSection) -> Iterator[Source]:
    """The interactions and items that ``options`` describes, for as long as the block lasts.

    Raises:
        AssetError: if the package with MovieLens 100K is missing or has other bytes.
        ConfigError: if the source is of no kind that is read, a package for it is missing, or its
            URL is not well-formed.
        DataError: if it cannot be reached, or a file is missing, empty or of an unknown kind.
    """
    address = resolve(options.source, "data.source") if is_address(options.source) else None
    if address and address.scheme in SCHEMES:
        with open_database(address, options) as source:
            yield source
        return
    for name in ("interactions_query", "items_query"):
        if getattr(options, name):
            raise ConfigError(
                f"data.{name} is given, but data.source, {address or options.source}, is no "
                f"database; leave it out, or give the URL of one of {', '.join(SCHEMES)}"
            )
    if address or is_address(options.interactions) or is_address(options.items):
        with copied(options) as local:
            yield recognise(local)
        return
    yield recognise(options)
