"""How many relay processes there are to be, and whether the rest of the configuration lets them."""

from __future__ import annotations

from knothole.server.config_file import MAX_PROCESSES, RelayTable, Source, UsageError


def read_relay_processes(source: Source, relay: RelayTable, given: int | None) -> int:
    """``given`` on the command line, else the file's. Raises ConfigError.

    Each process has its share of the ports and the quotas, and one that grants nothing is of no
    use. An allocation may have an address of each family, and wants an even port.
    """
    processes = relay.processes if given is None else given
    if not 1 <= processes <= MAX_PROCESSES:
        raise UsageError(f"--relay-processes: {processes} is not within 1-{MAX_PROCESSES}")
    if processes == 1:
        return 1
    if relay.mobility:
        reason = f"a client at a new address may come to another one of {processes} relay processes"
        raise source.error("relay.mobility", reason)
    least = 2 * processes
    shared = {
        "relay.last-port": relay.last_port - relay.first_port + 1,
        "relay.allocations": relay.allocations or least,
        "relay.allocations-per-user": relay.allocations_per_user,
        "relay.allocations-per-network": relay.allocations_per_network,
    }
    for key, there in shared.items():
        if there < least:
            what = "ports are" if key == "relay.last-port" else "is"
            raise source.error(
                key, f"{there} {what} too few for {processes} relay processes: {least} at least"
            )
    return processes
