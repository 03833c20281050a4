"""``knothole join``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from knothole.cli.output import Output, WrongUsage
from knothole.cli.session import run
from knothole.engine.secure.identity import fingerprint
from knothole.io.proxy import InvalidProxy, parse_proxy
from knothole.peer.errors import ProfileError
from knothole.peer.peer import Peer
from knothole.peer.profile import Profile
from knothole.wire.server_url import InvalidServerUrl, ServerUrl, parse_server_url
from knothole.wire.signal.values import InvalidName, canonical_name


def join(
    name: Annotated[str, Parameter(help="Who you are on this server: a-z, 0-9, . _ -")],
    /,
    *,
    server: str,
    invitation: str | None = None,
    proxy: str | None = None,
    json: bool = False,
) -> int:
    """Make an identity and register a name on a switchboard.

    Again with the same name it does no harm; with another server, the profile moves there.

    Example: knothole join alice --server 'knothole://203.0.113.5:3478#PIN'

    Parameters
    ----------
    server
        The address as the server printed it.
    invitation
        The code, where the server asks for one.
    proxy
        An HTTP proxy for where the server is not reached directly: http://HOST:PORT, or @FILE with
        http://USER:PASSWORD@HOST:PORT in it.
    json
        One JSON object per line.
    """
    try:
        url = parse_server_url(server)
        canonical = canonical_name(name)
    except InvalidServerUrl as error:
        raise WrongUsage(f"--server: {error}.") from error
    except InvalidName as error:
        raise WrongUsage(f"{name!r} cannot be a name: {error}.") from error
    kept = _proxy(proxy) if proxy else None
    return run(_join(Output(json=json), canonical, url, invitation, kept))


def _proxy(given: str) -> str:
    """The URL of a proxy, which may have a password in it only where nobody sees it: in a file."""
    try:
        if given.startswith("@"):
            url = Path(given[1:]).read_text(encoding="utf-8").strip()
            parse_proxy(url)
            return url
        if parse_proxy(given).authorization:
            raise WrongUsage(
                "--proxy: a password on a command line is seen by everybody on this machine. Write "
                "the URL into a file and give --proxy @FILE."
            )
    except (OSError, UnicodeDecodeError) as error:
        raise WrongUsage(f"--proxy: {given[1:]} cannot be read: {error}.") from error
    except InvalidProxy as error:
        raise WrongUsage(f"--proxy: {error}.") from None
    return given


async def _join(
    output: Output, name: str, url: ServerUrl, invitation: str | None, proxy: str | None
) -> int:
    try:
        before: Profile | None = Profile.load()
    except ProfileError:
        before = None
    profile = Profile.create(None, name, url, proxy)
    # Before the name is registered for it: a name whose key is lost is lost for good.
    profile.save_identity()
    async with Peer(profile, callable=False, invitation=invitation, port_mapping=False):
        pass
    profile.save()
    if before is not None and (before.name, before.server.identity) != (name, url.identity):
        was = f"This profile was {before.name} on {before.server.host} before."
        output.note("was", was, name=before.name, server=str(before.server))
    key, folder = fingerprint(profile.identity.public_key), profile.folder.absolute()
    output.result(
        "joined",
        f"You are {profile.name} on {url.host}. Your key: {key}. Profile: {folder}",
        name=profile.name,
        server=str(url),
        key=key,
        profile=str(folder),
    )
    return 0
