"""The committed object of the shortcut program is what Debian's clang makes of its source."""

from __future__ import annotations

import platform
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import pytest

from knothole.io.bpf.object import read_object
from knothole.io.bpf.program import OBJECT_NAME

pytestmark = pytest.mark.interop

SOURCE = Path(str(files("knothole.io.bpf").joinpath("relay.bpf.c")))


def test_the_committed_object_is_built_from_the_source_beside_it(tmp_path: Path) -> None:
    clang = shutil.which("clang-14")
    if clang is None:
        pytest.skip("clang-14 is not installed")
    built = tmp_path / OBJECT_NAME
    headers = f"-I/usr/include/{platform.machine()}-linux-gnu"
    warnings = ["-Wall", "-Wextra", "-Werror"]
    command = [clang, "-O2", *warnings, "-target", "bpf", headers, "-c", SOURCE.name, "-o", built]
    subprocess.run(command, cwd=SOURCE.parent, check=True)
    committed = SOURCE.with_name(OBJECT_NAME).read_bytes()
    assert read_object(built.read_bytes()) == read_object(committed)
    assert built.read_bytes() == committed
