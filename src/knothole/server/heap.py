"""The heap of the C library: what is large shall not leave holes in it."""

from __future__ import annotations

import ctypes
import sys
from typing import Final

LARGE_BLOCK: Final = 128 * 1024
"""Bytes; glibc's own threshold at the start of a process."""

_M_MMAP_THRESHOLD: Final = -3  # glibc's <malloc.h>


def map_large_blocks() -> bool:
    """Take each block of :data:`LARGE_BLOCK` and more from the system by itself, and give it back
    as soon as it is freed; False where the C library is none that can be told so.

    glibc raises that threshold with every such block that is freed, up to 32 MiB (mallopt(3),
    M_MMAP_THRESHOLD). Each connection over TLS has one of 256 KiB of uvloop's, most of it never
    touched, and each of its reads another: in the heap small things that stay would settle where
    they have been, so that it grew for hours although nothing was left.

    It is for good, and for the whole process: for programs, not for who uses the library.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK))
