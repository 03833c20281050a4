"""The library's front door: a registered peer that calls and is called."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path as FilePath
from typing import Final, TypeVar

from knothole.engine.endpoint.endpoint import Endpoint
from knothole.engine.endpoint.events import (
    KIND_CALL,
    KIND_LINE,
    EndpointOutput,
    IncomingCall,
    KeysFound,
    Offline,
    Online,
    PresenceSeen,
    Refused,
)
from knothole.engine.endpoint.history import CallHistory
from knothole.engine.portmap.mapping import PortMapping
from knothole.engine.predict.budget import Budget
from knothole.engine.rendezvous.events import SignallingProblem
from knothole.peer.accept import Accept, Taking, parse_accept
from knothole.peer.budget import budget_of
from knothole.peer.call import OutgoingRing, RefusedCall, Ring
from knothole.peer.calls import Calls
from knothole.peer.discretion import ByPolicy
from knothole.peer.errors import NoAnswer, RegistrationRefused, UnknownName
from knothole.peer.last_lines import Diary
from knothole.peer.line import Line
from knothole.peer.news import Arrivals, News
from knothole.peer.profile import Profile
from knothole.peer.reasons import lasting_error, server_unreachable, usable_proxy
from knothole.peer.remember import Memory
from knothole.peer.runtime import Runtime
from knothole.wire.signal.values import Audience, InvalidName, canonical_name

log = logging.getLogger(__name__)

REGISTER_SECONDS: Final = 15.0  # ours: three attempts to connect

T = TypeVar("T")


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
        relay_only: no address of ours is shown to anybody: lines go by a relay, at both ends'
            wish or not. A contact's policy (``knothole contacts --policy``) counts besides.
        ask: calls are not taken at once but come out of :meth:`rings`, and callers
            are shown no address before a ring is answered.
        port_mapping: the gateways of the local network are asked to let others in to our port (PCP,
            NAT-PMP, UPnP), which is given back at the end. Never with a server on this machine.
        budget: what looking for a direct path may use, as a Budget or in words
            ("probes=500,sockets=64", "off"); None for KNOTHOLE_BUDGET or the default.
        invitation: the code that a switchboard asks of new names.
        proxy: the URL of an HTTP proxy, ``http://[USER:PASSWORD@]HOST:PORT``, for where the
            switchboard and its relay are not reached directly; None: the profile's, else what the
            environment names (HTTPS_PROXY, ALL_PROXY, NO_PROXY), which comes first then.
        timeout: seconds until entering raises ServerUnreachable.

    ``runtime_class`` is what the endpoint runs on: this machine's sockets; the lab has another.

    A peer is entered once. Entering raises ServerUnreachable, ServerKeyChanged,
    RegistrationRefused, ProfileError; leaving closes every line.
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
        relay_only: bool = False,
        port_mapping: bool = True,
        budget: Budget | str | None = None,
        ask: bool = False,
        invitation: str | None = None,
        proxy: str | None = None,
        timeout: float = REGISTER_SECONDS,
    ) -> None:
        self.profile = profile if isinstance(profile, Profile) else Profile.load(profile)
        self._proxy = usable_proxy(self.profile.server, proxy or self.profile.proxy)
        self._accept: Accept = parse_accept(accept)
        self._takes = takes
        self._ask = ask
        self._port = port
        self._port_mapping = port_mapping
        self._timeout = timeout
        self._discretion = ByPolicy(self.profile.policies, relay_only=relay_only)
        self._endpoint = Endpoint(
            identity=self.profile.identity,
            name=self.profile.name,
            known=self.profile.known,
            random=secrets.token_bytes,
            disclosure=self._disclosure(),
            discretion=self._discretion,
            callable_=callable,
            budget=budget_of(budget),
            invitation=invitation,
        )
        self._news = News()
        self._memory = Memory(self.profile.known, self._contacts_changed)
        self._diary = Diary(self.profile.last_lines, self._history)
        self._calls = Calls(
            self._endpoint,
            self._command,
            self._decide,
            self._memory,
            self._diary,
            self._news,
            ask=ask,
        )
        self._runtime: Runtime | None = None
        self._registered: asyncio.Future[None] | None = None
        self._is_online = False
        self._refused: RegistrationRefused | None = None
        self._presence: dict[str, bool] = {}
        self._last_error: Exception | None = None
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

    @property
    def port_mappings(self) -> tuple[PortMapping, ...]:
        """What the routers in front of us have granted."""
        return self._endpoint.port_mappings

    async def __aenter__(self) -> Peer:
        if self._runtime is not None or self._closed:
            raise RuntimeError("a peer is entered once; make another one")
        self._registered = asyncio.get_running_loop().create_future()
        self._runtime = self.runtime_class(
            self._endpoint,
            self.profile.server,
            self._event,
            self._failed,
            self._calls.settled,
            port=self._port,
            port_mapping=self._port_mapping,
            proxy=self._proxy,
        )
        try:
            await self._runtime.start()
            async with asyncio.timeout(self._timeout):
                await self._registered
        except TimeoutError:
            await self._close()
            error = self._last_error
            if isinstance(error, RegistrationRefused):
                raise error from None
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

        Raises UnknownName, PeerOffline, CallDeclined, PeerBusy, NoAnswer, PeerKeyChanged,
        ServerUnreachable when the switchboard was away all the time.
        """
        ring = self.ring(name, app=app, kind=KIND_LINE)
        try:
            async with asyncio.timeout(timeout):
                return await ring.answered()
        except TimeoutError:
            ring.abandon()
            if not self._is_online:
                raise server_unreachable(self.profile.server, self._last_error) from None
            raise NoAnswer(f"No line to {name} came about within {timeout:g} s.") from None
        except asyncio.CancelledError:
            ring.abandon()
            raise

    def ring(self, name: str, *, app: str = "", kind: str = KIND_CALL) -> OutgoingRing:
        """Call ``name`` and let it ring; see :class:`OutgoingRing`. Raises UnknownName."""
        try:
            canonical = canonical_name(name)
        except InvalidName as error:
            raise UnknownName(f"{name!r} cannot be anybody's name: {error}.") from error
        if canonical == self.name:
            raise UnknownName(f"{canonical} is yourself: another name is needed.")
        return self._calls.call(canonical, kind, app)

    def incoming(self) -> AsyncIterator[Line]:
        """The lines that others open to us, those that came earlier first, until we leave.

        Raises RegistrationRefused when the switchboard takes us no more.
        """
        return Arrivals(self._calls.arrived, self._next_news)

    def rings(self) -> AsyncIterator[Ring]:
        """With ``ask``: calls that wait for a person's word, until we leave; see
        :meth:`incoming`."""
        return Arrivals(self._calls.arrived_rings, self._next_news)

    def refused_calls(self) -> AsyncIterator[RefusedCall]:
        """Calls of people whose key is not the remembered one, until we leave; see
        :meth:`incoming`. They are logged as warnings, too."""
        return Arrivals(self._calls.refused, self._next_news)

    async def online_changes(self) -> AsyncIterator[bool]:
        """:attr:`online`, whenever it has become another, until we leave; see
        :meth:`incoming`."""
        told = self._is_online
        while True:
            while self._is_online == told:
                if not await self._next_news():
                    return
            told = self._is_online
            yield told

    async def presence(self, names: Iterable[str], timeout: float = 2.0) -> dict[str, bool]:
        """Who of ``names`` can be called now, as far as the switchboard tells within ``timeout``
        seconds."""
        wanted = set(names)
        self._command(lambda now: self._endpoint.watch(sorted(wanted), now))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while not wanted <= self._presence.keys() and await self._next_news():
                    pass
        return {name: online for name, online in self._presence.items() if name in wanted}

    # ----------------------------------------------------------------- from the engine

    def _event(self, event: EndpointOutput) -> None:
        if self._calls.event(event):
            return
        match event:
            case KeysFound(keys):
                self._memory.found(keys)
            case Online():
                self._set_online(True)
                if self._registered is not None and not self._registered.done():
                    self._registered.set_result(None)
            case Offline():
                self._set_online(False)
            case Refused(_code, text, final):
                self._last_error = RegistrationRefused(text)
                if final:
                    self._refuse(RegistrationRefused(text))
            case PresenceSeen(name, online):
                self._presence[name] = online
                self._news.tell()
            case SignallingProblem(code, text):
                log.debug("the switchboard says: %s (%s)", text, code)
            case _:
                pass

    def _decide(self, call: IncomingCall) -> Taking:
        """What becomes of an incoming call."""
        if not self._accept.takes(call.name, call.key_known):
            return Taking.NO
        if self._takes is None:
            return Taking.YES
        try:
            return self._takes(call.name, call.app)
        except Exception:  # the application's; the engine must go on
            log.exception("the decision about a call has failed; it is not taken")
            return Taking.NO

    def _contacts_changed(self) -> None:
        if self._discloses_to_contacts and not self._closed:
            disclosure = self._disclosure()
            self._command(lambda now: self._endpoint.set_disclosure(disclosure, now))

    def _disclosure(self) -> Audience:
        hidden_from = self._discretion.hidden_from()
        self._discloses_to_contacts = self._accept.contacts_only or bool(hidden_from)
        contacts = self.profile.contacts()
        ask = self._ask or self._discretion.nothing_on_file
        return self._accept.disclosure(contacts, ask=ask, hidden_from=hidden_from)

    def _set_online(self, online: bool) -> None:
        self._is_online = online
        self._news.tell()

    def _failed(self, error: Exception) -> None:
        self._last_error = error
        lasting = lasting_error(self.profile.server, error)
        waiting = self._registered
        if lasting is not None and waiting is not None and not waiting.done():
            waiting.set_exception(lasting)

    def _refuse(self, refused: RegistrationRefused) -> None:
        self._refused = refused
        self._set_online(False)
        if self._registered is not None and not self._registered.done():
            self._registered.set_exception(refused)

    # ------------------------------------------------------------------------- inside

    def _history(self, call_id: bytes) -> CallHistory | None:
        return self._command(lambda now: self._endpoint.history(call_id, now))

    def _command(self, do: Callable[[float], T]) -> T:
        if self._runtime is None:
            raise RuntimeError("use the peer inside `async with`")
        return self._runtime.command(do)

    async def _next_news(self) -> bool:
        """Wait until something has changed; False when nothing will any more, since we left."""
        if self._refused is not None:
            raise self._refused
        if not self._closed:
            await self._news.next()
        return not self._closed

    async def _close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._is_online = False
        try:
            if self._runtime is not None:
                await self._runtime.close()
        finally:
            self._calls.close()
            self._news.tell()
            await self._memory.close()
            await self._diary.close()
