"""A tunnel through Debian's tinyproxy."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from knothole.io.proxy import Proxy, ProxyRefused, open_tunnel, parse_proxy

from ..ports import free_port

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(shutil.which("tinyproxy") is None, reason="tinyproxy is not installed"),
]


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of something that can be connected to, and the only one the proxy allows."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


@pytest.fixture
def proxy(tmp_path: Path, echo: int) -> Iterator[Proxy]:
    port = free_port()
    config = tmp_path / "tinyproxy.conf"
    lines = [
        f"Port {port}",
        "Listen 127.0.0.1",
        "Timeout 60",
        "MaxClients 10",
        f"ConnectPort {echo}",
        "BasicAuth alice hush",
        f'LogFile "{tmp_path / "log"}"',
    ]
    config.write_text("\n".join(lines) + "\n")
    with subprocess.Popen(["tinyproxy", "-d", "-c", str(config)], stdout=subprocess.DEVNULL) as run:
        while True:
            assert run.poll() is None, "tinyproxy does not start"
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.02)
        yield parse_proxy(f"http://alice:hush@127.0.0.1:{port}")
        run.terminate()


async def test_a_tunnel_goes_through(proxy: Proxy, echo: int) -> None:
    sock = await open_tunnel(proxy, "127.0.0.1", echo)
    await asyncio.get_running_loop().sock_sendall(sock, b"hello")
    sock.close()


async def test_a_port_that_the_proxy_does_not_allow_is_refused_in_words(proxy: Proxy) -> None:
    with pytest.raises(ProxyRefused, match=r"127\.0\.0\.1:9: 403"):
        await open_tunnel(proxy, "127.0.0.1", 9)


async def test_without_a_password_the_proxy_says_what_it_wants(proxy: Proxy, echo: int) -> None:
    with pytest.raises(ProxyRefused, match=r"407|401.*password") as refused:
        await open_tunnel(Proxy(proxy.host, proxy.port), "127.0.0.1", echo)
    assert "hush" not in str(refused.value)
