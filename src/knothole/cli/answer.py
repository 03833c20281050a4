"""``knothole listen --answer``: a telephone that waits."""

from __future__ import annotations

import asyncio

from knothole.apps.call_outcome import CallOutcome
from knothole.cli.listener import turned_away, watch_server
from knothole.cli.network import Network
from knothole.cli.output import Failure, Output
from knothole.cli.session import CALL, PING, announce
from knothole.cli.sound import Sound, recording
from knothole.cli.talk import talk
from knothole.cli.terminal import LiveLine, is_interactive, single_keys
from knothole.engine.secure.identity import fingerprint
from knothole.io.audio.backend import AudioError
from knothole.peer.accept import Taking
from knothole.peer.call import Ring
from knothole.peer.errors import KnotholeError, NoAnswer
from knothole.peer.peer import Peer


async def answer_calls(
    output: Output,
    *,
    accept: str,
    source: str | None,
    sink: str | None,
    once: bool,
    network: Network,
) -> int:
    """Take calls one at a time, asking first where a person sits in front.

    Raises Failure when the sound cannot be had, or with ``once`` when the call fails.
    """
    (await Sound.open(source, sink)).close()  # said now rather than when somebody calls
    telephone = Telephone(output, source, sink, once=once)
    async with Peer(accept=accept, ask=True, takes=telephone.takes, **network.for_peer()) as peer:
        output.result("ready", "ready", name=peer.name)
        await telephone.run(peer)
    return 0


class Telephone:
    """Rings, is answered or not, and is busy meanwhile."""

    def __init__(self, output: Output, source: str | None, sink: str | None, *, once: bool) -> None:
        self._output = output
        self._source = source
        self._sink = sink
        self._once = once
        self._taken = 0
        self._ring: Ring | None = None

    def takes(self, name: str, app: str) -> Taking:
        """For the argument of Peer."""
        if app == PING:  # its line would show our address, and nobody here was asked
            return Taking.NO
        if app != CALL:
            turned_away(self._output, name, app, "only calls are taken here")
            return Taking.NO
        if self._ring is not None:
            turned_away(self._output, name, app, f"{self._ring.peer_name} is on the line")
            return Taking.BUSY
        return Taking.YES

    async def run(self, peer: Peer) -> None:
        """Take calls for ever, or until the first is over."""
        tasks = [
            asyncio.create_task(self._take_rings(peer)),
            asyncio.create_task(watch_server(self._output, peer)),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _take_rings(self, peer: Peer) -> None:
        async for ring in peer.rings():
            if ring.is_over:  # it came and went while this program had no turn
                self._missed(ring)
                continue
            self._ring = ring
            try:
                outcome = await self._take(ring)
            finally:
                self._ring = None
            if outcome is not None and self._once:
                if outcome.ending.is_failure:
                    raise Failure(f"{outcome.text}.")
                return

    async def _take(self, ring: Ring) -> CallOutcome | None:
        """One call that rings; None when it was not taken."""
        name = ring.peer_name
        known = "its key is new" if ring.first_seen else "its key is known"
        key = fingerprint(ring.peer_key)
        self._output.result(
            "ring",
            f"{name} is calling ({known}: {key})",
            peer=name,
            key=key,
            first_seen=ring.first_seen,
        )
        if not await self._is_wanted(ring):
            self._missed(ring)
            ring.decline()
            return None
        try:
            return await self._talk(ring)
        except NoAnswer:
            self._missed(ring)
            return None
        except (KnotholeError, AudioError, Failure) as error:
            if self._once:
                raise Failure(f"{error}".rstrip(".") + ".") from error
            text = f"The call of {name} failed: {error}"
            self._output.note("failed", text, peer=name, why=str(error))
            return None

    def _missed(self, ring: Ring) -> None:
        name, why = ring.peer_name, "you declined"
        if ring.is_over:
            why = ring.why_over if "elsewhere" in ring.why_over else "they gave up"
        self._output.note("missed", f"The call of {name} was not taken: {why}.", peer=name, why=why)

    async def _talk(self, ring: Ring) -> CallOutcome:
        try:
            sound = await Sound.open(self._source, recording(self._sink, self._taken + 1))
        except Failure:
            ring.decline()
            raise
        try:
            async with await ring.accept() as line:
                self._taken += 1
                await announce(self._output, line, always_words=True)
                return await talk(
                    self._output,
                    line,
                    sound,
                    end_with_source=False,
                    interruptible=is_interactive(),
                )
        finally:
            sound.close()

    async def _is_wanted(self, ring: Ring) -> bool:
        """Ask the person; without one in front every call is wanted."""
        if self._output.json or not is_interactive():
            return True
        decision: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        def decide(wanted: bool) -> None:
            if not decision.done():
                decision.set_result(wanted)

        def press(key: str) -> None:
            if key.lower() in ("y", "n"):
                decide(key.lower() == "y")

        question = LiveLine()
        question.change(f"Answer {ring.peer_name}? [y/n] ")
        print("\a", end="", flush=True)
        gone = asyncio.create_task(ring.wait_over())
        gone.add_done_callback(lambda _: decide(False))
        try:
            with single_keys(press), self._output.above(question):
                return await decision
        finally:
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)
