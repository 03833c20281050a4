"""``knothole listen``"""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from knothole.cli.network import ANY_NETWORK, NetworkOptions
from knothole.cli.output import Output, WrongUsage
from knothole.cli.session import run
from knothole.peer.accept import BadAccept, parse_accept


def listen(
    *,
    echo: bool = False,
    pipe: bool = False,
    answer: bool = False,
    once: bool = False,
    accept: str = "anyone",
    input: Annotated[str | None, Parameter(name="--in")] = None,
    out: str | None = None,
    network: NetworkOptions = ANY_NETWORK,
    json: bool = False,
) -> int:
    """Be online and take calls and lines.

    Prints `ready` when you can be called. Without --echo, --pipe or --answer it takes chats, one
    at a time. Pings are answered, except with --answer: nobody has agreed to show an address.

    Example: knothole listen --pipe < /dev/null > received.bin

    Parameters
    ----------
    echo
        Send everything back.
    pipe
        Join stdin and stdout to the first pipe, then end.
    answer
        Take calls and talk. On a terminal you are asked first; otherwise it answers at once.
        Callers are shown no address before you answer.
    once
        End after the first call, chat or line that is no ping.
    accept
        Whose calls are taken: anyone (on this server), contacts, or NAME,NAME.
    input
        With --answer, what is spoken: FILE.wav, tone, null, or a sound device.
    out
        With --answer, where it is heard: FILE.wav (the next call: FILE-2.wav), null, or a sound
        device.
    json
        One JSON object per line; with --pipe on stderr, because stdout is the pipe's.
    """
    if echo + pipe + answer > 1:
        raise WrongUsage("--echo, --pipe and --answer exclude each other: choose one.")
    if not answer and (input is not None or out is not None):
        raise WrongUsage("--in and --out are for --answer.")
    try:
        parse_accept(accept)
    except BadAccept as error:
        raise WrongUsage(f"--{error}.") from error
    output = Output(json=json, stdout_is_data=pipe)
    if answer:
        from knothole.cli.answer import answer_calls

        task = answer_calls(
            output, accept=accept, source=input, sink=out, once=once, network=network
        )
        return run(task, when_terminated=0)
    if pipe:
        from knothole.cli.listener import take_pipe

        return run(take_pipe(output, accept, network))
    from knothole.cli.listener import chat_with_all, echo_all

    take = echo_all if echo else chat_with_all
    return run(take(output, accept, once, network), when_terminated=0)
