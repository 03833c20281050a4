"""``knothole server rotate-secret``"""

from __future__ import annotations

from knothole.cli.options import Config, Data, Json
from knothole.cli.output import Failure, Output


def rotate_secret(
    *,
    drop_old: bool = False,
    data: Data = None,
    config: Config = None,
    json: Json = False,
) -> int:
    """Bring in a new secret for TURN credentials; those made of the last one stay good.

    A second time, once the old credentials have expired, the last but one is forgotten. When a
    secret is known to others, --drop-old ends what it made at once. The server need not run.

    Example: knothole server rotate-secret

    Parameters
    ----------
    drop_old
        Forget the old secret now instead, and end the allocations that it let in.
    """
    from knothole.cli.server_folder import server_settings
    from knothole.server import turn_secret
    from knothole.server.control import NoServer, Request, ask

    settings = server_settings(data, config)
    change = turn_secret.drop_old_secrets if drop_old else turn_secret.rotate_secret
    try:
        change(settings.secrets_path)
    except turn_secret.SecretError as error:
        raise Failure(str(error)) from error
    text = "the old secret is good no more" if drop_old else "there is a new secret"
    try:
        reply = ask(settings.data, Request("refresh"))
    except NoServer:
        pass
    else:
        if reply.failed:
            raise Failure(f"It is written, but the server goes on as before: {reply.text}")
        text += ", and the server knows"
    Output(json=json).result("secret", text, dropped=drop_old)
    return 0
