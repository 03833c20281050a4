"""``knothole call``"""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from knothole.cli.listener import turned_away
from knothole.cli.network import ANY_NETWORK, Network, NetworkOptions
from knothole.cli.output import Failure, Output
from knothole.cli.session import CALL, announce, run
from knothole.cli.sound import Sound
from knothole.cli.talk import talk
from knothole.io.audio.backend import AudioError
from knothole.peer.accept import Taking
from knothole.peer.call import OutgoingRing
from knothole.peer.line import Line
from knothole.peer.peer import Peer


def call(
    name: Annotated[
        str, Parameter(help="Whom to call: somebody who runs knothole listen --answer")
    ],
    /,
    *,
    input: Annotated[str | None, Parameter(name="--in")] = None,
    out: str | None = None,
    network: NetworkOptions = ANY_NETWORK,
    json: bool = False,
) -> int:
    """Call NAME and talk.

    It rings for at most 45 s. While you talk, Ctrl-C or q hangs up, and m mutes you. Who calls you
    meanwhile hears that you are busy.

    Example: knothole call bob --in speech.wav --out heard.wav

    Parameters
    ----------
    input
        What is spoken: FILE.wav (its end hangs up), tone, null (silence), or a sound device by
        name or number. Default: the microphone.
    out
        Where it is heard: FILE.wav (a recording), null, or a sound device. Default: the
        loudspeaker.
    json
        One JSON object per line; one with statistics every second.
    """
    return run(_call(Output(json=json), name, input, out, network))


async def _call(
    output: Output, name: str, source: str | None, sink: str | None, network: Network
) -> int:
    sound = await Sound.open(source, sink)

    def takes(caller: str, app: str) -> Taking:
        if app != CALL:
            return Taking.NO
        turned_away(output, caller, app, f"you are in a call with {name}")
        return Taking.BUSY

    try:
        async with Peer(ask=True, takes=takes, **network.for_peer()) as peer:
            ring = peer.ring(name, app=CALL)
            try:
                line = await _answered(output, ring)
            finally:
                ring.cancel()
            async with line:
                await announce(output, line, always_words=True)
                outcome = await talk(output, line, sound, end_with_source=True, interruptible=True)
    except AudioError as error:
        raise Failure(f"{error}.") from error
    finally:
        sound.close()
    if outcome.ending.is_failure:
        raise Failure(f"{outcome.text}.")
    return 0


async def _answered(output: Output, ring: OutgoingRing) -> Line:
    """Wait until it is answered; say when it rings. Raises what says why it is not."""
    output.note("calling", f"Calling {ring.name} ...", peer=ring.name)
    await ring.ringing()
    if ring.has_rung:
        output.note("ringing", "It rings ...", peer=ring.name)
    line = await ring.answered()
    output.note("answered", f"{line.peer_name} has answered.", peer=line.peer_name)
    return line
