"""Options that several commands have, with the words of their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

from cyclopts import Parameter

Data: TypeAlias = Annotated[
    Path | None,
    Parameter(help="The data folder of the server. Default: the one that `knothole serve` uses."),
]
Config: TypeAlias = Annotated[
    Path | None, Parameter(help="The configuration file that the server is started with.")
]
Json: TypeAlias = Annotated[bool, Parameter(help="One JSON object per line.")]
