"""``knothole server revoke``"""

from __future__ import annotations

from knothole.cli.options import Config, Data, Json
from knothole.cli.output import Failure, Output, WrongUsage


def revoke(
    name: str,
    /,
    *,
    undo: bool = False,
    data: Data = None,
    config: Config = None,
    json: Json = False,
) -> int:
    """Shut NAME out of your server's relay: their credentials are good no more.

    All credentials of that NAME, those made later, too, until it is taken back; their allocations
    end at once. It outlives a restart, and needs no running server.

    Example: knothole server revoke alice

    Parameters
    ----------
    name
        The NAME that the credentials were made for, or as `knothole server status` shows it.
    undo
        Take it back.
    """
    from knothole.cli.server_folder import server_settings
    from knothole.engine.turn.credentials import DEVICE_SEPARATOR
    from knothole.server.control import NoServer, Request, ask
    from knothole.server.revocation import RevocationError, set_revoked

    if not name or not name.isprintable():
        raise WrongUsage(f"{name!r} cannot be a name.")
    settings = server_settings(data, config)
    user = name.partition(DEVICE_SEPARATOR)[0]
    if not undo and name != user and name not in {each.name for each in settings.users}:
        raise WrongUsage(
            f"{name!r} is one device of {user!r}: a user is shut out with all of them."
        )
    try:
        changed = set_revoked(settings.data, name, not undo)
    except RevocationError as error:
        raise Failure(str(error)) from error
    try:
        reply = ask(settings.data, Request("refresh"))
        if reply.failed:
            raise Failure(f"It is noted, but the server goes on as before: {reply.text}")
        text = "let in again" if undo else "shut out"
    except NoServer:
        text = "will be let in again" if undo else "will be shut out"
        text += " when the server is started"
    if not changed:
        text += ", as before"
    Output(json=json).result("revoke", f"{name} is {text}", name=name, revoked=not undo)
    return 0
