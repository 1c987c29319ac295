"""Messages between machines and processes: named fields and named arrays, whatever they mean.

A ``Parcel`` travels as Flower's records, or as the bytes of one safetensors file whose metadata
hold the fields. The courier between Flower and the agent needs no more than this module: it knows
neither plans nor models.
"""

import functools
import hashlib
import io
import json
import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from tokenize import TokenError
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from safetensors import SafetensorError
from safetensors.numpy import load, save

from shared.errors import FederationError
from shared.stages import stage

JOIN = "query.join"
PLAN = "query.plan"
POPULARITY = "query.popularity"
COOCCURRENCE = "query.cooccurrence"
DELIVER_STATISTICS = "query.deliver_statistics"
TRAIN = "train"
EVALUATE = "evaluate"
DELIVER_ADAPTER = "query.deliver_adapter"

# A secure sum takes four messages; the third, the masked input, is the release's own.
KEYS, SHARES, UNMASK = PHASES = ("keys", "shares", "unmask")
# By the name of the mechanism, the message that asks for it.
SUMMED = {
    "popularity": POPULARITY,
    "cooccurrence": COOCCURRENCE,
    "step": TRAIN,
    "evaluation": EVALUATE,
}


def phase_kind(phase: str, mechanism: str) -> str:
    """Kind of the message that asks for a phase of a secure sum."""
    return f"query.{phase}_{mechanism}"


PHASE_OF = {phase_kind(phase, name): (phase, name) for phase in PHASES for name in SUMMED}

# The calls of an agent's interface, and which messages each answers.
CALLS = {
    "plan": (JOIN, PLAN),
    "statistics": (POPULARITY, COOCCURRENCE),
    "train": (TRAIN,),
    "evaluate": (EVALUATE,),
    "aggregate": tuple(PHASE_OF),
    "deliver": (DELIVER_STATISTICS, DELIVER_ADAPTER),
}

# Beyond Flower's own codes: the organisation refused; its agent was not there; it had no answer.
REFUSED, UNREACHABLE, FAILED = 1000, 1001, 1002
LONGEST_REASON = 2000

# How Flower names the serialisation of numpy arrays.
NUMPY = "numpy.ndarray"

# Key of the fields in a safetensors file's metadata.
METADATA = "tacit"
# Fields are a plan, settings, an anchor, names: a few kilobytes.
LARGEST_HEADER_BYTES = 4 * 1024**2

# How long numpy makes the header of an array of a few dimensions.
HEADER_BYTES = 128
_LENGTH = struct.pack("<H", HEADER_BYTES - 10)

# What numpy raises over hostile headers, which it reads as Python literals.
UNREADABLE = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    EOFError,
    OverflowError,
    MemoryError,
    RecursionError,
    SyntaxError,
    TokenError,
)

AnyArrays = Mapping[str, npt.NDArray[Any]]
Fields = Mapping[str, str | int]


@dataclass(frozen=True)
class Parcel:
    """What one message carries.

    Attributes:
        fields: texts and whole numbers, by name.
        arrays: by name.
    """

    fields: Fields
    arrays: AnyArrays


class AgentAccess(Protocol):
    """An organisation's agent, in this process or behind its socket."""

    def ask(self, kind: str, request: Parcel) -> Parcel:
        """Answer a request of a kind (``shared.messages``).

        Raises:
            TacitError: with a sentence that may leave the organisation.
        """
        ...


def to_records(parcel: Parcel, name: str) -> RecordDict:
    """Flower's records of a parcel; its fields in the one called ``name``."""
    with stage("serialise"):
        return RecordDict(
            {name: ConfigRecord(dict(parcel.fields)), "arrays": pack_arrays(parcel.arrays)}
        )


def from_records(content: RecordDict, name: str, only: Iterable[str] | None = None) -> Parcel:
    """The parcel in Flower's records.

    Args:
        content: of a message.
        name: of the record that holds its fields.
        only: names of the arrays that are needed; None reads all.

    Raises:
        FederationError: if a record is missing, another is there, or an array cannot be read.
    """
    fields, record = content.get(name), content.get("arrays")
    if not isinstance(fields, ConfigRecord):
        raise FederationError(f"message: it carries no record named {name}")
    if not isinstance(record, ArrayRecord):
        raise FederationError("message: it carries no record named arrays")
    if len(content) != 2:
        raise FederationError(f"message: it carries further records: {sorted(content)}")
    wanted = record if only is None else [n for n in only if n in record]
    with stage("serialise"):
        return Parcel(_texts_and_numbers(fields), {n: _values(n, record[n]) for n in wanted})


def to_bytes(parcel: Parcel) -> bytes:
    """A parcel as one safetensors file."""
    arrays = {name: np.asarray(value, order="C") for name, value in parcel.arrays.items()}
    return save(arrays, {METADATA: json.dumps(dict(parcel.fields))})


def from_bytes(data: bytes) -> Parcel:
    """The parcel in a safetensors file.

    Raises:
        FederationError: if it is none.
    """
    try:
        (length,) = struct.unpack("<Q", data[:8])
        if length > LARGEST_HEADER_BYTES:
            raise ValueError(f"its header of {length} bytes is too long")
        fields = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][METADATA])
        if not isinstance(fields, dict):
            raise TypeError("its fields are no table")
        return Parcel(_texts_and_numbers(fields), load(data))
    except (*UNREADABLE, struct.error, SafetensorError) as error:
        raise FederationError(f"message: its bytes cannot be read ({error})") from error


def pack_arrays(arrays: AnyArrays) -> ArrayRecord:
    """Arrays as Flower carries them."""
    with stage("serialise"):
        return ArrayRecord({n: _packed(np.asarray(v, order="C")) for n, v in arrays.items()})


def unpack_arrays(record: ArrayRecord) -> dict[str, npt.NDArray[Any]]:
    """Arrays from Flower's record.

    Raises:
        FederationError: names an array whose bytes cannot be read.
    """
    with stage("serialise"):
        return {name: _values(name, array) for name, array in record.items()}


def arrays_sha256(arrays: AnyArrays) -> str:
    """Hash over names, types, shapes and values, in order of name."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        value = np.asarray(arrays[name], order="C")
        digest.update(_named(name, value.dtype.str, value.shape))
        digest.update(value.data)
    return digest.hexdigest()


@functools.lru_cache(maxsize=256)
def _named(name: str, dtype: str, shape: tuple[int, ...]) -> bytes:
    """What goes before an array's values, so that no two sets of arrays give the same bytes."""
    return json.dumps([name, dtype, list(shape)]).encode() + b"\n"


def halved(arrays: AnyArrays) -> dict[str, npt.NDArray[Any]]:
    """Arrays rounded to float16; what lies beyond its range goes to the range's end."""
    most = np.finfo(np.float16).max
    return {name: np.clip(value, -most, most).astype(np.float16) for name, value in arrays.items()}


def are_halved(arrays: AnyArrays) -> bool:
    """Whether there are arrays and all of them are float16."""
    return bool(arrays) and all(value.dtype == np.float16 for value in arrays.values())


def widened(arrays: AnyArrays) -> dict[str, npt.NDArray[Any]]:
    """Arrays of float16 as float32, which is exact; others as they are."""
    return {
        name: value.astype(np.float32) if value.dtype == np.float16 else value
        for name, value in arrays.items()
    }


def size_bytes(arrays: AnyArrays) -> int:
    """Bytes of the arrays' values, without framing."""
    return sum(value.nbytes for value in arrays.values())


def _texts_and_numbers(fields: Mapping[Any, Any]) -> dict[str, str | int]:
    found: dict[str, str | int] = {}
    for name, value in fields.items():
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise FederationError(f"message: field {str(name)[:100]} is no text or whole number")
        found[str(name)] = value
    return found


def _packed(value: npt.NDArray[Any]) -> Array:
    """As ``Array.from_numpy_ndarray``, with headers that are not written anew for every message."""
    if value.dtype.hasobject:
        raise FederationError(f"arrays of {value.dtype} cannot be sent")
    data = _header(value.dtype, value.shape) + value.tobytes()
    return Array(str(value.dtype), value.shape, NUMPY, data)


@functools.lru_cache(maxsize=256)
def _header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    stream = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(dtype)
    np.lib.format.write_array_header_1_0(
        stream, {"descr": descr, "fortran_order": False, "shape": shape}
    )
    return stream.getvalue()


def _values(name: str, array: Array) -> npt.NDArray[Any]:
    if array.stype != NUMPY:
        raise FederationError(f"array {name}: serialised as {array.stype!r}, expected {NUMPY!r}")
    try:
        layout = _layout(array.data[:HEADER_BYTES])
        if layout is None:
            # Not numpy.load, which also opens archives and pickles.
            return np.lib.format.read_array(io.BytesIO(array.data), allow_pickle=False)
        dtype, shape = layout
        flat = np.frombuffer(array.data, dtype, math.prod(shape), HEADER_BYTES)
        return flat.reshape(shape).copy()
    except UNREADABLE as error:
        raise FederationError(f"array {name}: its bytes cannot be read ({error})") from error


@functools.lru_cache(maxsize=256)
def _layout(header: bytes) -> tuple[np.dtype[Any], tuple[int, ...]] | None:
    """Type and shape in a header as numpy writes it; None for any other, which numpy may read."""
    stream = io.BytesIO(header)
    if np.lib.format.read_magic(stream) != (1, 0) or header[8:10] != _LENGTH:
        return None
    shape, by_columns, dtype = np.lib.format.read_array_header_1_0(stream)
    usual = not (by_columns or dtype.hasobject or dtype.itemsize == 0 or min(shape, default=1) < 1)
    return (dtype, shape) if usual else None
