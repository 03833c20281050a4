"""How the lines of a server reach systemd's journal: with their level, where it reads them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final, TextIO

# sd-daemon(3): a line may begin with its level in brackets; syslog(3) has the numbers.
_PREFIXES: Final = {"warning": "<4>", "info": "<6>"}


def level_of(event: str) -> str:
    """What an event of ``knothole serve`` is to an operator."""
    return "warning" if event == "warning" else "info"


def is_journal(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Whether ``stream`` goes to the journal (systemd.exec(5), JOURNAL_STREAM)."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environment.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def for_journal(event: str, text: str) -> str:
    """``text`` as the journal wants it: shown by ``journalctl -p warning``, or not."""
    return _PREFIXES[level_of(event)] + text
