"""``knothole pipe``"""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import Parameter

from knothole.apps.pipe import APP, join
from knothole.cli.network import ANY_NETWORK, Network, NetworkOptions
from knothole.cli.output import Failure, Output
from knothole.cli.session import line_to, path_facts, run
from knothole.peer.line import Line


def pipe(
    name: Annotated[str, Parameter(help="To whom: somebody who runs knothole listen --pipe")],
    /,
    *,
    network: NetworkOptions = ANY_NETWORK,
    json: bool = False,
) -> int:
    """Join stdin and stdout to NAME's, like netcat.

    Reliable; each direction ends by itself, and the command when both have.

    Example: tar c photos | knothole pipe bob

    Parameters
    ----------
    json
        One JSON object per line, on stderr: stdout is the pipe's.
    """
    return run(_pipe(Output(json=json, stdout_is_data=True), name, network))


async def _pipe(output: Output, name: str, network: Network) -> int:
    async with line_to(output, name, APP, network) as line:
        await join_standard(line)
        output.note("over", "", peer=line.peer_name, **path_facts(line.path))
    return 0


async def join_standard(line: Line) -> None:
    """Join our stdin and stdout to the other side's by the line's one stream.

    Raises Failure when one of them cannot be read or written, LineClosed when the line breaks.
    """
    try:
        await join(line, sys.stdin.fileno(), sys.stdout.fileno())
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Failure(f"stdin or stdout: {error.strerror or error}.") from error
