"""Columns of private data: in memory, or on disk in files without a name where they are large."""

import operator
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from shared.errors import DataError

Array = npt.NDArray[Any]

# Of the columns that are made together; larger ones go to disk.
IN_MEMORY_BYTES = 2**24
_IDS_AT_A_TIME = 4096


def stacked(
    blocks: Iterable[Sequence[Array]], dtypes: Sequence[npt.DTypeLike], folder: Path | None
) -> tuple[Array, ...]:
    """Columns from their consecutive blocks, one array of each column in every block.

    Beyond ``IN_MEMORY_BYTES`` together they are mapped from files in ``folder``, which cost disk
    and no memory. Such a file has no name: nobody else can open it, it is never found half-written,
    and it is gone with the last array on it, also where the process is killed.

    Args:
        blocks: read once, one at a time.
        dtypes: of the columns.
        folder: on a disk of the data's owner; None keeps columns of any size in memory.

    Raises:
        DataError: if ``folder`` does not take the files.
    """
    kept: list[list[Array]] = []
    files: list[BinaryIO] = []
    size = 0
    try:
        with ExitStack() as stack:
            for block in blocks:
                kept.append([np.asarray(v, d) for v, d in zip(block, dtypes, strict=True)])
                size += sum(values.nbytes for values in kept[-1])
                if folder is None or size <= IN_MEMORY_BYTES:
                    continue
                if not files:
                    files = [
                        stack.enter_context(tempfile.TemporaryFile(dir=folder)) for _ in dtypes
                    ]
                for part in kept:
                    for file, values in zip(files, part, strict=True):
                        file.write(np.ascontiguousarray(values).data)
                kept.clear()
            return tuple(map(_mapped, files, dtypes)) if files else _joined(kept, dtypes)
    except OSError as error:
        raise DataError(
            f"{folder}: found no room for the histories, which are too large to be held in memory "
            f"({error}); free disk space there, and let this user write to the folder"
        ) from error


def _joined(
    blocks: Sequence[Sequence[Array]], dtypes: Sequence[npt.DTypeLike]
) -> tuple[Array, ...]:
    if len(blocks) == 1:
        return tuple(blocks[0])
    columns = zip(*blocks, strict=True) if blocks else ((np.empty(0, d),) for d in dtypes)
    return tuple(np.concatenate(column) for column in columns)


def _mapped(file: BinaryIO, dtype: npt.DTypeLike) -> Array:
    file.flush()
    # The mapping keeps the file; the view is a plain array, whose copies are plain too.
    return np.asarray(np.memmap(file, dtype, mode="r")) if file.tell() else np.empty(0, dtype)


class UserIds(Sequence[str]):
    """Texts that cost no Python object each until they are asked for.

    Args:
        texts: in the order of the users.
    """

    def __init__(self, texts: pa.LargeStringArray) -> None:
        self._texts = texts

    @classmethod
    def of(cls, ids: Sequence[str]) -> "UserIds":
        """The same texts in this form."""
        return ids if isinstance(ids, cls) else cls(pa.array(ids, pa.large_string()))

    @classmethod
    def stacked(cls, blocks: Iterable[pa.Array], folder: Path | None) -> "UserIds":
        """Consecutive blocks as one, on disk where they are large.

        Args:
            blocks: of ``large_string``, without nulls.
            folder: as of ``shared.columns.stacked``.

        Raises:
            DataError: if ``folder`` does not take the files.
        """
        lengths, utf8 = stacked(map(_lengths_and_bytes, blocks), (np.int32, np.uint8), folder)
        bounds = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        buffers = [pa.py_buffer(bounds), pa.py_buffer(utf8)]
        return cls(pa.LargeStringArray.from_buffers(len(lengths), *buffers))

    @classmethod
    def joined(cls, *parts: "UserIds") -> "UserIds":
        """One after the other."""
        return cls(pa.concat_arrays([part._texts for part in parts]))

    def take(self, places: npt.NDArray[np.int64]) -> "UserIds":
        """Those at some places, in the order given."""
        return UserIds(self._texts.take(pa.array(places)))

    def __len__(self) -> int:
        return len(self._texts)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[str, ...]: ...
    def __getitem__(self, place: int | slice) -> str | tuple[str, ...]:
        if isinstance(place, slice):
            return tuple(self._texts[place].to_pylist())
        return str(self._texts[operator.index(place)])

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _IDS_AT_A_TIME):
            yield from self._texts[start : start + _IDS_AT_A_TIME].to_pylist()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and bool(self._texts.equals(UserIds.of(other)._texts))

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __arrow_array__(self, type: pa.DataType | None = None) -> pa.Array:
        return self._texts if type is None else self._texts.cast(type)

    def __repr__(self) -> str:
        return f"<{len(self)} user ids>"


def _lengths_and_bytes(texts: pa.Array) -> tuple[Array, Array]:
    _, bounds, utf8 = texts.buffers()
    edges = np.frombuffer(bounds, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    letters = np.frombuffer(utf8, np.uint8) if utf8 is not None else np.empty(0, np.uint8)
    return np.diff(edges), letters[edges[0] : edges[-1]]
