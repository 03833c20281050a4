"""``knothole turn-client``: what an operator asks of a TURN server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, TypeAlias

from cyclopts import App, Parameter

from knothole.cli.options import Json
from knothole.cli.output import Failure, Output, WrongUsage
from knothole.cli.session import run
from knothole.engine.turn.client import Allocated
from knothole.engine.turn.credentials import Credentials, rest_credentials
from knothole.io.turn_client import Trust, TurnClient, TurnFailed, TurnPlace, find_turn_server
from knothole.io.turn_load import LEAST_SIZE, Ring
from knothole.wire.malformed import MalformedMessage
from knothole.wire.server_url import InvalidServerUrl, parse_pin
from knothole.wire.turn_uri import ServerUri, parse_server_uri

PASSWORD_VARIABLE: Final = "KNOTHOLE_TURN_PASSWORD"  # noqa: S105 - its name, not the password
SECRET_SECONDS: Final = 3600  # ours: how long credentials made of a secret are good
MOST_ALLOCATIONS: Final = 10_000
MOST_SIZE: Final = 1200  # ours: what fits in one datagram on every path, headers included
ECHO_SIZES: Final = (1, 100, 1000)  # ours: bytes
ECHO_SECONDS: Final = 10.0  # ours: for each payload to come back
ECHO_AGAIN_SECONDS: Final = 0.5
OPENING_AT_ONCE: Final = 16  # ours: handshakes and allocations that are waited for together

app = App(
    name="turn-client",
    help="Try a TURN server, yours or another: allocate, echo, load.\n\n"
    "Example: knothole turn-client echo turn:turn.example.org --username u --password-file pw",
    version_flags=(),
    group_parameters="Options",
)

_FORM: Final = "turn:HOST[:PORT][?transport=udp|tcp], or with turns: over TLS (tcp) and DTLS (udp)."
Uri: TypeAlias = Annotated[str, Parameter(help=_FORM)]


@Parameter(name="*")
@dataclass(frozen=True)
class Access:
    """How to come in."""

    username: str = ""
    "The user; with --secret-file the name in the credentials that are made (default: knothole)."
    password_file: Path | None = None
    "A file with the password; without one KNOTHOLE_TURN_PASSWORD in the environment has it."
    secret_file: Path | None = None
    "A file with the server's secret (coturn's static-auth-secret): credentials are made of it."
    pin: str = ""
    "Over TLS and DTLS: the hash of the server's key, as its address shows it."
    insecure: bool = False
    "Over TLS and DTLS: believe any server."


@app.command
def allocate(uri: Uri, /, *, access: Access = Access(), json: Json = False) -> int:
    """Get a relayed address, and show what the server says and how long it took.

    Example: knothole turn-client allocate turns:turn.example.org --username u --password-file pw
    """
    return _run(Output(json=json), uri, access, _allocate)


@app.command
def echo(uri: Uri, /, *, access: Access = Access(), json: Json = False) -> int:
    """Send payloads from one relayed address to another and back, and compare.

    Example: knothole turn-client echo turn:turn.example.org --username u --password-file pw
    """
    return _run(Output(json=json), uri, access, _echo)


@app.command
def load(
    uri: Uri,
    /,
    *,
    allocations: int = 10,
    pps: Annotated[float, Parameter(name="--pps")] = 50.0,
    size: int = 160,
    seconds: float = 5.0,
    access: Access = Access(),
    json: Json = False,
) -> int:
    """Send from many relayed addresses at once; packets a second, loss and latency.

    Each allocation sends to the relayed address of the next one, so that every packet goes to the
    server and back. Do it to your own server only.

    Example: knothole turn-client load turn:turn.example.org --allocations 50 --secret-file secret

    Parameters
    ----------
    allocations
        How many.
    pps
        Packets a second that each of them sends.
    size
        Bytes of payload in each packet.
    seconds
        For how long.
    """
    for name, value, least, most in (
        ("--allocations", allocations, 1, MOST_ALLOCATIONS),
        ("--pps", pps, 0.1, 100_000),
        ("--size", size, LEAST_SIZE, MOST_SIZE),
        ("--seconds", seconds, 0.1, 86_400),
    ):
        if not least <= value <= most:
            raise WrongUsage(f"{name}: {value} is not between {least} and {most}.")
    output = Output(json=json)

    async def work(output: Output, open_: _Opener) -> None:
        clients = await open_.many(allocations)
        ring = Ring(clients)
        await ring.meet()
        result = await ring.send(seconds, pps, size)
        lost = 100 * (1 - result.received / result.sent) if result.sent else 0.0
        p50, p95, p99 = (_ms(result.percentile(percent)) for percent in (50, 95, 99))
        output.result(
            "load",
            f"{allocations} allocations, {size} bytes: {result.received / result.seconds:.0f}"
            f" packets/s, {lost:.2f} % lost, latency p50 {p50} p95 {p95} p99 {p99} ms",
            allocations=allocations,
            bytes=size,
            seconds=round(result.seconds, 3),
            sent=result.sent,
            received=result.received,
            lost_percent=round(lost, 3),
            packets_per_second=round(result.received / result.seconds, 1),
            p50_ms=p50,
            p95_ms=p95,
            p99_ms=p99,
        )
        if not result.received:
            raise Failure("Nothing came through.")

    return _run(output, uri, access, work)


_Work: TypeAlias = "Callable[[Output, _Opener], Awaitable[None]]"


class _Opener:
    """Makes allocations on one server, and gives them back at the end."""

    def __init__(self, place: TurnPlace, credentials: Credentials, trust: Trust) -> None:
        self._place, self._credentials, self._trust = place, credentials, trust
        self._clients: list[TurnClient] = []

    async def one(self) -> tuple[TurnClient, Allocated]:
        client = TurnClient(self._place, self._credentials, self._trust)
        self._clients.append(client)
        return client, await client.open()

    async def many(self, count: int) -> list[TurnClient]:
        slots = asyncio.Semaphore(OPENING_AT_ONCE)

        async def within() -> TurnClient:
            async with slots:
                return (await self.one())[0]

        tasks = [asyncio.create_task(within()) for _ in range(count)]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def close(self) -> None:
        await asyncio.gather(*(client.close() for client in self._clients))


async def _allocate(output: Output, open_: _Opener) -> None:
    await _shown(output, open_)


async def _shown(output: Output, open_: _Opener) -> TurnClient:
    client, got = await open_.one()
    connect_ms, allocate_ms = _ms(client.connect_seconds), _ms(client.allocate_seconds)
    says = f", {got.software}" if got.software else ""
    output.result(
        "allocated",
        f"relayed {got.relayed}, mapped {got.mapped}, for {got.lifetime_seconds} s{says};"
        f" connected in {connect_ms} ms, allocated in {allocate_ms} ms",
        relayed=str(got.relayed),
        mapped=str(got.mapped),
        lifetime_seconds=got.lifetime_seconds,
        software=got.software or None,
        connect_ms=connect_ms,
        allocate_ms=allocate_ms,
    )
    return client


async def _echo(output: Output, open_: _Opener) -> None:
    near, far = [await _shown(output, open_) for _ in range(2)]
    came: asyncio.Queue[bytes] = asyncio.Queue()
    near.on_data = lambda _, payload: came.put_nowait(payload)
    far.on_data = far.send
    far.reach(near.relayed)
    near.reach(far.relayed)
    for size in ECHO_SIZES:
        payload = os.urandom(size)
        begun = time.monotonic()
        while True:
            sent = time.monotonic()
            near.send(far.relayed, payload)
            back = await _next(came)
            if back is not None:
                break
            why = near.refusal(far.relayed) or far.refusal(near.relayed)
            if why or time.monotonic() - begun > ECHO_SECONDS:
                raise Failure(f"{size} bytes did not come back: {why or 'no answer'}.")
        if back != payload:
            raise Failure(f"{size} bytes came back as {len(back)} others.")
        rtt_ms = _ms(time.monotonic() - sent)
        output.result("echo", f"{size} bytes back in {rtt_ms} ms", bytes=size, rtt_ms=rtt_ms)
        while not came.empty():  # copies of what was sent twice
            came.get_nowait()


async def _next(came: asyncio.Queue[bytes]) -> bytes | None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(ECHO_AGAIN_SECONDS):
            return await came.get()
    return None


def _run(output: Output, uri: str, access: Access, work: _Work) -> int:
    server, credentials, trust = _server(uri), _credentials(access), _trust(access)

    async def main() -> int:
        try:
            async with _opener(server, credentials, trust) as opener:
                await work(output, opener)
        except TurnFailed as error:
            raise Failure(f"{error}.") from error
        return 0

    return run(main())


@contextlib.asynccontextmanager
async def _opener(
    server: ServerUri, credentials: Credentials, trust: Trust
) -> AsyncIterator[_Opener]:
    opener = _Opener(await find_turn_server(server), credentials, trust)
    try:
        yield opener
    finally:
        await opener.close()


def _server(text: str) -> ServerUri:
    try:
        uri = parse_server_uri(text)
    except MalformedMessage:
        uri = None
    if uri is None or text[:4].lower() != "turn":
        raise WrongUsage(f"{text!r} is no TURN server: turn:HOST or turns:HOST, please.")
    return uri


def _credentials(access: Access) -> Credentials:
    if access.secret_file is not None:
        if access.password_file is not None:
            raise WrongUsage("--secret-file and --password-file: one of them.")
        # While a new secret is brought in, the old one is below it (server.turn_secret).
        secret = _read("--secret-file", access.secret_file).splitlines()[0].rstrip()
        name = access.username or "knothole"
        return rest_credentials(secret, name, SECRET_SECONDS, time.time())
    if not access.username:
        raise WrongUsage("Who are you to the server? --username, or --secret-file.")
    if access.password_file is not None:
        return Credentials(access.username, _read("--password-file", access.password_file))
    password = os.environ.get(PASSWORD_VARIABLE)
    if not password:
        raise WrongUsage(f"No password: --password-file, or {PASSWORD_VARIABLE}.")
    return Credentials(access.username, password)


def _read(option: str, file: Path) -> str:
    try:
        text = file.read_text().strip()
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        raise WrongUsage(f"{option}: {file} cannot be read: {why}.") from error
    if not text:
        raise WrongUsage(f"{option}: {file} is empty.")
    return text


def _trust(access: Access) -> Trust:
    if not access.pin:
        return Trust(insecure=access.insecure)
    if access.insecure:
        raise WrongUsage("--pin and --insecure: one of them.")
    try:
        return Trust(pin=parse_pin(access.pin.removeprefix("#")))
    except InvalidServerUrl as error:
        raise WrongUsage(f"--pin: {error}.") from error


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 2)
