"""A lab to walk about in: the article's cast, a server that runs, and a way into every place."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Final

from knothole.lab.netns.box import box_named
from knothole.lab.netns.line import LineSettings
from knothole.lab.netns.sweep import owner_lives
from knothole.lab.netns.topology import Lab
from knothole.lab.programs import KnotholeCommands, ProgramFailed
from knothole.lab.report import STRANGER
from knothole.lab.stage import START_SECONDS, Stage
from knothole.lab.visit import FOLDER, Visit, labs_folder

ONE_WAY_SECONDS: Final = 0.010
LOCAL_ADDRESS: Final = "5.5.5.5"
_PEOPLE: Final = ("alice", "bob")
_RC: Final = """\
[ -f ~/.bashrc ] && . ~/.bashrc
export PATH={bin}:$PATH
PS1='{prompt} '
"""


class Playground(Stage):
    """Alice and Bob behind NATs and registered on a server; ``local`` behind ``local-fw``, as the
    article's own experiment has it; ``remote`` on the internet; and ``carol``, in Alice's LAN
    where her router translates.

    Everything goes with this object, or with its process, however that ends.
    """

    def __init__(self, alice_nat: str, bob_nat: str) -> None:
        """Kinds as :mod:`knothole.lab.netns.box` reads them.

        Raises ValueError for a kind that is none, NamespacesUnavailable, ProgramFailed.
        """
        self._boxes = {"alice": box_named(alice_nat), "bob": box_named(bob_nat)}
        parent = labs_folder()  # before the lab: in a user namespace we are called root
        _sweep_folders(parent)
        lab = Lab()
        super().__init__(lab, parent / lab.name)

    def build(self) -> None:
        self.folder.mkdir(mode=0o700)
        line = LineSettings(one_way_seconds=ONE_WAY_SECONDS)
        self.lab.add_server(addresses=2)
        self.lab.add_server("remote", addresses=[STRANGER])
        for name, box in self._boxes.items():
            self.lab.add_client(name, nat=box, line=line)
        if self._boxes["alice"].kind.translates:
            self.lab.add_client_behind("carol", "alice-nat")
        self.lab.add_client("local", nat="linux", address=LOCAL_ADDRESS)
        self.lab.wait_ready()
        self._furnish()
        self._serve()

    @property
    def visit(self) -> Visit:
        """The way in, for this process and for others."""
        return Visit.read(self.folder)

    def cast(self) -> list[tuple[str, str]]:
        """Every place by name, with a word about it."""
        rows = []
        for name in self.lab.hosts:
            outside = self.lab.public_address(name)
            own = self.lab.hosts[name].address
            router = self.lab.hosts[name].router
            if router is None:
                rows.append((name, f"{own}, on the internet"))
            elif outside == own:
                rows.append((name, f"{own}, behind {_known_as(router)}"))
            else:
                rows.append((name, f"{own}, behind {_known_as(router)} {outside}"))
        return rows + [
            (_known_as(name), f"the router, of the kind {router.kind.name}")
            for name, router in self.lab.routers.items()
        ]

    def close(self) -> None:
        """End all programs, remove the lab and what was written."""
        super().close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _furnish(self) -> None:
        """What a visitor finds: names for addresses, the program, prompts; and the way in."""
        rows = ["127.0.0.1 localhost"]
        places = {}
        for name, host in self.lab.hosts.items():
            rows.append(f"{host.address} {name}")
            places[name] = host.namespace.descriptor
        for name, router in self.lab.routers.items():
            known = _known_as(name)
            rows.append(f"{router.public_address} {known}")
            places[known] = router.namespace.descriptor
        (self.folder / "hosts").write_text("\n".join(rows) + "\n")
        # An empty one asks this very host, where nobody answers: no name is waited for.
        (self.folder / "resolv.conf").write_text("")
        programs = self.folder / "bin"
        programs.mkdir()
        command = programs / "knothole"
        sources = os.pathsep.join(
            [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
        )
        command.write_text(
            f"#!/bin/sh\nPYTHONPATH={shlex.quote(sources)} "
            f'exec {shlex.quote(sys.executable)} -P -m knothole "$@"\n'
        )
        command.chmod(0o755)
        for name in places:
            prompt = _RC.format(bin=shlex.quote(str(programs)), prompt=f"{name}#")
            (self.folder / f"rc-{name}").write_text(prompt)
        (self.folder / "rc").write_text(_RC.format(bin=shlex.quote(str(programs)), prompt="lab$"))
        Visit(self.folder, self.lab.name, os.getpid(), places).write()

    def _serve(self) -> None:
        commands = KnotholeCommands()
        data = self.folder / "server"
        serve = commands.serve(self.lab.hosts["server"].addresses, data)
        server = self.launch("server", [*serve, "--also-listen", "443", "--classic-stun"])
        self.url = str(server.expect("ready", timeout=START_SECONDS)["url"])
        joining = [self.launch(name, commands.join(name, self.url)) for name in _PEOPLE]
        for program in joining:
            if program.wait(START_SECONDS):
                raise ProgramFailed(f"{program.host} could not join: {program.last_errors()}")


def shell_of(folder: Path) -> tuple[list[str], dict[str, str]]:
    """The user's shell with the lab's program in its path, and the environment it needs."""
    env = {**os.environ, FOLDER: str(folder)}
    env["PATH"] = f"{folder / 'bin'}{os.pathsep}{env.get('PATH', os.defpath)}"
    env["PS1"] = "lab$ "
    shell = env.get("SHELL") or "/bin/sh"
    if Path(shell).name == "bash" and sys.stdin.isatty():
        return [shell, "--rcfile", str(folder / "rc")], env
    return [shell], env


def _known_as(router: str) -> str:
    return "local-fw" if router == "local-nat" else router


def _sweep_folders(parent: Path) -> None:
    """Remove what labs that were killed have left."""
    for folder in parent.iterdir():
        if folder.is_dir() and not owner_lives(folder.name):
            shutil.rmtree(folder, ignore_errors=True)
