"""The few things of bpf(2) that are needed, by the bare system call."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import platform
import struct
import sys
from typing import Final

from knothole.io.bpf.object import INSTRUCTION, MapDefinition

# <linux/bpf.h>: enum bpf_cmd.
_MAP_CREATE, _MAP_LOOKUP, _MAP_UPDATE, _MAP_DELETE = 0, 1, 2, 3
_PROG_LOAD: Final = 5
_MAP_LOOKUP_BATCH: Final = 24
_LINK_CREATE: Final = 28

_SCHED_CLS: Final = 3  # BPF_PROG_TYPE_SCHED_CLS
_TCX_INGRESS: Final = 46  # BPF_TCX_INGRESS

_NUMBERS: Final = {"x86_64": 321, "aarch64": 280}  # __NR_bpf
_LOG_BYTES: Final = 1 << 20


def unsupported() -> str | None:
    """Why there is no bpf(2) on this system that we know how to call, or None."""
    if sys.platform != "linux":
        return "this system is not Linux"
    if platform.machine() not in _NUMBERS or sys.maxsize < 1 << 32:
        return f"the processor is {platform.machine()}, not x86_64 or aarch64"
    return None


def create_map(definition: MapDefinition, name: str) -> int:
    """The descriptor of a new map. Raises OSError, as everything here does."""
    attributes = struct.pack(
        "=5I4xI16s",
        definition.kind,
        definition.key_size,
        definition.value_size,
        definition.max_entries,
        definition.flags,
        0,
        name.encode("ascii")[:15],
    )
    return _bpf(_MAP_CREATE, attributes)


def update(descriptor: int, key: bytes, value: bytes) -> None:
    """Set or replace one element."""
    keys, values = _buffer(key), _buffer(value)
    _bpf(_MAP_UPDATE, struct.pack("=I4xQQQ", descriptor, _at(keys), _at(values), 0))


def delete(descriptor: int, key: bytes) -> None:
    """Delete one element; FileNotFoundError when it is not there."""
    keys = _buffer(key)
    _bpf(_MAP_DELETE, struct.pack("=I4xQQQ", descriptor, _at(keys), 0, 0))


def look_up(descriptor: int, key: bytes, value_size: int) -> bytes:
    """The value of one element; FileNotFoundError when it is not there."""
    keys, values = _buffer(key), ctypes.create_string_buffer(value_size)
    _bpf(_MAP_LOOKUP, struct.pack("=I4xQQQ", descriptor, _at(keys), _at(values), 0))
    return values.raw


def look_up_first(descriptor: int, count: int, value_size: int) -> bytes:
    """The values of the first ``count`` elements of an array, by one call (Linux 5.6)."""
    keys, next_key = ctypes.create_string_buffer(4 * count), ctypes.create_string_buffer(4)
    values = ctypes.create_string_buffer(value_size * count)
    attributes = struct.pack(
        "=QQQQIIQQ", 0, _at(next_key), _at(keys), _at(values), count, descriptor, 0, 0
    )
    with contextlib.suppress(FileNotFoundError):  # that was all of it
        _bpf(_MAP_LOOKUP_BATCH, attributes)
    return values.raw


def load_program(code: bytes, license_: bytes, name: str) -> int:
    """The descriptor of a classifier. When the verifier refuses, its last words are the text."""
    instructions, terms = _buffer(code), _buffer(license_)
    head = (_SCHED_CLS, len(code) // INSTRUCTION, _at(instructions), _at(terms))
    tail = (0, 0, name.encode("ascii")[:15])
    try:
        return _bpf(_PROG_LOAD, struct.pack("=IIQQIIQII16s", *head, 0, 0, 0, *tail))
    except OSError as error:
        log = ctypes.create_string_buffer(_LOG_BYTES)
        try:
            attributes = struct.pack("=IIQQIIQII16s", *head, 1, _LOG_BYTES, _at(log), *tail)
            return _bpf(_PROG_LOAD, attributes)
        except OSError:
            said = log.value.decode("ascii", "replace").strip().splitlines()
            if not said:
                raise error from None
            raise OSError(error.errno, f"{error.strerror}: {said[max(0, len(said) - 2)]}") from None


def attach_ingress(program: int, interface: int) -> int:
    """The descriptor of a tcx link; the program is attached for as long as it is open."""
    return _bpf(_LINK_CREATE, struct.pack("=IIII48x", program, interface, _TCX_INGRESS, 0))


def call(command: int, attributes: ctypes.Array[ctypes.c_char]) -> int:
    """bpf(2) itself, which may write into ``attributes``. Raises OSError."""
    result: int = _libc().syscall(
        _NUMBERS[platform.machine()], command, attributes, len(attributes)
    )
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _bpf(command: int, attributes: bytes) -> int:
    return call(command, _buffer(attributes))


@functools.cache
def _libc() -> ctypes.CDLL:
    library = ctypes.CDLL(None, use_errno=True)
    library.syscall.restype = ctypes.c_long
    return library


def _buffer(data: bytes) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(data, len(data))


def _at(buffer: ctypes.Array[ctypes.c_char]) -> int:
    return ctypes.addressof(buffer)
