"""HTTP CONNECT proxies: which one, and a tunnel through it (RFC 9110 Section 9.3.6)."""

from __future__ import annotations

import asyncio
import base64
import os
import re
import socket
import urllib.request
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final
from urllib.parse import unquote, urlsplit

MAX_ANSWER: Final = 16 * 1024  # ours: bytes of a proxy's answer to CONNECT; more is not an answer
READ_BYTES: Final = 4096
TUNNEL_SECONDS: Final = 5.0  # ours: from the connection to the proxy to its answer

_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([0-9]{3})(?: ([^\r\n]*))?\r?\n")
_END: Final = re.compile(rb"\r?\n\r?\n")
_LABEL: Final = r"[A-Za-z0-9_-]{1,63}"  # RFC 1035 Section 2.3.4
_HOST: Final = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*\.?")


class InvalidProxy(ValueError):
    """What was given is not the URL of a proxy that can be used; the text says why."""


class ProxyRefused(OSError):
    """The proxy does not let us through; the text says which and why, and shows no password."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """One proxy. ``first`` says that it is tried before the direct way: the environment names it,
    and other programs use it alone."""

    host: str
    port: int
    authorization: str = field(default="", repr=False)
    first: bool = False

    def __str__(self) -> str:
        """Without the password: fit to be shown."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_proxy(url: str, *, first: bool = False) -> Proxy:
    """The proxy in ``http://[USER:PASSWORD@]HOST:PORT``; without a scheme, http.

    Raises :class:`InvalidProxy`, which does not repeat a password.
    """
    text = url.strip() if "://" in url else f"http://{url.strip()}"
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port or 80
        host.encode("ascii")
    except (ValueError, UnicodeError):
        raise InvalidProxy("it is not a URL like http://HOST:PORT") from None
    if parts.scheme != "http":
        raise InvalidProxy(f"{parts.scheme}:// is not spoken, only http://HOST:PORT (CONNECT)")
    if not (_HOST.fullmatch(host) or _is_ipv6(host)) or parts.path not in ("", "/") or parts.query:
        raise InvalidProxy("it is not a URL like http://HOST:PORT")
    authorization = ""
    if parts.username is not None:
        user, password = unquote(parts.username), unquote(parts.password or "")
        if ":" in user:  # RFC 7617 Section 2
            raise InvalidProxy("a user name has no colon")
        authorization = base64.b64encode(f"{user}:{password}".encode()).decode("ascii")
    return Proxy(host, port, authorization, first)


def proxy_for(host: str, configured: str | None = None) -> Proxy | None:
    """The proxy on the way to ``host``: the ``configured`` one, else what the environment names in
    HTTPS_PROXY or ALL_PROXY (in lower case too) and NO_PROXY does not exclude.

    None for this very machine. Raises :class:`InvalidProxy`.
    """
    if _is_loopback(host):
        return None
    if configured:
        return parse_proxy(configured)
    named = urllib.request.getproxies()
    url = named.get("https") or named.get("all")
    if not url or urllib.request.proxy_bypass(host):
        return None
    try:
        return parse_proxy(url, first=True)
    except InvalidProxy as error:
        raise InvalidProxy(f"the proxy that the environment names: {error}") from None


async def open_tunnel(proxy: Proxy, host: str, port: int) -> socket.socket:
    """A connected socket, of which the other end is ``host``, through ``proxy``.

    Raises ProxyRefused, and OSError where the proxy itself is not reached.
    """
    try:
        async with asyncio.timeout(TUNNEL_SECONDS):
            return await _open_tunnel(proxy, host, port)
    except TimeoutError:
        raise ProxyRefused(f"the proxy {proxy} does not answer") from None


async def _open_tunnel(proxy: Proxy, host: str, port: int) -> socket.socket:
    try:
        sock = await connected(proxy.host, proxy.port)
    except OSError as error:
        known = error.errno is not None and error.errno > 0  # not so for names that have no address
        why = os.strerror(error.errno or 0) if known else str(error) or type(error).__name__
        raise ProxyRefused(f"the proxy {proxy} cannot be reached ({why})") from error
    try:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(sock, connect_request(proxy, host, port))
        answer = b""
        while True:
            more = await loop.sock_recv(sock, READ_BYTES)
            if not more:
                raise ProxyRefused(f"the proxy {proxy} hung up without an answer")
            answer += more
            if judge(answer, proxy, f"{host}:{port}"):
                return sock
    except ProxyRefused:
        sock.close()
        raise
    except OSError as error:
        sock.close()
        raise ProxyRefused(f"the proxy {proxy} hung up ({error.strerror})") from error
    except BaseException:
        sock.close()
        raise


async def connected(host: str, port: int) -> socket.socket:
    """A TCP connection to the first address of ``host`` that answers. Raises OSError."""
    loop = asyncio.get_running_loop()
    failure = OSError(f"{host} has no address")
    for family, kind, protocol, _, address in await loop.getaddrinfo(
        host, port, type=socket.SOCK_STREAM
    ):
        sock = socket.socket(family, kind, protocol)
        sock.setblocking(False)
        try:
            await loop.sock_connect(sock, address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failure


def connect_request(proxy: Proxy, host: str, port: int) -> bytes:
    """What is said to ``proxy`` first."""
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
    if proxy.authorization:
        lines.append(f"Proxy-Authorization: Basic {proxy.authorization}")
    return "\r\n".join([*lines, "", ""]).encode("ascii")


def judge(answer: bytes, proxy: Proxy, wanted: str) -> bool:
    """Whether ``answer`` lets us through; False: its end is not there yet. Raises ProxyRefused."""
    end = _END.search(answer)
    status = _STATUS.match(answer)
    if status is None and (b"\n" in answer or not b"HTTP/1.".startswith(answer[:7])):
        raise ProxyRefused(f"what answers at {proxy} is no HTTP proxy")
    if len(answer) > MAX_ANSWER:
        raise ProxyRefused(f"the answer of the proxy {proxy} does not come to an end")
    if status is None or end is None:
        return False
    code = int(status.group(1))
    if not 200 <= code < 300:
        raise ProxyRefused(_refusal(code, status.group(2) or b"", proxy, wanted))
    if end.end() != len(answer):  # TLS is ours to begin
        raise ProxyRefused(f"the proxy {proxy} says more than it was asked")
    return True


def _refusal(code: int, reason: bytes, proxy: Proxy, wanted: str) -> str:
    said = "".join(each for each in reason.decode("latin-1") if each.isprintable())[:80]
    text = f"the proxy {proxy} does not connect to {wanted}: {code} {said}".rstrip()
    if code == 407:  # RFC 9110 Section 15.5.8
        text += " (it wants a user name and a password: http://USER:PASSWORD@HOST:PORT)"
    return text


def _is_ipv6(host: str) -> bool:
    try:
        return ip_address(host).version == 6
    except ValueError:
        return False


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
