"""A lab with programs in it, each with the profile of the place where it runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from knothole.lab.netns.topology import Lab
from knothole.lab.programs import Program

START_SECONDS: Final = 60.0


class Stage:
    """Ends the programs and removes the lab when it is left. Who builds on it says what is there,
    in :meth:`build`."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        """``folder`` gets the profiles, one for each place.

        Raises what :meth:`build` raises; nothing is left of the lab then.
        """
        self.lab = lab
        self.folder = folder
        self._programs: list[Program] = []
        try:
            self.build()
        except BaseException:
            self.close()
            raise

    def build(self) -> None:
        """Put everybody in their place."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def launch(self, place: str, argv: Sequence[str]) -> Program:
        """Start a program there."""
        env = {**os.environ, "KNOTHOLE_HOME": str(self.folder / place)}
        program = Program(self.lab, place, argv, env)
        self._programs.append(program)
        return program

    def end(self, program: Program) -> None:
        """End one before the others."""
        self._programs.remove(program)
        program.close()

    def close(self) -> None:
        """End everything; the newest program first."""
        for program in reversed(self._programs):
            program.close(ends_with_input=False)
        self._programs.clear()
        self.lab.close()
