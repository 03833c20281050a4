"""The way into a lab that another process holds: found by its folder, entered by nsenter."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from knothole.lab.netns.sweep import MARK, owner_lives

FOLDER: Final = "KNOTHOLE_LAB_FOLDER"
"""In the environment of everything that runs in a lab: its folder."""

_FACTS: Final = "lab.json"
# Names are the lab's while we are inside; where mounting is not allowed, addresses have to do. So
# they do in a chroot that is no mount point: what is mounted there others might see.
_WITH_NAMES: Final = """\
if mount --make-rprivate / 2>/dev/null; then
  mount --bind "$0/hosts" /etc/hosts 2>/dev/null
  [ -e /etc/resolv.conf ] && mount --bind "$0/resolv.conf" /etc/resolv.conf 2>/dev/null
fi
exec "$@"
"""


class NoLab(Exception):
    """There is no lab to go into, or no such place in it; the text says what there is."""


@dataclass(frozen=True, slots=True)
class Visit:
    """A lab as others see it. ``places`` are descriptors of namespaces, the owner's."""

    folder: Path
    name: str
    owner: int
    places: Mapping[str, int]

    @classmethod
    def read(cls, folder: Path) -> Visit:
        """The lab of that folder. Raises NoLab when it is gone."""
        try:
            facts = json.loads((folder / _FACTS).read_text())
            found = cls(folder, facts["name"], facts["owner"], facts["places"])
        except (OSError, ValueError, KeyError) as error:
            raise NoLab("that lab is gone") from error
        if not owner_lives(found.name):
            raise NoLab("that lab is gone")
        return found

    @classmethod
    def find(cls) -> Visit:
        """The lab we are in, else the one built last that still runs. Raises NoLab."""
        if folder := os.environ.get(FOLDER):
            return cls.read(Path(folder))
        for each in sorted(labs_folder().iterdir(), key=_age, reverse=True):
            try:
                return cls.read(each)
            except NoLab:
                continue
        raise NoLab("no lab is running: start one with `knothole lab shell` in another terminal")

    def write(self) -> None:
        """Make it known."""
        facts = {"name": self.name, "owner": self.owner, "places": dict(self.places)}
        (self.folder / _FACTS).write_text(json.dumps(facts))

    def command(self, place: str, argv: Sequence[str]) -> tuple[list[str], dict[str, str]]:
        """A command line that runs ``argv`` there, a shell if it is empty, and its environment.

        Raises NoLab for a place that the lab has not.
        """
        if place not in self.places:
            raise NoLab(f"there is no {place!r} in this lab, but {', '.join(self.places)}")
        env = {
            **os.environ,
            MARK: self.name,
            FOLDER: str(self.folder),
            "KNOTHOLE_HOME": str(self.folder / place),
            "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "PS1": f"{place}# ",
        }
        inside = [*argv] or _shell(self.folder / f"rc-{place}")
        return [
            "nsenter",
            *self._user_namespace(),
            f"--net=/proc/{self.owner}/fd/{self.places[place]}",
            "--",
            *("unshare", "--mount", "--propagation", "unchanged"),
            *("sh", "-c", _WITH_NAMES, str(self.folder), *inside),
        ], env

    def _user_namespace(self) -> list[str]:
        """Where the lab was built without root it has a user namespace of its own."""
        theirs = f"/proc/{self.owner}/ns/user"
        if os.readlink(theirs) == os.readlink("/proc/self/ns/user"):
            return []
        return [f"--user={theirs}", "--preserve-credentials"]


def labs_folder() -> Path:
    """Where this user's labs have their folders. Raises NoLab when it is somebody else's."""
    folder = Path(tempfile.gettempdir()) / f"knothole-labs-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o022 or folder.is_symlink():
        raise NoLab(f"{folder} is not ours alone: remove it")
    return folder


def _shell(rc: Path) -> list[str]:
    shell = os.environ.get("SHELL") or "/bin/sh"
    if Path(shell).name == "bash" and sys.stdin.isatty():
        return [shell, "--rcfile", str(rc)]
    return [shell]


def _age(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:  # gone meanwhile
        return 0.0
