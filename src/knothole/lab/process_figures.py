"""CPU and memory of processes and of the kernel, as proc(5) tells them."""

from __future__ import annotations

from pathlib import Path


def cpu_seconds(process: int) -> float:
    """What the process has used, all its threads together, to the nanosecond.

    Work that the kernel does for packets in a process's own time is in it.
    """
    total = 0
    for thread in Path(f"/proc/{process}/task").iterdir():
        total += int((thread / "schedstat").read_text().split()[0])
    return total / 1e9


def softirq_processes() -> list[int]:
    """The kernel's own threads for packets that nobody's time was left for."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                name = (entry / "comm").read_text()
            except OSError:  # it has just ended
                continue
            if name.startswith("ksoftirqd/"):
                found.append(int(entry.name))
    return found


def resident_kibibytes(process: int) -> int:
    """Memory of the process that is in RAM (VmRSS)."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


def proportional_kibibytes(process: int) -> int:
    """The same, with what several processes share counted once among them (Pss)."""
    for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0


def children(process: int) -> list[int]:
    """The processes that it has started."""
    found: list[int] = []
    for thread in Path(f"/proc/{process}/task").iterdir():
        found += map(int, (thread / "children").read_text().split())
    return found


def kernel_kibibytes() -> int:
    """What the kernel of this machine has for objects of its own, sockets among them (Slab)."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("Slab:"):
            return int(line.split()[1])
    return 0
