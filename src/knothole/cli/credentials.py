"""``knothole server credentials``"""

from __future__ import annotations

import time
from typing import Final

from knothole.cli.options import Config, Data, Json
from knothole.cli.output import Failure, Output, WrongUsage

DEFAULT_SECONDS: Final = 24 * 3600  # draft-uberti-behave-turn-rest-00 Section 2.2: "one day"
MOST_SECONDS: Final = 366 * 24 * 3600  # ours: what is to be good for longer is a configured user
LONGEST_USERNAME: Final = 508  # RFC 8489 Section 14.3: fewer than 509 bytes


def credentials(
    name: str,
    /,
    *,
    lifetime: int = DEFAULT_SECONDS,
    data: Data = None,
    config: Config = None,
    json: Json = False,
) -> int:
    """Make short-lived TURN credentials of your server for any other client.

    For a browser, or whatever speaks TURN. What one NAME has open at once is limited, whatever
    credentials it was opened with. The server need not run, but must have been started once.

    Example: knothole server credentials alice --lifetime 3600

    Parameters
    ----------
    name
        Who they are for: a word of your own that the server's figures show.
    lifetime
        For how many seconds they are good.
    """
    from knothole.cli.server_folder import server_settings
    from knothole.engine.turn.credentials import rest_credentials
    from knothole.server.turn_secret import SecretError, load_secrets
    from knothole.server.whereabouts import NoWhereabouts, read_whereabouts

    if not 1 <= lifetime <= MOST_SECONDS:
        raise WrongUsage(f"--lifetime: {lifetime} is not between 1 and {MOST_SECONDS}.")
    if not name or not name.isprintable() or ":" in name:
        raise WrongUsage(f"{name!r} cannot be a name: printable characters, and no colon.")
    settings = server_settings(data, config)
    try:
        where = read_whereabouts(settings.data)
        secrets = load_secrets(settings.secrets_path)
    except (NoWhereabouts, SecretError) as error:
        raise Failure(str(error)) from error
    made = rest_credentials(secrets[0], name, lifetime, time.time())
    if len(made.username.encode()) > LONGEST_USERNAME:
        raise WrongUsage("That name is too long.")
    output = Output(json=json)
    for heading, text in (
        ("username", made.username),
        ("password", made.password),
        ("realm", where.realm),
        *(("uri", uri) for uri in where.uris),
    ):
        if not json:
            output.result("", f"{heading:<10}{text}")
    output.result(
        "credentials",
        "",
        username=made.username,
        password=made.password,
        realm=where.realm,
        uris=where.uris,
        lifetime_seconds=lifetime,
    )
    return 0
