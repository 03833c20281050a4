"""``knothole listen``"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Annotated

from cyclopts import Parameter

from knothole.apps.echo import echo
from knothole.apps.pipe import join_stdio
from knothole.cli.output import Output, WrongUsage
from knothole.cli.session import path_facts, run
from knothole.peer.line import Line
from knothole.peer.peer import Peer


def listen(
    *,
    echo: Annotated[bool, Parameter(negative=())] = False,
    pipe: Annotated[bool, Parameter(negative=())] = False,
    answer: Annotated[bool, Parameter(negative=())] = False,
    once: bool = False,
    accept: str = "anyone",
    input: Annotated[str, Parameter(name="--in")] = "default",
    out: str = "default",
    json: bool = False,
) -> int:
    """Be online and take calls. Prints `ready` when you can be called.

    Example: knothole listen --pipe --once > received.bin

    Parameters
    ----------
    echo
        Send everything back.
    pipe
        Join stdin and stdout to the first connection.
    answer
        Ring, ask, and talk; the caller is shown no address before you answer.
    once
        End after the first call.
    accept
        Whose calls are taken: anyone, contacts, or NAME,NAME.
    input
        With --answer, what is spoken: FILE.wav, tone, null, or a sound device.
    out
        With --answer, where it is heard: FILE.wav, null, or a sound device.
    json
        One JSON object per line.
    """
    if echo + pipe + answer > 1:
        raise WrongUsage("--echo, --pipe and --answer exclude each other: choose one.")
    output = Output(json=json)
    if answer:
        from knothole.cli.answer import answer_calls

        return run(answer_calls(output, accept=accept, source=input, sink=out, once=once))
    if pipe:
        return run(_pipe(output, accept))
    return run(_echo(output, accept, once))


async def _echo(output: Output, accept: str, once: bool) -> int:
    tasks: set[asyncio.Task[None]] = set()
    async with Peer(accept=accept) as peer:
        output.result("ready", "ready", name=peer.name)
        try:
            async for line in peer.incoming():
                _announce(output, line)
                if once and line.app != "ping":
                    await _echo_line(output, line)
                    return 0
                task = asyncio.create_task(_echo_line(output, line))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    return 0


async def _echo_line(output: Output, line: Line) -> None:
    async with line:
        await echo(line)
    output.note(
        "over", f"{line.peer_name}: {line.close_reason}", peer=line.peer_name, why=line.close_reason
    )


async def _pipe(output: Output, accept: str) -> int:
    """Others than pipes (a ping, say) are served on the side; stdout belongs to the pipe."""
    others: set[asyncio.Task[None]] = set()
    async with Peer(accept=accept) as peer:
        output.aside("ready", "ready", name=peer.name)
        try:
            async for line in peer.incoming():
                if line.app == "pipe":
                    _announce(output, line)
                    async with line:
                        await join_stdio(line)
                    return 0
                task = asyncio.create_task(_keep(line))
                others.add(task)
                task.add_done_callback(others.discard)
        finally:
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
    return 0


async def _keep(line: Line) -> None:
    async with line:
        await line.wait_closed()


def _announce(output: Output, line: Line) -> None:
    with contextlib.suppress(Exception):
        output.note(
            "line",
            f"{line.peer_name} is connected ({line.path})",
            peer=line.peer_name,
            app=line.app,
            **path_facts(line.path),
        )
