"""Which column means what: named by the configuration, or guessed from usual names."""

import re
from dataclasses import dataclass

from client.data.tables import Table
from shared.errors import DataError


@dataclass(frozen=True)
class Meaning:
    """What a column can mean.

    Attributes:
        noun: what the column holds, in the plural, for errors.
        flag: the command-line option that names the column.
        guesses: usual names without case and punctuation, the likeliest first.
    """

    noun: str
    flag: str
    guesses: tuple[str, ...]


_ITEMS = (
    "item itemid movie movieid film filmid product productid book bookid article articleid song "
    "songid track trackid video videoid content contentid document documentid sku asin isbn"
)
_USERS = (
    "user userid uid customer customerid member memberid account accountid visitor visitorid "
    "reviewer reviewerid reader readerid patron patronid"
)
_TITLES = (
    "title name movietitle filmtitle booktitle producttitle itemtitle articletitle songtitle "
    "tracktitle videotitle itemname productname moviename bookname headline"
)
USER = Meaning("users", "--user-column", tuple(_USERS.split()))
ITEM = Meaning("items", "--item-column", tuple(_ITEMS.split()))
ITEM_IN_CATALOGUE = Meaning("items", "--item-column", (*ITEM.guesses, "id"))
TIME = Meaning("times", "--time-column", ("timestamp", "time", "date", "datetime", "createdat"))
RATING = Meaning("ratings", "--rating-column", ("rating", "score", "stars"))
TITLE = Meaning("titles", "--title-column", tuple(_TITLES.split()))
KEY = Meaning("keys that match items across organisations", "--key-column", ("key",))


def guess(table: Table, meaning: Meaning) -> str | None:
    """The column that by its name has this meaning, or None."""
    plain = {_plain(column): column for column in reversed(tuple(table.columns))}
    return next((plain[name] for name in meaning.guesses if name in plain), None)


def named(table: Table, meaning: Meaning, given: str) -> str:
    """The column called ``given``; case counts only where two names differ by nothing else.

    Raises:
        DataError: if there is none.
    """
    if given in table.columns:
        return given
    alike = [column for column in table.columns if column.casefold() == given.casefold()]
    if len(alike) != 1:
        raise DataError(
            f"{table.origin.place}: no column {given!r} of {meaning.noun}; {table.listing()}; name "
            f"one of them with {meaning.flag} NAME"
        )
    return alike[0]


def optional(table: Table, meaning: Meaning, given: str) -> str | None:
    """The column that is named or guessed, or None where none is named and none is guessed."""
    return named(table, meaning, given) if given else guess(table, meaning)


def required(table: Table, meaning: Meaning, given: str = "") -> str:
    """The column that is named or guessed.

    Raises:
        DataError: if there is none.
    """
    column = optional(table, meaning, given)
    if column is None:
        raise DataError(
            f"{table.origin.place}: cannot tell which column holds {meaning.noun}; "
            f"{table.listing()}; name one of them with {meaning.flag} NAME"
        )
    return column


def has(table: Table, given: str) -> bool:
    """Whether ``named`` would find a column of this name."""
    return given in table.columns or (
        sum(column.casefold() == given.casefold() for column in table.columns) == 1
    )


def _plain(column: str) -> str:
    return re.sub(r"[\W_]", "", column).casefold()
