"""Users of the relay whose credentials are good no more: a file of names in the data folder."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from knothole.peer.files import locked, replace_file

FILE_NAME: Final = "revoked-users"
MOST_BYTES: Final = 32_768  # ours: they travel to the relay process in one packet


class RevocationError(Exception):
    """The names cannot be read or written; the text says why."""


def load_revoked(folder: Path) -> tuple[str, ...]:
    """The names in the data folder ``folder``. Raises RevocationError."""
    path = folder / FILE_NAME
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise RevocationError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RevocationError(f"{path} is not UTF-8 text") from error
    return tuple(dict.fromkeys(filter(None, text.splitlines())))


def set_revoked(folder: Path, name: str, revoked: bool) -> bool:
    """Put ``name`` on the list or take it off; whether that changed anything.

    Raises RevocationError.
    """
    try:
        with locked(folder):
            before = load_revoked(folder)
            after = [each for each in before if each != name] + [name] * revoked
            if set(after) == set(before):
                return False
            content = "".join(f"{each}\n" for each in after).encode()
            if len(content) > MOST_BYTES:
                text = "too many revoked names: bring in a new secret, and drop the old one"
                raise RevocationError(text)
            replace_file(folder / FILE_NAME, content)
    except OSError as error:
        raise RevocationError(
            f"{folder / FILE_NAME} cannot be written: {error.strerror}"
        ) from error
    return True


def owners_of(names: tuple[str, ...]) -> list[str]:
    """Whom the relay knows by ``names``: users of short-lived credentials, and configured ones."""
    return [owner for name in names for owner in (f":{name}", name)]
