"""What an operator does with a server that runs: change its settings, let it run out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec

from knothole import __version__
from knothole.server.config import ConfigError, ServerConfig
from knothole.server.control import Reply, Request
from knothole.server.link import Change, Done, Drain, Look, TooLarge
from knothole.server.material import Material, MaterialError, load_material, relay_settings
from knothole.server.reload import applied
from knothole.server.reports import Report
from knothole.server.services import Offer
from knothole.server.snapshot import ListenerReport, Snapshot
from knothole.server.vitals import VitalSigns

if TYPE_CHECKING:
    from knothole.server.relay_link import RelayLink
    from knothole.server.rendezvous import Rendezvous
    from knothole.server.services import ServiceDesk

ANSWER_SECONDS: Final = 10.0  # ours: a relay that says nothing for so long is ill
LOOK_SECONDS: Final = 1.0  # ours: one that takes longer is too busy for its clients, too

Say = Callable[[str, str], object]


class NotChanged(Exception):
    """Everything is as it was before; the text says why."""


class Operation:
    """The settings of one running server.

    ``load`` reads the configuration anew; ``rendezvous`` and ``desk`` are None where there is no
    switchboard. What is done is told by ``say``, as the server's own news are.
    """

    def __init__(
        self,
        config: ServerConfig,
        material: Material,
        *,
        relay: RelayLink,
        rendezvous: Rendezvous | None,
        desk: ServiceDesk | None,
        say: Say,
        load: Callable[[], ServerConfig] | None,
        reached: Callable[[], dict[str, str]],
    ) -> None:
        self.config = config
        self.is_draining = False
        self._material = material
        self._relay, self._rendezvous, self._desk = relay, rendezvous, desk
        self._say, self._load, self._reached = say, load, reached
        self._signs = VitalSigns()
        self._one_at_a_time = asyncio.Lock()

    async def carry_out(self, request: Request) -> Reply:
        """What a command on this machine asks for. Raises NotChanged."""
        match request.command:
            case "reload":
                restart = await self.reload()
                return Reply(_reloaded(restart), facts={"restart": restart})
            case "refresh":
                await self.refresh()
                return Reply("refreshed")
            case "drain":
                await self.drain(request.draining)
                return Reply(_drained(request.draining))
            case "status":
                snapshot = await self.look(request.users)
                return Reply("status", facts=msgspec.to_builtins(snapshot))
            case unknown:
                raise NotChanged(f"the server does not know {unknown!r}: it is of another version")

    async def reload(self) -> list[str]:
        """Read the configuration file, the certificate and the secrets again.

        Returns the keys that have changed and need a restart. Raises NotChanged.
        """
        async with self._one_at_a_time:
            if self._load is None:
                raise NotChanged("this server cannot read its configuration again")
            try:
                wanted, restart = applied(self.config, self._load())
                await self._adopt(wanted, load_material(wanted))
            except (ConfigError, MaterialError, NotChanged) as error:
                text = f"not reloaded, the settings stay as they were: {error}"
                self._say("warning", text)
                raise NotChanged(text) from error
            for key in restart:
                self._say("warning", f"{key}: changed in the file, but needs a restart")
            self._say("reloaded", _reloaded(restart))
            return restart

    async def refresh(self) -> None:
        """Read the secrets and revocations again, whatever the file says by now.

        Raises NotChanged.
        """
        async with self._one_at_a_time:
            try:
                await self._adopt(self.config, load_material(self.config))
            except MaterialError as error:
                raise NotChanged(str(error)) from error

    async def drain(self, draining: bool = True) -> None:
        """Give out no new allocations while those that exist go on; or again.

        Raises NotChanged.
        """
        async with self._one_at_a_time:
            await self._order(Drain(draining))
            self.is_draining = draining
            self._update_desk()
            self._say("draining", _drained(draining))

    async def look(self, users: int = 0) -> Snapshot:
        """How everything is, with the ``users`` of the relay who have most relayed."""
        try:
            answers = await self._relay.ask(Look(users), LOOK_SECONDS)
        except TimeoutError:
            answers = []
        return Snapshot(
            version=__version__,
            is_draining=self.is_draining,
            vitals=self._signs.read(),
            switchboard=None if self._rendezvous is None else self._rendezvous.report(),
            listeners=[ListenerReport(*each) for each in self._reached().items()],
            relay_processes=self._relay.processes,
            relays=[answer for answer in answers if isinstance(answer, Report)],
        )

    def stop(self) -> None:
        self._signs.stop()

    async def _adopt(self, config: ServerConfig, material: Material) -> None:
        """The relay first: it may refuse, and then nothing has changed."""
        await self._order(Change(relay_settings(config, material)))
        before, self.config, self._material = self._material, config, material
        if self._rendezvous is not None:
            self._rendezvous.set_certificate(
                material.certificate.context,
                # Who was challenged before signs for the key it saw then.
                [material.certificate.key_hash, before.certificate.key_hash],
            )
            self._rendezvous.set_invitations_needed(config.invitation_required)
        self._update_desk()

    def _update_desk(self) -> None:
        """Have every registered client told where it may relay, and with which credentials."""
        if self._desk is None or self._rendezvous is None:
            return
        relays = bool(self.config.allocations) and not self.is_draining
        offer = Offer(self._material.secrets[0], self.config.other_turn, relays)
        if self._desk.offer != offer:
            self._desk.offer = offer
            self._rendezvous.renew_services()

    async def _order(self, order: Change | Drain) -> None:
        try:
            answers = await self._relay.ask(order, ANSWER_SECONDS)
        except TimeoutError as error:
            raise NotChanged("the relay does not answer") from error
        except TooLarge as error:
            raise NotChanged(str(error)) from error
        for answer in answers:
            if isinstance(answer, Done) and answer.refused:
                raise NotChanged(answer.refused)


def _reloaded(restart: list[str]) -> str:
    return "reloaded" + (f"; needs a restart: {', '.join(restart)}" if restart else "")


def _drained(draining: bool) -> str:
    return "draining: no new allocations" if draining else "not draining any more"
