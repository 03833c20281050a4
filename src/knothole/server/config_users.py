"""Who may use the relay besides those with credentials that expire: users that the configuration
names, each with a password in a file, and the keys of those who vouch for others."""

from __future__ import annotations

import base64
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from knothole.engine.turn.credentials import DEFAULT_SEPARATOR, rest_expiry
from knothole.engine.turn.tokens import KEY_SIZES, TokenKey
from knothole.server.config_file import ConfigFile, Source

LEAST_PASSWORD: Final = 8  # ours: characters; whoever sees a signed request can try to guess it
MOST_PASSWORD: Final = 256  # ours


@dataclass(frozen=True, slots=True)
class RelayUser:
    """Somebody with a long-term credential (RFC 8489 Section 9.2)."""

    name: str
    password: str = field(repr=False)


def read_users(source: Source, content: ConfigFile) -> tuple[RelayUser, ...]:
    """The ``[[user]]`` tables, with what their files hold. Raises ConfigError."""
    found: dict[str, RelayUser] = {}
    for number, table in enumerate(content.user):
        key = f"user[{number}]"
        name = table.name
        if not name or not name.isprintable() or name != name.strip():
            raise source.error(f"{key}.name", f"{name!r} is no name of a user")
        if rest_expiry(name) is not None or name.startswith(DEFAULT_SEPARATOR):
            reason = f"{name!r} has the form of a name that expires (EXPIRY:NAME)"
            raise source.error(f"{key}.name", reason)
        if name in found:
            raise source.error(f"{key}.name", f"there are two users {name}")
        found[name] = RelayUser(
            name, _password(source, f"{key}.password-file", table.password_file)
        )
    return tuple(found.values())


def read_oauth(source: Source, content: ConfigFile) -> tuple[TokenKey, ...]:
    """The ``[[oauth]]`` tables, with the keys in their files. Raises ConfigError."""
    found: dict[str, TokenKey] = {}
    for number, table in enumerate(content.oauth):
        place = f"oauth[{number}]"
        if table.kid in found:
            raise source.error(f"{place}.kid", f"there are two keys {table.kid}")
        if table.server_name != content.oauth[0].server_name:
            raise source.error(f"{place}.server-name", "is not the same as that of the first")
        name = table.key_file
        try:
            key = base64.b64decode(
                read_secret_text(source, f"{place}.key-file", name), validate=True
            )
        except ValueError:
            key = b""
        if len(key) not in KEY_SIZES:
            reason = f"{name} does not hold 16 or 32 bytes in base64"
            raise source.error(f"{place}.key-file", reason)
        found[table.kid] = TokenKey(table.kid, key, table.server_name)
    return tuple(found.values())


def read_secret_text(source: Source, key: str, name: str) -> str:
    """The one line of a file that only its owner may read. Raises ConfigError."""
    path: Path = source.folder / name
    try:
        with path.open(encoding="utf-8") as opened:
            mode = stat.S_IMODE(path.stat().st_mode)
            lines = opened.read().splitlines()
    except OSError as error:
        raise source.error(key, f"{name} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise source.error(key, f"{name} is not UTF-8 text") from None
    if mode & 0o007:
        raise source.error(key, f"{name} can be read by everybody: chmod 600 it")
    if len(lines) != 1 or not lines[0]:
        raise source.error(key, f"{name} must hold one line and nothing else")
    return lines[0]


def _password(source: Source, key: str, name: str) -> str:
    password = read_secret_text(source, key, name)
    if not LEAST_PASSWORD <= len(password) <= MOST_PASSWORD:
        wanted = f"{LEAST_PASSWORD} to {MOST_PASSWORD} characters"
        raise source.error(key, f"the password in {name} does not have {wanted}")
    return password
