"""``knothole pipe``"""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from knothole.apps.pipe import join_stdio
from knothole.cli.output import Output
from knothole.cli.session import line_to, path_facts, run


def pipe(
    name: Annotated[str, Parameter(help="Who listens with --pipe")],
    /,
    *,
    json: bool = False,
) -> int:
    """Join stdin and stdout to NAME's, like netcat: reliable, each direction ends by itself.

    Example: tar c photos | knothole pipe bob

    Parameters
    ----------
    json
        One JSON object per line, on stderr: stdout is the pipe's.
    """
    return run(_pipe(Output(json=json), name))


async def _pipe(output: Output, name: str) -> int:
    async with line_to(name, "pipe") as line:
        await join_stdio(line)
        output.aside("over", "", peer=line.peer_name, **path_facts(line.path))
    return 0
