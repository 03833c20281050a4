"""The secret of the server's TURN credentials: a file that outlives a restart, and its rotation.

The file holds one secret a line. The first one makes new credentials, all are accepted: while a
new secret is brought in, credentials made of the old one stay good.
"""

from __future__ import annotations

import secrets
import stat
from pathlib import Path
from typing import Final

from knothole.peer.files import replace_file

FILE_NAME: Final = "turn-secret"
MOST_SECRETS: Final = 2  # ours: a new one and the one before
LEAST_LENGTH: Final = 16  # ours: characters; whoever has credentials can try to guess the secret
_RANDOM_BYTES: Final = 32


class SecretError(Exception):
    """The secret cannot be used; the text names the file and says why."""


def load_secrets(file: Path) -> tuple[str, ...]:
    """The secrets in ``file``, the one that makes credentials first. Raises SecretError."""
    try:
        with file.open(encoding="utf-8") as opened:
            mode = stat.S_IMODE(file.stat().st_mode)
            lines = opened.read().splitlines()
    except OSError as error:
        raise SecretError(f"{file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SecretError(f"{file} is not UTF-8 text") from error
    if mode & 0o007:
        raise SecretError(f"{file} can be read by everybody: chmod 600 it, or make a new secret")
    found = tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not 1 <= len(found) <= MOST_SECRETS:
        raise SecretError(f"{file} holds {len(found)} secrets: one or two, each on its line")
    if any(len(secret) < LEAST_LENGTH for secret in found):
        raise SecretError(f"a secret in {file} is shorter than {LEAST_LENGTH} characters")
    return found


def own_secrets(file: Path) -> tuple[str, ...]:
    """The secrets in ``file``; one is made when there is no such file yet. Raises SecretError."""
    if not file.exists():
        _write(file, (_new_secret(),))
    return load_secrets(file)


def rotate_secret(file: Path) -> None:
    """Bring in a new secret; of those before, the one that made credentials stays good.

    Raises SecretError.
    """
    _write(file, (_new_secret(), load_secrets(file)[0]))


def drop_old_secrets(file: Path) -> None:
    """Only the secret that makes credentials stays good. Raises SecretError."""
    _write(file, load_secrets(file)[:1])


def _new_secret() -> str:
    return secrets.token_urlsafe(_RANDOM_BYTES)


def _write(file: Path, lines: tuple[str, ...]) -> None:
    try:
        replace_file(file, "".join(f"{line}\n" for line in lines).encode())
    except OSError as error:
        raise SecretError(f"{file} cannot be written: {error.strerror}") from error
