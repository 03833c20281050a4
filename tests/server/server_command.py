"""``knothole server`` as a program of its own."""

from __future__ import annotations

import subprocess
import sys


def server_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "knothole", "server", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
