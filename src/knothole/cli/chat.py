"""``knothole chat``, and the conversation of ``knothole listen``"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Annotated, Final

from cyclopts import Parameter

from knothole.apps.chat import APP, Chat, start_chat
from knothole.cli.network import ANY_NETWORK, Network, NetworkOptions
from knothole.cli.output import Output
from knothole.cli.session import line_to, run
from knothole.cli.terminal import Piped, Typed, typing
from knothole.peer.errors import LineClosed
from knothole.peer.line import Line

LEAVE_SECONDS: Final = 5.0  # ours: what was said last may take so long to arrive


def chat(
    name: Annotated[str, Parameter(help="To whom: somebody who runs knothole listen")],
    /,
    *,
    network: NetworkOptions = ANY_NETWORK,
    json: bool = False,
) -> int:
    """Write to NAME and read the answers, line by line.

    What the other side sends is shown, never obeyed by your terminal. The end of the input
    (Ctrl-D) leaves.

    Example: knothole chat bob

    Parameters
    ----------
    json
        One JSON object per line; what is said is still read from stdin line by line.
    """
    return run(_chat(Output(json=json), name, network))


async def _chat(output: Output, name: str, network: Network) -> int:
    async with line_to(output, name, APP, network) as line:
        await converse(output, line, Piped(), leave_at_end=True)
    return 0


async def converse(output: Output, line: Line, otherwise: Typed, *, leave_at_end: bool) -> None:
    """Chat over ``line`` until one side leaves; with a person at a terminal, else ``otherwise``.

    The end of ``otherwise`` leaves only with ``leave_at_end``. Raises LineClosed, WrongChat.
    """
    conversation = await start_chat(line)
    name = line.peer_name
    with typing(output, "> ", otherwise) as typed:
        if typed is not otherwise:
            output.note("hint", "Type, and send with Enter; Ctrl-D leaves.")
        saying = asyncio.create_task(_say(conversation, typed))
        hearing = asyncio.create_task(_hear(output, conversation, name))
        try:
            await asyncio.wait([saying, hearing], return_when=asyncio.FIRST_COMPLETED)
            if saying.done() and typed is otherwise and not leave_at_end and not saying.exception():
                await hearing
            for task in (hearing, saying):
                if task.done():
                    task.result()
        finally:
            for task in (saying, hearing):
                task.cancel()
            await asyncio.gather(saying, hearing, return_exceptions=True)
    they_left = hearing.done() and not hearing.cancelled()
    nothing_lost = (TimeoutError, LineClosed) if they_left else (TimeoutError,)
    with contextlib.suppress(*nothing_lost):
        async with asyncio.timeout(LEAVE_SECONDS):
            await conversation.leave()
    if they_left:
        output.note("left", f"{name} has left.", peer=name, who=name)
    else:
        output.note("left", f"You have left the chat with {name}.", peer=name, who="you")


async def _say(conversation: Chat, typed: Typed) -> None:
    while (text := await typed.line()) is not None:
        await conversation.say(text)


async def _hear(output: Output, conversation: Chat, name: str) -> None:
    async for text in conversation.messages():
        output.result("message", f"{name}: {text}", peer=name, text=text)
