"""``knothole join``"""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from knothole.cli.output import Failure, Output
from knothole.cli.session import run
from knothole.engine.secure.identity import fingerprint
from knothole.peer.peer import Peer
from knothole.peer.profile import Profile
from knothole.wire.server_url import InvalidServerUrl, parse_server_url
from knothole.wire.signal.values import InvalidName, canonical_name


def join(
    name: Annotated[str, Parameter(help="Who you are on this switchboard: a-z, 0-9, . _ -")],
    /,
    *,
    server: str,
    invitation: str | None = None,
    json: bool = False,
) -> int:
    """Make an identity and register a name on a switchboard.

    Example: knothole join alice --server 'knothole://203.0.113.5:3478#PIN'

    Parameters
    ----------
    server
        The address as the server printed it.
    invitation
        The code, where the switchboard asks for one.
    json
        One JSON object per line.
    """
    try:
        url = parse_server_url(server)
        profile = Profile.create(None, canonical_name(name), url)
    except (InvalidServerUrl, InvalidName) as error:
        raise Failure(f"{error}.") from error
    run(_register(profile, invitation))
    profile.save()
    key = fingerprint(profile.identity.public_key)
    Output(json=json).result(
        "joined",
        f"You are {profile.name} on {url.host}. Your key: {key}. Profile: {profile.folder}",
        name=profile.name,
        server=str(url),
        key=key,
        profile=str(profile.folder),
    )
    return 0


async def _register(profile: Profile, invitation: str | None) -> None:
    async with Peer(profile, callable=False, invitation=invitation):
        pass
