"""Arrays on the wire are numpy's own bytes, and only what numpy would read is read."""

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from flwr.app import Array, ArrayRecord
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from shared.errors import FederationError
from shared.wire import NUMPY, arrays_sha256, pack_arrays, unpack_arrays

ARRAYS = st.sampled_from(["<f4", "<f8", "<u8", "<i8", "|b1", ">f4", "<U3"]).flatmap(
    lambda dtype: arrays_of.arrays(dtype, arrays_of.array_shapes(min_dims=0, min_side=0))
)


def numpys_bytes(value: npt.NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, value, allow_pickle=False)
    return stream.getvalue()


def record(data: bytes) -> ArrayRecord:
    return ArrayRecord({"a": Array("float32", (1,), NUMPY, data)})


@given(ARRAYS)
def test_packed_arrays_are_what_numpy_writes(value: npt.NDArray[Any]) -> None:
    packed = pack_arrays({"a": value})["a"]
    assert packed.data == numpys_bytes(np.asarray(value, order="C"))
    assert (packed.dtype, packed.shape, packed.stype) == (str(value.dtype), value.shape, NUMPY)


@given(ARRAYS)
def test_packed_arrays_come_back_and_can_be_written_to(value: npt.NDArray[Any]) -> None:
    found = unpack_arrays(pack_arrays({"a": value}))["a"]
    assert (found.dtype, found.shape) == (value.dtype, value.shape)
    assert found.tobytes() == value.tobytes()
    assert found.flags.writeable


def test_arrays_by_columns_come_back() -> None:
    value = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    assert (unpack_arrays(record(numpys_bytes(value)))["a"] == value).all()


def test_two_arrays_from_one_message_share_nothing() -> None:
    packed = pack_arrays({"a": np.zeros(3)})
    unpack_arrays(packed)["a"][:] = 1.0
    assert (unpack_arrays(packed)["a"] == 0.0).all()


@given(st.binary(max_size=200), st.integers(0, 199), st.sampled_from([b"", b"(", b"9", b"-1"]))
def test_changed_bytes_are_read_as_numpy_reads_them_or_refused(
    tail: bytes, place: int, change: bytes
) -> None:
    good = numpys_bytes(np.arange(12, dtype=np.float32).reshape(3, 4)) + tail
    data = good[:place] + change + good[place + len(change) :]
    try:
        expected = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except Exception:
        with pytest.raises(FederationError, match="cannot be read"):
            unpack_arrays(record(data))
    else:
        found = unpack_arrays(record(data))["a"]
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("shape", [(3, 5), (99_999_999_999,), (-1, 4), (-3, -4), (12.0,)])
def test_a_shape_that_the_bytes_do_not_fill_is_refused(shape: tuple[Any, ...]) -> None:
    stream = io.BytesIO()
    layout = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, layout)
    with pytest.raises(FederationError, match="cannot be read"):
        unpack_arrays(record(stream.getvalue() + bytes(48)))


def test_objects_are_neither_sent_nor_read() -> None:
    stream = io.BytesIO()
    np.save(stream, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(FederationError, match="cannot be read"):
        unpack_arrays(record(stream.getvalue()))
    with pytest.raises(FederationError, match="cannot be sent"):
        pack_arrays({"a": np.array([{}], dtype=object)})


def test_the_hash_tells_names_types_shapes_and_values_apart() -> None:
    one = np.array([[1.0, 2.0]], dtype=np.float32)
    others: list[dict[str, npt.NDArray[Any]]] = [
        {"a": one},
        {"b": one},
        {"a": one.T},
        {"a": one.astype(np.float64)},
        {"a": one * 2},
        {"a": one, "b": one[:0]},
    ]
    assert len({arrays_sha256(arrays) for arrays in others}) == len(others)


def test_the_hash_does_not_depend_on_how_an_array_lies_in_memory() -> None:
    value = np.arange(6.0).reshape(2, 3)
    assert arrays_sha256({"a": value}) == arrays_sha256({"a": np.asfortranarray(value)})
