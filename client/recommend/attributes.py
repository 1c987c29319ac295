"""Terms and numbers in a catalogue's public attributes: what filters and themes are made of."""

import re
from collections import Counter
from collections.abc import Mapping
from functools import cached_property

import numpy as np
import numpy.typing as npt

from shared.catalogue import Catalogue

# A column whose terms have more words than this on average is prose.
LONGEST_MEAN = 3
SEPARATORS = re.compile(r"\s*[|;,/]\s*")


class Attributes:
    """The attributes of a catalogue, split into terms once.

    A value is split at ``| ; , /``: ``"Action, Sci-Fi"`` has the terms ``Action`` and ``Sci-Fi``.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the attributes; the title is none."""
        return tuple(self._catalogue.attributes)

    def terms(self, column: str, place: int) -> tuple[str, ...]:
        """The terms of one item, as they are written; the title whole."""
        if column == "title":
            return (self._catalogue.titles[place],)
        return tuple(t for t in SEPARATORS.split(self._catalogue.attributes[column][place]) if t)

    def numbers(self, column: str) -> npt.NDArray[np.float64]:
        """``[items] float64`` values of a column; NaN where one is no number."""
        return np.array([_number(v) for v in self._catalogue.attributes[column]], dtype=np.float64)

    @cached_property
    def frequency(self) -> Mapping[tuple[str, str], int]:
        """How many items have a term, by ``(column, term)``: the terms that can be themes.

        Numbers are none, nor what one item alone has, nor parts of a column of prose.
        """
        counts: dict[tuple[str, str], int] = {}
        for column, values in self._catalogue.attributes.items():
            own = Counter(
                term
                for value in values
                for term in set(SEPARATORS.split(value))
                if term and np.isnan(_number(term))
            )
            words = sum(len(term.split()) * count for term, count in own.items())
            if words <= LONGEST_MEAN * own.total():
                counts |= {(column, term): count for term, count in own.items() if count > 1}
        return counts


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")
