"""The public side of the data: items, their texts, and keys that match them across houses."""

import hashlib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt


def normalised_text(text: str) -> str:
    """Case-folded NFKC text with single spaces, whose hash matches an item across houses."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def key_hash(key: str) -> int:
    """First 8 bytes of SHA-256 of ``key`` as an unsigned integer."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")


@dataclass(frozen=True)
class Catalogue:
    """Items of one organisation, in a fixed order that every array of items follows. All public.

    Attributes:
        item_ids: the organisation's own identifiers, as text.
        titles: what a person calls the item.
        attributes: further public text columns, ``{column: one value per item}`` (for example
            ``year``, ``genres``); empty strings where an item has none.
        keys: an identifier shared between organisations (IMDb id, ISBN, SKU), or None for the
            hash of the normalised text.
    """

    item_ids: tuple[str, ...]
    titles: tuple[str, ...]
    attributes: Mapping[str, tuple[str, ...]]
    keys: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.item_ids)

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """One text per item: ``Title (year). Column: value. Column: value.``"""
        years = self.attributes.get("year") or ("",) * len(self)
        return tuple(self._text(i, year) for i, year in enumerate(years))

    def _text(self, index: int, year: str) -> str:
        head = self.titles[index] if not year else f"{self.titles[index]} ({year})"
        rest = [
            f"{name.replace('_', ' ').capitalize()}: {values[index]}."
            for name, values in self.attributes.items()
            if name != "year" and values[index]
        ]
        return ". ".join([head, " ".join(rest)]) if rest else head

    @cached_property
    def key_hashes(self) -> npt.NDArray[np.uint64]:
        """``[items] uint64``: what stands for an item in a message."""
        keys: Sequence[str] = self.keys or tuple(normalised_text(t) for t in self.texts)
        return np.fromiter((key_hash(k) for k in keys), dtype=np.uint64, count=len(self))
