"""Who is here, on which devices, and who may see it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from knothole.engine.rendezvous.accounts import Account, Accounts
from knothole.engine.rendezvous.outputs import (
    ConnectionId,
    SendTo,
    ServerOutput,
    SessionClosed,
    SessionOpened,
)
from knothole.wire.address import Address
from knothole.wire.candidate import (
    Candidate,
    CandidateKind,
    candidate_priority,
    encode_candidate,
)
from knothole.wire.signal.messages import Found, NotFound, Presence, ServerMessage
from knothole.wire.signal.values import MAX_CANDIDATES, Audience, DeviceOnFile


@dataclass(eq=False, slots=True)
class Session:
    """One registered device.

    ``on_file`` are the candidates it sent, line by line with the address in each; ``mapped`` is
    what the server saw itself, the newest for each address family, and ``host`` the IP address that
    the signalling comes from.
    """

    session_id: str
    name: str
    public_key: bytes
    device_id: bytes
    connection: ConnectionId
    disclosure: Audience
    callable: bool
    host: str = ""
    on_file: tuple[tuple[str, Address], ...] = ()
    mapped: dict[bool, Address] = field(default_factory=dict)
    watched: set[str] = field(default_factory=set)

    @property
    def observed(self) -> tuple[str, ...]:
        """The IP addresses at which the server itself sees this device."""
        hosts = (self.host, *(address.host for address in self.mapped.values()))
        # A zone of ours means nothing to another host, and is none of the values of the message.
        return tuple(dict.fromkeys(host for host in hosts if host and "%" not in host))

    def disclosed_to(self, name: str) -> DeviceOnFile:
        """What a caller is told of this device: its addresses only when it wants that."""
        if not self.disclosure.includes(name):
            return DeviceOnFile(self.device_id)
        known = {address for _, address in self.on_file}
        seen = [_seen(address) for address in self.mapped.values() if address not in known]
        lines = (*map(encode_candidate, seen), *(line for line, _ in self.on_file))
        return DeviceOnFile(self.device_id, lines[:MAX_CANDIDATES])


class Directory:
    """Sessions by name and device, presence, and what each asker gets to see of it."""

    def __init__(self, accounts: Accounts, outputs: deque[ServerOutput]) -> None:
        self._accounts = accounts
        self._outputs = outputs
        self._by_name: dict[str, dict[bytes, Session]] = {}
        self._by_id: dict[str, Session] = {}
        self._visible_to: dict[str, Audience] = {}  # of the names that have a session
        self._watchers: dict[str, dict[Session, None]] = {}  # a dict, because a set has no order

    def __len__(self) -> int:
        return len(self._by_id)

    def sessions(self, name: str) -> Iterator[Session]:
        return iter(self._by_name.get(name, {}).values())

    def session(self, name: str, device_id: bytes) -> Session | None:
        return self._by_name.get(name, {}).get(device_id)

    def callable_sessions(self, name: str) -> list[Session]:
        return [session for session in self.sessions(name) if session.callable]

    def by_id(self, session_id: str) -> Session | None:
        return self._by_id.get(session_id)

    def send(self, session: Session, message: ServerMessage) -> None:
        self._outputs.append(SendTo(session.connection, message))

    def visible_account(self, name: str, asker: str) -> Account | None:
        """The account when there is one that ``asker`` may see; unseen and unknown are alike."""
        account = self._accounts.get(name)
        if account is None or not (asker == name or account.visible_to.includes(asker)):
            return None
        return account

    def open(self, session: Session, visible_to: Audience) -> None:
        """Take in a session whose name and device have none."""
        self._outputs.append(SessionOpened(session.session_id, session.name, session.connection))
        with _Change(self, session.name):
            self._by_id[session.session_id] = session
            self._by_name.setdefault(session.name, {})[session.device_id] = session
            self._visible_to[session.name] = visible_to

    def close(self, session: Session) -> None:
        self.unwatch(session, tuple(session.watched))
        with _Change(self, session.name):
            self._forget(session)
        self._outputs.append(SessionClosed(session.session_id, session.name))

    def replace(self, old: Session, new: Session, visible_to: Audience) -> None:
        """The same device again: nobody sees it go and come."""
        self.unwatch(old, tuple(old.watched))
        self._outputs.append(SessionClosed(old.session_id, old.name))
        self._outputs.append(SessionOpened(new.session_id, new.name, new.connection))
        with _Change(self, new.name):
            self._forget(old)
            self._by_id[new.session_id] = new
            self._by_name.setdefault(new.name, {})[new.device_id] = new
            self._visible_to[new.name] = visible_to

    def set_callable(self, session: Session, callable: bool) -> None:
        with _Change(self, session.name):
            session.callable = callable

    def set_visible_to(self, name: str, visible_to: Audience) -> None:
        with _Change(self, name):
            self._visible_to[name] = visible_to

    def look_up(self, session: Session, name: str) -> None:
        account = self.visible_account(name, session.name)
        if account is None:
            self.send(session, NotFound(name))
            return
        self.send(
            session,
            Found(
                name,
                account.public_key,
                account.sealing_key,
                account.sealing_signature,
                self.sees_online(session.name, name),
            ),
        )

    def watch(self, session: Session, names: Iterable[str]) -> None:
        for name in names:
            session.watched.add(name)
            self._watchers.setdefault(name, {})[session] = None
            self.send(session, Presence(name, self.sees_online(session.name, name)))

    def unwatch(self, session: Session, names: Iterable[str]) -> None:
        for name in names:
            session.watched.discard(name)
            watchers = self._watchers.get(name, {})
            watchers.pop(session, None)
            if not watchers:
                self._watchers.pop(name, None)

    def sees_online(self, asker: str, name: str) -> bool:
        """True when ``name`` can be called and lets ``asker`` see it."""
        visible_to = self._visible_to.get(name)
        if visible_to is None or not any(session.callable for session in self.sessions(name)):
            return False
        return asker == name or visible_to.includes(asker)

    def watchers(self, name: str) -> tuple[Session, ...]:
        return tuple(self._watchers.get(name, ()))

    def _forget(self, session: Session) -> None:
        del self._by_id[session.session_id]
        devices = self._by_name[session.name]
        del devices[session.device_id]
        if not devices:
            del self._by_name[session.name]
            del self._visible_to[session.name]


class _Change:
    """Tells the watchers of a name what became different for each of them."""

    def __init__(self, directory: Directory, name: str) -> None:
        self._directory = directory
        self._name = name

    def __enter__(self) -> None:
        self._before = {
            watcher: self._directory.sees_online(watcher.name, self._name)
            for watcher in self._directory.watchers(self._name)
        }

    def __exit__(self, *_: object) -> None:
        for watcher, before in self._before.items():
            online = self._directory.sees_online(watcher.name, self._name)
            if online != before:
                self._directory.send(watcher, Presence(self._name, online))


def _seen(address: Address) -> Candidate:
    """The mapped address that the server saw itself, as a server-reflexive candidate."""
    return Candidate(
        foundation="seen6" if address.is_ipv6 else "seen4",
        component=1,
        transport="udp",
        priority=candidate_priority(CandidateKind.SERVER_REFLEXIVE, 0xFFFF),
        address=address,
        kind=CandidateKind.SERVER_REFLEXIVE,
        # RFC 8839 Section 5.1: an agent that hides the base says 0.0.0.0 and port 9.
        related=Address("::" if address.is_ipv6 else "0.0.0.0", 9),  # noqa: S104
    )
