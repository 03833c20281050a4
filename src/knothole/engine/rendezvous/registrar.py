"""Who may register under which name."""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import IPv6Network

from knothole.engine.rate import TokenBuckets
from knothole.engine.rendezvous.accounts import Account, Accounts, Creation
from knothole.engine.rendezvous.directory import Directory
from knothole.engine.rendezvous.limits import Limits
from knothole.engine.rendezvous.registration import is_signed
from knothole.wire.address import Address
from knothole.wire.signal.messages import Refused, Register
from knothole.wire.signal.values import VERSION, InvalidName, Refusal, canonical_name


class Registrar:
    """First come, first served: a name belongs to the key that registered it first, for good."""

    def __init__(
        self,
        *,
        accounts: Accounts,
        directory: Directory,
        server_pins: Collection[bytes],
        invitations_needed: bool,
        limits: Limits,
    ) -> None:
        self._accounts = accounts
        self._directory = directory
        self.server_pins = tuple(server_pins)
        self.invitations_needed = invitations_needed
        self._limits = limits
        self._new_names: TokenBuckets[str] = TokenBuckets(limits.new_names)

    def admit(self, register: Register, nonce: bytes, remote: Address, now: float) -> str | Refused:
        """The name under which this client is registered from now on, or why it is not."""
        if register.version != VERSION:
            return wrong_version(register.version)
        try:
            name = canonical_name(register.name)
        except InvalidName as error:
            return Refused(Refusal.BAD_NAME, f"{error}")
        if not is_signed(register, nonce, self.server_pins):
            return Refused(
                Refusal.BAD_SIGNATURE,
                "the signature is not right for this server and this connection; something in "
                "between may be opening your TLS",
            )
        known = self._accounts.get(name)
        if known is not None and known.public_key != register.public_key:
            return _taken(name)
        if (full := self._no_room(name, register.device_id)) is not None:
            return full
        account = Account(
            name,
            register.public_key,
            register.sealing_key,
            register.sealing_signature,
            register.visible_to,
        )
        if known is None:
            return self._create(account, register.invitation, remote, now) or name
        if known != account:
            self._accounts.update(account)
        return name

    def _no_room(self, name: str, device_id: bytes) -> Refused | None:
        if self._directory.session(name, device_id) is not None:
            return None  # it takes the place of its own old session
        if sum(1 for _ in self._directory.sessions(name)) >= self._limits.devices_per_name:
            text = f"{name} has as many devices online as this server takes; close one of them"
            return Refused(Refusal.TOO_MANY_DEVICES, text)
        if len(self._directory) >= self._limits.sessions:
            return Refused(Refusal.SERVER_FULL, "this server is full; try again later")
        return None

    def _create(
        self, account: Account, invitation: str | None, remote: Address, now: float
    ) -> Refused | None:
        if self.invitations_needed and invitation is None:
            text = "a new name needs an invitation here; ask whoever runs the server for a code"
            return Refused(Refusal.INVITATION_NEEDED, text)
        if not self._may_try(remote, now):
            text = "too many new names from your address; try again in an hour"
            return Refused(Refusal.TOO_MANY_NAMES, text)
        match self._accounts.create(account, invitation if self.invitations_needed else None):
            case Creation.CREATED:
                return None
            case Creation.NAME_TAKEN:
                return _taken(account.name)
            case Creation.BAD_INVITATION:
                text = "that invitation is not known or has been used; each is good for one name"
                return Refused(Refusal.BAD_INVITATION, text)

    def _may_try(self, remote: Address, now: float) -> bool:
        """Counts attempts, so that it also slows the guessing of invitations."""
        host = remote.host
        if remote.is_ipv6:  # whoever has one address of a /64 has them all
            host = str(IPv6Network((host.partition("%")[0], 64), strict=False))
        return self._new_names.take(host, 1, now)


def wrong_version(version: int) -> Refused:
    """What a client of another version is told."""
    late = "the server" if version > VERSION else "your program"
    return Refused(
        Refusal.VERSION,
        f"this server speaks version {VERSION} of the protocol and your program version {version}; "
        f"{late} needs an update",
    )


def _taken(name: str) -> Refused:
    return Refused(
        Refusal.NAME_TAKEN,
        f"the name {name} belongs to another key on this server. If it is yours, copy the profile "
        "folder from the device that has it; otherwise choose another name",
    )
