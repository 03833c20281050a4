"""The library's front door: a registered peer that calls and is called."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path as FilePath
from typing import Final

from knothole.engine.endpoint.endpoint import Endpoint
from knothole.engine.endpoint.events import (
    CallFault,
    CallOver,
    EndpointOutput,
    IncomingCall,
    LineEvent,
    LinePath,
    LineReady,
    LineSecured,
    Offline,
    Online,
    PresenceSeen,
    Refused,
    RemoteRinging,
)
from knothole.peer.accept import Accept, Taking, parse_accept
from knothole.peer.call import OutgoingRing, Ring
from knothole.peer.errors import NoAnswer, RegistrationRefused, UnknownName
from knothole.peer.line import Line
from knothole.peer.profile import Profile
from knothole.peer.reasons import error_of, lasting_error, server_unreachable
from knothole.peer.runtime import Runtime
from knothole.wire.signal.values import InvalidName, Reason, canonical_name

REGISTER_SECONDS: Final = 15.0
LINES_KEPT: Final = 64
"""Lines that came and were not asked for yet; a further caller is told that we are busy."""


class Peer:
    """One registered device of one person.

    >>> async with knothole.Peer(profile="PATH") as alice:
    ...     line = await alice.connect("bob", timeout=20)

    Args:
        profile: the profile or its folder; None for KNOTHOLE_HOME or the platform's place.
        accept: whose calls are taken: "anyone" registered on the switchboard, "contacts" (those
            whose keys are remembered), or names, as a list or with commas. Others are declined and
            learn no address.
        takes: asked with name and app about each call that ``accept`` lets through; None: all are
            taken. What is not taken here, another device of the same person may take.
        callable: False for a program that only calls: it is neither rung nor seen online.
        port: the UDP port wanted; another one when it is taken. 0 for any.
        ask: calls of kind "call" are not taken at once but come out of :meth:`rings`, and callers
            are shown no address before a ring is answered.
        invitation: the code that a switchboard asks of new names.
        timeout: seconds until entering raises ServerUnreachable.

    ``runtime_class`` is what the endpoint runs on: this machine's sockets; the lab has another.

    Entering raises ServerUnreachable, ServerKeyChanged, RegistrationRefused, ProfileError.
    """

    runtime_class: type[Runtime] = Runtime

    def __init__(
        self,
        profile: Profile | FilePath | str | None = None,
        *,
        accept: str | Iterable[str] = "anyone",
        takes: Callable[[str, str], Taking] | None = None,
        callable: bool = True,
        port: int = 0,
        ask: bool = False,
        invitation: str | None = None,
        timeout: float = REGISTER_SECONDS,
    ) -> None:
        self.profile = profile if isinstance(profile, Profile) else Profile.load(profile)
        self._accept: Accept = parse_accept(accept)
        self._takes = takes
        self._ask = ask
        self._port = port
        self._timeout = timeout
        self._known = {name: c.key for name, c in self.profile.contacts().items()}
        self._endpoint = Endpoint(
            identity=self.profile.identity,
            name=self.profile.name,
            known_keys=self._known,
            random=secrets.token_bytes,
            disclosure=self._accept.disclosure(self._known, ask=ask),
            callable_=callable,
            invitation=invitation,
        )
        self._runtime: Runtime | None = None
        self._online: asyncio.Future[None] | None = None
        self._is_online = False
        self._refused: RegistrationRefused | None = None
        self._presence: dict[str, bool] = {}
        self._last_error: Exception | None = None
        self._lines: dict[bytes, Line] = {}
        self._calling: dict[bytes, OutgoingRing] = {}
        self._rings: dict[bytes, Ring] = {}
        self._arrived: deque[Line] = deque()
        self._arrived_rings: deque[Ring] = deque()
        self._news = asyncio.Event()
        self._closed = False

    @property
    def name(self) -> str:
        """Our name on the switchboard."""
        return self.profile.name

    @property
    def online(self) -> bool:
        """Whether the switchboard knows us now; a lost connection comes back by itself."""
        return self._is_online

    @property
    def endpoint(self) -> Endpoint:
        """The engine beneath, for those who look at candidates and mappings."""
        return self._endpoint

    async def __aenter__(self) -> Peer:
        loop = asyncio.get_running_loop()
        self._online = loop.create_future()
        self._runtime = self.runtime_class(
            self._endpoint,
            self.profile.server,
            self._event,
            self._failed,
            self._settled,
            port=self._port,
        )
        try:
            await self._runtime.start()
            async with asyncio.timeout(self._timeout):
                await self._online
        except TimeoutError:
            await self._close()
            error = self._last_error
            raise server_unreachable(self.profile.server, error) from error
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._close()

    async def connect(self, name: str, timeout: float = 20.0, *, app: str = "") -> Line:
        """A line to ``name`` as soon as payload can flow on an authenticated path.

        Args:
            name: whom to call.
            timeout: seconds until NoAnswer.
            app: what the line is for; the other side sees it.

        Raises UnknownName, PeerOffline, CallDeclined, PeerBusy, NoAnswer, PeerKeyChanged.
        """
        ring = self.ring(name, app=app, kind="line")
        try:
            async with asyncio.timeout(timeout):
                return await ring.answered()
        except TimeoutError:
            raise NoAnswer(f"No line to {name} came about within {timeout:g} s.") from None
        finally:
            ring.cancel()

    def ring(self, name: str, *, app: str = "", kind: str = "call") -> OutgoingRing:
        """Call ``name`` and let it ring; see :class:`OutgoingRing`. Raises UnknownName."""
        try:
            canonical = canonical_name(name)
        except InvalidName as error:
            raise UnknownName(f"{name!r} cannot be anybody's name: {error}.") from error
        if canonical == self.name:
            raise UnknownName(f"{canonical} is yourself: another name is needed.")
        runtime = self._require_runtime()
        call_id = runtime.command(lambda now: self._endpoint.call(canonical, kind, app, now))
        ring = OutgoingRing(canonical, lambda: self._cancel(call_id))
        self._calling[call_id] = ring
        return ring

    async def incoming(self) -> AsyncIterator[Line]:
        """The lines that others open to us, those that came earlier first, until we leave.

        Raises RegistrationRefused when the switchboard takes us no more.
        """
        while True:
            while not self._arrived:
                if self._closed:
                    return
                await self._next_news()
            yield self._arrived.popleft()

    async def rings(self) -> AsyncIterator[Ring]:
        """With ``ask``: calls that wait for a person's word, until we leave; see
        :meth:`incoming`."""
        while True:
            while not self._arrived_rings:
                if self._closed:
                    return
                await self._next_news()
            yield self._arrived_rings.popleft()

    async def online_changes(self) -> AsyncIterator[bool]:
        """:attr:`online`, whenever it has become another, until we leave; see
        :meth:`incoming`."""
        told = self._is_online
        while not self._closed:
            if self._is_online == told:
                await self._next_news()
            else:
                told = self._is_online
                yield told

    async def presence(self, names: Iterable[str], timeout: float = 2.0) -> dict[str, bool]:
        """Who of ``names`` can be called now, as far as the switchboard tells within ``timeout``
        seconds."""
        wanted = set(names)
        self._require_runtime().command(lambda now: self._endpoint.watch(sorted(wanted), now))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while not wanted <= self._presence.keys():
                    await self._next_news()
        return {name: online for name, online in self._presence.items() if name in wanted}

    # ----------------------------------------------------------------- from the engine

    def _event(self, event: EndpointOutput) -> None:
        match event:
            case LineEvent(call_id, channel_event):
                if (line := self._lines.get(call_id)) is not None:
                    line._event(channel_event)
            case LinePath(call_id, path):
                if (line := self._lines.get(call_id)) is not None:
                    line._path_changed(path)
            case IncomingCall():
                self._incoming(event)
            case RemoteRinging(call_id):
                if (ring := self._calling.get(call_id)) is not None:
                    ring._set_ringing()
            case LineReady():
                self._line_ready(event)
            case LineSecured(call_id, words):
                self._line_secured(call_id, words)
            case CallOver(call_id, fault, text):
                self._call_over(call_id, fault, text)
            case Online():
                self._is_online = True
                self._tell()
                if self._online is not None and not self._online.done():
                    self._online.set_result(None)
            case Offline():
                self._is_online = False
                self._tell()
            case Refused(_code, text, final):
                self._last_error = RegistrationRefused(text)
                if final:
                    self._refuse(RegistrationRefused(text))
            case PresenceSeen(name, online):
                self._presence[name] = online
                self._tell()
            case _:
                pass

    def _settled(self) -> None:
        for line in self._lines.values():
            line._progress()

    def _incoming(self, call: IncomingCall) -> None:
        runtime = self._require_runtime()
        endpoint, call_id = self._endpoint, call.call_id
        if not self._accept.takes(call.name, call.key_known):
            reason = Reason.NOT_ACCEPTED
        elif self._takes and (taking := self._takes(call.name, call.app)) is not Taking.YES:
            reason = Reason.BUSY if taking is Taking.BUSY else Reason.NOT_ACCEPTED
        elif len(self._arrived) >= LINES_KEPT or len(self._arrived_rings) >= LINES_KEPT:
            reason = Reason.BUSY
        elif self._ask and call.kind == "call":
            self._rings[call_id] = ring = Ring(
                call.name,
                call.key,
                not call.key_known,
                call.app,
                lambda: runtime.command(lambda now: endpoint.accept(call_id, now)),
                lambda why: runtime.command(lambda now: endpoint.decline(call_id, why, now)),
            )
            runtime.command(lambda now: endpoint.ring(call_id, now))
            self._arrived_rings.append(ring)
            self._tell()
            return
        else:
            runtime.command(lambda now: endpoint.accept(call_id, now))
            return
        runtime.command(lambda now: endpoint.decline(call_id, reason, now))

    def _line_ready(self, ready: LineReady) -> None:
        connection = self._endpoint.connection(ready.call_id)
        if connection is None:
            return
        runtime = self._require_runtime()
        line = Line(
            connection,
            lambda: runtime.command(lambda now: self._endpoint.flush(ready.call_id, now)),
            lambda reason: runtime.command(
                lambda now: self._endpoint.hang_up(ready.call_id, reason, now)
            ),
            call_id=ready.call_id,
            peer_name=ready.name,
            peer_key=ready.key,
            first_seen=not ready.key_known,
            app=ready.app,
            incoming=ready.incoming,
        )
        self._lines[ready.call_id] = line
        if not ready.incoming:
            ring = self._calling.pop(ready.call_id, None)
            if ring is None or not ring._set_line(line):
                line.close("nobody waits for it any more")
            return
        waiting = self._rings.pop(ready.call_id, None)
        if waiting is not None:
            waiting._set_line(line)
        else:
            self._arrived.append(line)
            self._tell()

    def _line_secured(self, call_id: bytes, words: tuple[str, ...]) -> None:
        line = self._lines.get(call_id)
        if line is None:
            return
        line._secured(words)
        if line.first_seen and line.peer_name not in self._known:
            self._known[line.peer_name] = line.peer_key
            self.profile.remember(line.peer_name, line.peer_key)

    def _call_over(self, call_id: bytes, fault: CallFault | None, text: str) -> None:
        error = error_of(fault, text)
        if (line := self._lines.pop(call_id, None)) is not None:
            line._ended(text, error)
        if (calling := self._calling.pop(call_id, None)) is not None:
            calling._fail(error or NoAnswer(text))
        if (ring := self._rings.pop(call_id, None)) is not None:
            ring._set_over(text)

    # ------------------------------------------------------------------------- inside

    def _cancel(self, call_id: bytes) -> None:
        if self._calling.pop(call_id, None) is not None and self._runtime is not None:
            self._runtime.command(lambda now: self._endpoint.hang_up(call_id, "", now))

    def _failed(self, error: Exception) -> None:
        self._last_error = error
        waiting = self._online
        lasting = lasting_error(self.profile.server, error)
        if lasting is not None and waiting is not None and not waiting.done():
            waiting.set_exception(lasting)

    def _refuse(self, refused: RegistrationRefused) -> None:
        self._refused = refused
        self._tell()
        if self._online is not None and not self._online.done():
            self._online.set_exception(refused)

    def _require_runtime(self) -> Runtime:
        if self._runtime is None:
            raise RuntimeError("use the peer inside `async with`")
        return self._runtime

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def _next_news(self) -> None:
        if self._refused is not None:
            raise self._refused
        await self._news.wait()

    async def _close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._runtime is not None:
            await self._runtime.close()
        for line in tuple(self._lines.values()):
            line._ended("this side has gone offline")
        self._tell()
