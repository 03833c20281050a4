"""``knothole contacts``"""

from __future__ import annotations

import time
from typing import Final, Literal

from knothole.cli.output import Failure, Output, WrongUsage
from knothole.cli.session import run
from knothole.engine.secure.identity import fingerprint
from knothole.peer.discretion import Policy
from knothole.peer.errors import KnotholeError
from knothole.peer.peer import Peer
from knothole.peer.profile import Profile
from knothole.wire.signal.values import InvalidName, canonical_name

SERVER_SECONDS: Final = 3.0  # ours: so long the list waits for the server
PRESENCE_SECONDS: Final = 2.0  # ours: and so long for it to say who is online


def contacts(
    *,
    forget: str | None = None,
    policy: tuple[str, Literal["direct", "relay", "default"]] | None = None,
    json: bool = False,
) -> int:
    """List the people whose keys are remembered.

    With the fingerprint of the key, since when it is known, and who is online, as far as the
    server says so within a few seconds.

    Example: knothole contacts

    Parameters
    ----------
    forget
        Forget the key of this name, so that the next one counts as new.
    policy
        NAME and relay: lines with NAME go by a relay only, so that NAME learns no address of
        yours. NAME and direct: NAME may call directly even where you listen with --relay-only.
        NAME and default: neither.
    json
        One JSON object per line.
    """
    output = Output(json=json)
    if policy is not None:
        return run(_set_policy(output, *policy))
    return run(_list(output) if forget is None else _forget(output, forget))


async def _forget(output: Output, typed: str) -> int:
    name = typed.strip().lower()
    if not Profile.load().forget(name):
        raise Failure(f"No key of {name!r} is remembered. The list: knothole contacts")
    output.result("forgotten", f"The key of {name} is forgotten.", name=name)
    return 0


async def _set_policy(output: Output, typed: str, word: str) -> int:
    try:
        name = canonical_name(typed)
    except InvalidName as error:
        raise WrongUsage(f"--policy: {typed!r} cannot be anybody's name: {error}.") from error
    Profile.load().policies.set(name, Policy(word))
    output.result("policy", f"The policy for {name} is {word} now.", name=name, policy=word)
    return 0


async def _list(output: Output) -> int:
    profile = Profile.load()
    known = sorted(profile.contacts().values(), key=lambda contact: contact.name)
    if not known:
        output.note(
            "empty", "Nobody's key is remembered yet; the first line to somebody does that."
        )
        return 0
    online = await _presence(output, profile, [contact.name for contact in known])
    policies = profile.policies.all()
    longest = max(len(contact.name) for contact in known)
    for contact in known:
        key, seen = fingerprint(contact.public_key), _day(contact.first_seen)
        is_online = online.get(contact.name)
        policy = policies.get(contact.name, Policy.DEFAULT)
        note = "" if policy is Policy.DEFAULT else f"  ({policy.value})"
        state = {True: "online", False: "offline", None: "unknown"}[is_online]
        output.result(
            "contact",
            f"{contact.name:<{longest}}  {state:<7}  {key}  since {seen}{note}",
            name=contact.name,
            key=key,
            first_seen=contact.first_seen,
            online=is_online,
            policy=policy.value,
        )
    return 0


async def _presence(output: Output, profile: Profile, names: list[str]) -> dict[str, bool]:
    """Who is online; empty, with a note, when the server cannot be asked."""
    try:
        async with Peer(
            profile, callable=False, port_mapping=False, timeout=SERVER_SECONDS
        ) as peer:
            return await peer.presence(names, PRESENCE_SECONDS)
    except KnotholeError as error:
        output.note("offline", f"Who is online is not known: {error}", why=str(error))
        return {}


def _day(unix_seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(unix_seconds))
