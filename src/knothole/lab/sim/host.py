"""Hosts, and the strict driver of the engines that run on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from knothole.engine.core import Datagram, Engine, Transmit
from knothole.lab.sim.fabric import Appointment, BrokenPromise, Fabric
from knothole.lab.sim.link import Link
from knothole.lab.sim.network import Interface, Realm
from knothole.lab.sim.packet import Drop, Packet
from knothole.lab.sim.stream import StreamClosed, Streams
from knothole.lab.sim.trace import Action, TraceEntry
from knothole.wire.address import Address, Transport

EngineT = TypeVar("EngineT", bound=Engine[Any])
ResultT = TypeVar("ResultT")


class Program(Generic[EngineT]):
    """An engine running on a host, with the bases that are its sockets.

    It is woken exactly when it asked to be and never otherwise. ``events`` is everything it put
    out besides Transmit, each with its moment; ``on_event`` is told of each as well, and may give
    commands to this and other engines by ``call``.
    """

    def __init__(
        self,
        name: str,
        engine: EngineT,
        host: Host,
        fabric: Fabric,
        on_event: Callable[[Any, float], None] | None,
    ) -> None:
        self.name, self.engine, self.host, self.on_event = name, engine, host, on_event
        self.events: list[tuple[float, Any]] = []
        self._kinds: Counter[type] = Counter()
        self._clock = fabric.clock
        self._wake_at: float | None = None
        self._appointment: Appointment | None = None
        self._busy = False
        self.stopped = False

    def bind(self, base: Address, *, listening: bool = False) -> None:
        """Open a socket; a ``listening`` one takes stream connections instead of making them.

        Raises ValueError if the host has not that address or the port is taken.
        """
        self.host.bind(self, base, listening=listening)

    def unbind(self, base: Address) -> None:
        """Close a socket."""
        self.host.unbind(base)

    def stop(self) -> None:
        """Kill the program: its sockets close, its streams vanish, it is never woken again."""
        if self._appointment is not None:
            self._appointment.cancel()
        self.stopped = True
        self.host.remove(self)

    def call(self, command: Callable[[EngineT, float], ResultT]) -> ResultT:
        """Give the engine a command now and carry out what follows from it."""
        result = command(self.engine, self._clock.now)
        self.poll()
        return result

    def receive(self, datagram: Datagram) -> None:
        """Hand the engine a datagram."""
        self.engine.receive(datagram, self._clock.now)
        self.poll()

    def note(self, event: object) -> None:
        """Record something that happened to the program and tell its listener."""
        self.events.append((self._clock.now, event))
        self._kinds[type(event)] += 1
        if self.on_event is not None:
            self.on_event(event, self._clock.now)

    def poll(self) -> None:
        """Carry out what the engine has put out and take note of when it wants to be woken."""
        if self._busy or self.stopped:
            return  # busy: the call further down the stack goes on until nothing is left
        self._busy = True
        try:
            while outputs := list(self.engine.outputs()):
                self._carry_out(outputs)
        finally:
            self._busy = False
        self._arm()

    def count(self, kind: type) -> int:
        """How many events there were of exactly this type."""
        return self._kinds[kind]

    def events_of(self, kind: type[ResultT]) -> list[ResultT]:
        """The events of one type, in order."""
        return [event for _, event in self.events if isinstance(event, kind)]

    def _carry_out(self, outputs: list[Any]) -> None:
        for output in outputs:
            if self.stopped:
                return
            if isinstance(output, Transmit):
                self.host.transmit(self, output.datagram)
            else:
                self.note(output)

    def _arm(self) -> None:
        if self.stopped:
            return
        at = self.engine.next_timeout()
        if at is not None and at < self._clock.now:
            raise BrokenPromise(f"{self.name} asks for the past: {at} at {self._clock.now}")
        if at == self._wake_at:
            return
        if self._appointment is not None:
            self._appointment.cancel()
        self._wake_at = at
        self._appointment = None if at is None else self._clock.at(at, self._wake)

    def _wake(self) -> None:
        now, asked = self._clock.now, self.engine.next_timeout()
        if asked != self._wake_at:
            raise BrokenPromise(f"{self.name} asks for {asked}, uncalled since it said {now}")
        self._wake_at = self._appointment = None
        self.engine.handle_timeout(now)
        outputs = list(self.engine.outputs())
        after = self.engine.next_timeout()
        if after is not None and after <= now:
            raise BrokenPromise(f"{self.name} spins at {now}: woken, it asks for {after}")
        self._busy = True
        try:
            self._carry_out(outputs)
        finally:
            self._busy = False
        self.poll()


class Host:
    """A computer with any number of addresses, in one realm or in several (Wi-Fi and mobile)."""

    def __init__(self, name: str, fabric: Fabric) -> None:
        self.name = name
        self.programs: list[Program[Any]] = []
        self._fabric = fabric
        self._interfaces: dict[str, Interface] = {}
        self._sockets: dict[Address, tuple[Program[Any], bool]] = {}
        self._streams = Streams(
            fabric.clock, self._put_on_line, self._deliver_stream, self._stream_closed
        )

    def attach(
        self, realm: Realm, *addresses: str, link: Link | None = None, down: Link | None = None
    ) -> Interface:
        """Connect an interface with these addresses to a realm by a line."""
        interface = realm.attach(self, addresses, Link() if link is None else link, down=down)
        self._interfaces.update((address, interface) for address in addresses)
        return interface

    def detach(self, address: str) -> None:
        """Lose an address: what comes for it or is sent from it is dropped from now on."""
        self._interfaces.pop(address).realm.withdraw(address)

    def run(
        self,
        engine: EngineT,
        *bases: Address,
        name: str | None = None,
        listening: bool = False,
        on_event: Callable[[Any, float], None] | None = None,
    ) -> Program[EngineT]:
        """Start an engine with sockets at ``bases``; ``listening`` as in ``Program.bind``."""
        title = self.name if name is None else f"{self.name}.{name}"
        program = Program(title, engine, self, self._fabric, on_event)
        for base in bases:
            self.bind(program, base, listening=listening)
        self.programs.append(program)
        program.poll()
        return program

    def bind(self, program: Program[Any], base: Address, *, listening: bool) -> None:
        """Open a socket of a program (see ``Program.bind``)."""
        if base.host not in self._interfaces:
            raise ValueError(f"{self.name} has no address {base.host}")
        if base in self._sockets:
            raise ValueError(f"{base} is already bound at {self.name}")
        self._sockets[base] = (program, listening)

    def unbind(self, base: Address) -> None:
        """Close a socket."""
        del self._sockets[base]
        self._streams.abandon(base)

    def close_stream(self, local: Address, remote: Address) -> None:
        """Close one connection of a socket."""
        self._streams.close(local, remote)

    def remove(self, program: Program[Any]) -> None:
        """Close all sockets of a program and forget it (see ``Program.stop``)."""
        self.programs.remove(program)
        for base in [base for base, (owner, _) in self._sockets.items() if owner is program]:
            self.unbind(base)

    def transmit(self, program: Program[Any], datagram: Datagram) -> None:
        """Send what an engine put out, from one of its sockets."""
        owner, listening = self._sockets.get(datagram.source, (None, False))
        if owner is not program:
            raise BrokenPromise(f"{program.name} sends from {datagram.source}, not its socket")
        for payload in datagram.segments():
            packet = Packet(datagram.source, datagram.destination, payload, datagram.transport)
            if datagram.transport is Transport.UDP:
                self._put_on_line(packet)
            else:
                single = Datagram(packet.source, packet.destination, payload, 0, packet.transport)
                if not self._streams.send(single, may_open=not listening):
                    self._drop(packet, Drop.NO_SOCKET)

    def arrive(self, packet: Packet, interface: Interface) -> None:
        """Hand a packet to the program whose socket it is for."""
        self._take(packet)

    def _take(self, packet: Packet) -> None:
        if packet.destination.host not in self._interfaces:
            self._drop(packet, Drop.NO_ADDRESS)
            return
        program, listening = self._sockets.get(packet.destination, (None, False))
        if program is None:
            self._drop(packet, Drop.NO_SOCKET)
            if packet.segment is not None:
                self._streams.receive(packet, listening=False)
            return
        now = self._fabric.clock.now
        self._fabric.trace.add(TraceEntry(now, self.name, Action.DELIVER, packet))
        if packet.segment is not None:
            self._streams.receive(packet, listening=listening)
        else:
            program.receive(Datagram(packet.source, packet.destination, packet.payload))

    def _put_on_line(self, packet: Packet) -> None:
        interface = self._interfaces.get(packet.source.host)
        if interface is None:
            self._drop(packet, Drop.NO_ADDRESS)
            return
        clock = self._fabric.clock
        self._fabric.trace.add(TraceEntry(clock.now, self.name, Action.SEND, packet))
        if packet.destination.host in self._interfaces:
            clock.at(clock.now, lambda: self._take(packet))
        else:
            interface.send(packet)

    def _deliver_stream(self, datagram: Datagram) -> None:
        program, _ = self._sockets.get(datagram.destination, (None, False))
        if program is not None:
            program.receive(datagram)

    def _stream_closed(self, event: StreamClosed) -> None:
        program, _ = self._sockets.get(event.local, (None, False))
        if program is not None:
            program.note(event)
            program.poll()

    def _drop(self, packet: Packet, reason: Drop) -> None:
        now = self._fabric.clock.now
        self._fabric.trace.add(TraceEntry(now, self.name, Action.DROP, packet, drop=reason))
