"""Filters: conditions on public attributes, as a person writes them and as masks of a catalogue."""

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from client.recommend.attributes import Attributes
from client.recommend.query import Filter
from shared.catalogue import Catalogue
from shared.errors import ConfigError

FORM = re.compile(r"\s*(?P<column>[^<>=]+?)\s*(?P<sign>>=|<=|=)\s*(?P<value>.*\S)\s*", re.DOTALL)


def parse_filter(text: str) -> Filter:
    """A filter from its text form: ``genres=Comedy|Drama``, ``year>=1990`` or ``year<=1999``.

    Raises:
        ConfigError: if it has another form.
    """
    found = FORM.fullmatch(text)
    if found is None:
        raise ConfigError(
            f"filter {text!r}: expected COLUMN=TERM, COLUMN=TERM|TERM, COLUMN>=NUMBER or "
            "COLUMN<=NUMBER"
        )
    column, sign, value = found["column"], found["sign"], found["value"]
    if sign == "=":
        terms = tuple(term.strip().casefold() for term in value.split("|") if term.strip())
        return Filter(column, any_of=terms)
    try:
        bound = float(value)
    except ValueError:
        raise ConfigError(f"filter {text!r}: {value!r} is no number") from None
    if not np.isfinite(bound):
        raise ConfigError(f"filter {text!r}: {value!r} is no finite number")
    return Filter(column, least=bound) if sign == ">=" else Filter(column, most=bound)


def allowed_items(
    filters: Sequence[Filter], catalogue: Catalogue, attributes: Attributes
) -> npt.NDArray[np.bool_] | None:
    """``[items] bool``: which items satisfy all filters; None where there is no filter.

    A title has a term when the term occurs in it; another attribute when one of its terms, or the
    whole value, is the term. Upper and lower case are the same.

    Raises:
        ConfigError: if the catalogue has no such column; says which there are.
    """
    if not filters:
        return None
    allowed = np.ones(len(catalogue), dtype=np.bool_)
    for one in filters:
        if one.column != "title" and one.column not in catalogue.attributes:
            there = ", ".join(("title", *attributes.columns))
            raise ConfigError(f"filter on {one.column!r}: the catalogue has {there}")
        if one.any_of:
            allowed &= _with_terms(one, catalogue, attributes)
        if one.least is not None or one.most is not None:
            if one.column == "title":
                raise ConfigError("filter on 'title': a title is no number")
            numbers = attributes.numbers(one.column)
            # NaN compares False: an item without the number does not satisfy a bound on it.
            if one.least is not None:
                allowed &= numbers >= one.least
            if one.most is not None:
                allowed &= numbers <= one.most
    return allowed


def _with_terms(one: Filter, catalogue: Catalogue, attributes: Attributes) -> npt.NDArray[np.bool_]:
    if one.column == "title":
        found = [any(t in title.casefold() for t in one.any_of) for title in catalogue.titles]
        return np.array(found, dtype=np.bool_)
    wanted = set(one.any_of)
    # Values repeat; each is split once.
    answers: dict[str, bool] = {}
    values = catalogue.attributes[one.column]
    for place, value in enumerate(values):
        if value not in answers:
            terms = {term.casefold() for term in attributes.terms(one.column, place)}
            answers[value] = bool(wanted & (terms | {value.casefold()}))
    return np.array([answers[value] for value in values], dtype=np.bool_)
