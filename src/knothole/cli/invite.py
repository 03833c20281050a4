"""``knothole invite``"""

from __future__ import annotations

import secrets

from knothole.cli.options import Config, Data, Json
from knothole.cli.output import Failure, Output, WrongUsage


def invite(
    *,
    count: int = 1,
    data: Data = None,
    config: Config = None,
    json: Json = False,
) -> int:
    """Make an invitation to your server, good for one new name.

    For a server whose configuration says `accounts.invitation-required`.
    It may be running. The code is printed, and kept nowhere else.

    Example: knothole invite --config /etc/knothole/server.toml

    Parameters
    ----------
    count
        How many to make.
    """
    from knothole.cli.server_folder import server_settings
    from knothole.engine.rendezvous.accounts import AccountsUnavailable
    from knothole.server.store import SqliteAccounts, StoreError

    output = Output(json=json)
    if not 1 <= count <= 1000:
        raise WrongUsage(f"--count: {count} is not between 1 and 1000.")
    settings = server_settings(data, config)
    if config is not None and not settings.invitation_required:
        raise Failure(
            f"{config} lets everybody have a name without an invitation: "
            "it would have to say invitation-required = true under [accounts]."
        )
    path = settings.data / "accounts.sqlite"
    if not path.exists():
        raise Failure(
            f"There is no server's data in {settings.data}: start the server first, or name its "
            "folder with --data or its file with --config."
        )
    try:
        store = SqliteAccounts(path)
        try:
            codes = [store.invite(secrets.token_bytes) for _ in range(count)]
        finally:
            store.close()
    except (StoreError, AccountsUnavailable) as error:
        raise Failure(str(error)) from error
    for code in codes:
        output.result("invitation", code, code=code)
    output.note(
        "advice",
        "Whoever is invited says: knothole join NAME --server 'knothole://...' --invitation CODE",
    )
    return 0
