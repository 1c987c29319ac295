"""Counts how often one process opens one file, as the kernel tells it (fanotify, Linux)."""

import ctypes
import os
import struct
from pathlib import Path
from types import TracebackType
from typing import Self

FAN_NONBLOCK = 0x2
FAN_MARK_ADD = 0x1
FAN_OPEN = 0x20
AT_FDCWD = -100
# struct fanotify_event_metadata: length, version, reserved, metadata length, mask, file, process.
EVENT = struct.Struct("=IBBHQii")
BUFFER_BYTES = 4096


class Opens:
    """Counts while its block runs.

    Args:
        path: of the file.
        pid: of the process; what others do with the file does not count.
    """

    def __init__(self, path: Path, pid: int) -> None:
        self._pid = pid
        self._counted = 0
        library = ctypes.CDLL(None, use_errno=True)
        self._file = library.fanotify_init(FAN_NONBLOCK, os.O_RDONLY)
        marked = library.fanotify_mark(
            self._file, FAN_MARK_ADD, ctypes.c_uint64(FAN_OPEN), AT_FDCWD, os.fsencode(path)
        )
        if self._file < 0 or marked != 0:
            raise OSError(ctypes.get_errno(), f"{path} cannot be watched")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._file)

    def count(self) -> int:
        """Times that the process has opened the file so far."""
        while True:
            try:
                data = os.read(self._file, BUFFER_BYTES)
            except BlockingIOError:
                return self._counted
            while data:
                length, _, _, _, _, opened, pid = EVENT.unpack_from(data)
                os.close(opened)
                self._counted += pid == self._pid
                data = data[length:]
