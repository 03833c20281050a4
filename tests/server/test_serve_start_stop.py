"""``knothole serve`` as a program: how it begins and how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from knothole.wire.server_url import parse_server_url

from .conftest import PATIENCE


def run_serve(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "knothole", "serve", *arguments],
        capture_output=True,
        text=True,
        timeout=40,
        env={**os.environ, "KNOTHOLE_HOME": str(folder), "PYTHONWARNINGS": "error"},
        check=False,
    )


def is_gone(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"


@pytest.mark.parametrize("how", ["ctrl-c", "sigterm"])
def test_it_ends_cleanly_when_it_is_told_to(serve, how) -> None:
    begun = time.monotonic()
    server = serve().ready()
    print(f"ready after {time.monotonic() - begun:.2f} s")
    relay = server.relay_process()
    assert (server.interrupt() if how == "ctrl-c" else server.stop()) == 0
    assert is_gone(relay)
    assert server.noise() == []


def test_after_ctrl_c_the_terminals_line_is_ended(free_port, tmp_path: Path) -> None:
    """It shows ^C, and what the shell says next stands on a line of its own, after any command."""
    terminal, inside = pty.openpty()
    options = "--host", "127.0.0.1", "--port", str(free_port()), "--data", str(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-m", "knothole", "serve", *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=inside,
        text=True,
    ) as program:
        os.close(inside)
        assert program.stdout is not None
        assert program.stdout.readline().startswith("ready ")
        program.send_signal(signal.SIGINT)
        assert program.wait(PATIENCE) == 0
    said = b""
    with contextlib.suppress(OSError):  # EIO: nobody has it open any more
        while data := os.read(terminal, 65536):
            said += data
    os.close(terminal)
    assert b"\r\n\r\n" in said


@pytest.mark.parametrize("later", [0.0, 0.08])
def test_a_signal_while_it_starts_ends_it_cleanly_too(serve, later) -> None:
    server = serve()
    relay = None
    while relay is None:
        assert server.process.poll() is None
        try:
            relay = server.relay_process()
        except AssertionError:
            time.sleep(0.002)
    time.sleep(later)  # into what the relay process imports
    assert server.interrupt() == 0
    assert is_gone(relay)


def test_the_printed_address_says_all_that_a_client_needs(serve, free_port) -> None:
    port, further = free_port(), free_port()
    server = serve("--also-listen", str(further), port=port).ready()
    url = parse_server_url(server.url)
    assert (url.host, url.port, url.tcp_ports) == ("127.0.0.1", port, (further,))
    assert url.pin is not None
    assert str(url) == server.url
    server.stop()
    again = serve(port=port).ready()
    assert parse_server_url(again.url).pin == url.pin, "the key is kept with the data"


def test_it_says_which_ports_must_be_open_before_it_is_ready(serve, free_port) -> None:
    port = free_port()
    server = serve(port=port).ready()
    said = server.lines[: server.lines.index(f"ready {server.url}")]
    assert f"open in the firewall: udp {port}: needed (STUN, relay)" in said
    assert any(line.startswith(f"open in the firewall: tcp {port}: needed") for line in said)
    assert any(line.startswith(f"open in the firewall: udp {port + 1}: optional") for line in said)
    assert any("udp 49152-65535: optional" in line for line in said)


def test_with_json_every_line_is_an_object(serve) -> None:
    server = serve("--json")
    ready = json.loads(server.expect('"ready"'))
    assert parse_server_url(ready["url"]).pin is not None
    assert server.stop() == 0
    said = [json.loads(line) for line in server.lines]
    assert {"port", "advice", "ready"} <= {each["event"] for each in said}
    assert {each["level"] for each in said} == {"info"}


@pytest.mark.skipif(sys.platform != "linux", reason="systemd is of Linux")
def test_under_systemd_lines_have_their_level(tmp_path, free_port) -> None:
    (tmp_path / "server.toml").write_text("[relay]\nallocations = 10\n")
    reading, writing = os.pipe()
    status = os.fstat(writing)
    environment = {
        "KNOTHOLE_HOME": str(tmp_path / "home"),
        "JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}",
    }
    where = ["--host", "127.0.0.1", "--port", str(free_port()), "--data", str(tmp_path / "data")]
    command = [sys.executable, "-m", "knothole", "serve", "--relay-only", "--config", "server.toml"]
    with (
        os.fdopen(reading) as journal,
        subprocess.Popen(
            [*command, *where],
            cwd=tmp_path,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=writing,
            text=True,
        ) as process,
    ):
        os.close(writing)
        assert process.stdout is not None
        assert process.stdout.readline().startswith("ready ")
        process.send_signal(signal.SIGUSR1)
        (tmp_path / "server.toml").write_text("[relay]\nallocations = 'many'\n")
        assert any(line.startswith("<6>draining") for line in journal)
        process.send_signal(signal.SIGHUP)
        assert any(line.startswith("<4>not reloaded") for line in journal)
        process.terminate()
        assert process.wait(40) == 0


def test_nothing_is_left_when_it_is_killed(serve, free_port) -> None:
    port = free_port()
    server = serve(port=port).ready()
    relay = server.relay_process()
    server.stop(signal.SIGKILL)
    deadline = time.monotonic() + 40
    while not is_gone(relay):
        assert time.monotonic() < deadline, "the relay process outlives the server"
        time.sleep(0.01)
    assert serve(port=port).ready().stop() == 0


def test_the_end_of_the_relay_process_is_the_end_of_the_server(serve) -> None:
    server = serve().ready()
    os.kill(server.relay_process(), signal.SIGKILL)
    assert server.wait() == 1
    [said] = [line for line in server.lines if line.startswith("knothole: ")]
    assert "the relay process was ended by SIGKILL" in said
    assert "start the server again" in said


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_port_in_use_is_one_clear_line(tmp_path: Path, free_port, kind) -> None:
    port = free_port()
    transport = "tcp" if kind == socket.SOCK_STREAM else "udp"
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("127.0.0.1", port))
        if kind == socket.SOCK_STREAM:
            taken.listen()
        done = run_serve(
            tmp_path, "--host", "127.0.0.1", "--port", str(port), "--data", str(tmp_path)
        )
    assert done.returncode == 1
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith(f"knothole: cannot listen on {transport} 127.0.0.1:{port}: ")
    assert "Address already in use" in line
    assert "--port" in line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--port", "99999"], "--port: 99999 is not a port number"),
        (["--also-listen", "0"], "--also-listen: 0 is not a port number"),
        (["--host", "example.org"], "--host: 'example.org' is not an IP address"),
        (["--port", "4000", "--also-listen", "4000"], "--also-listen: 4000 is listened on already"),
    ],
)
def test_a_wrong_command_line_is_exit_code_2(tmp_path: Path, arguments, said) -> None:
    done = run_serve(tmp_path, *arguments)
    assert done.returncode == 2
    assert said in done.stderr


def test_a_wrong_configuration_is_one_line_with_file_line_and_key(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text('port = 3478\n\n[relay]\nfirst-port = "many"\n')
    done = run_serve(tmp_path, "--config", str(file))
    assert done.returncode == 1
    assert done.stderr == (f"knothole: {file}, line 4: relay.first-port: expected int, got str\n")
