"""Files of a profile: replaced whole, and changed by one program at a time."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


def replace_file(path: Path, content: bytes) -> None:
    """Replace a file whole: a crash leaves the old one.

    Nobody but its owner may read it, and the group that could before. When the superuser does it,
    the owner stays who it was; of a new file it is the folder's. Raises OSError.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        with os.fdopen(os.open(partial, flags, 0o600), "wb") as file:
            _keep_readers(file.fileno(), path)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _keep_readers(descriptor: int, path: Path) -> None:
    """A server under a user of its own goes on reading what its operator changes as another one."""
    if not hasattr(os, "geteuid"):
        return
    before = (path if path.exists() else path.parent).stat()
    if os.geteuid() == 0:
        os.fchown(descriptor, before.st_uid, before.st_gid)
    if path.exists() and before.st_gid == os.fstat(descriptor).st_gid:
        os.fchmod(descriptor, 0o600 | before.st_mode & 0o040)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Two programs with the same profile do not lose what the other one writes. Raises OSError."""
    try:
        import fcntl
    except ImportError:  # Windows: such files are small and written rarely
        yield
        return
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
