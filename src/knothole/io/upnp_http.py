"""HTTP for UPnP: to the gateway and nowhere else, a little at a time, and not for ever."""

from __future__ import annotations

from typing import Final

import aiohttp
from async_upnp_client.client import UpnpRequester
from async_upnp_client.const import HttpRequest, HttpResponse
from async_upnp_client.exceptions import UpnpError

from knothole.io.ssdp import is_on

LARGEST_BODY: Final = 256 * 1024  # ours: descriptions of real gateways have 5 to 40 KB
MOST_DESCRIPTIONS: Final = 64  # ours: a gateway has about six services, each described once
REQUEST_SECONDS: Final = 5.0  # ours: a router on the same link answers within milliseconds


class GatewayRequester(UpnpRequester):
    """Asks one gateway, from one local address.

    Every request of the library comes by here, so here is decided what a hostile description can
    lead to: nothing but the gateway's own address, no redirects, no compression, no large bodies.
    """

    def __init__(self, host: str, gateway: str) -> None:
        """``host`` is our address, which the gateway takes for the client's."""
        self._gateway = gateway
        self._descriptions = 0
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(local_addr=(host, 0), force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=REQUEST_SECONDS),
            auto_decompress=False,
        )

    async def async_http_request(self, http_request: HttpRequest) -> HttpResponse:
        """Raises UpnpError for whatever goes wrong."""
        self._descriptions += http_request.method == "GET"
        if not is_on(http_request.url, self._gateway) or self._descriptions > MOST_DESCRIPTIONS:
            raise UpnpError("a URL that is not the gateway's, or too many of them")
        try:
            async with self._session.request(
                http_request.method,
                http_request.url,
                headers={**http_request.headers, "Accept-Encoding": "identity"},
                data=http_request.body,
                allow_redirects=False,
            ) as response:
                body = await self._body(response.content)
                return HttpResponse(response.status, dict(response.headers), body)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise UpnpError(type(error).__name__) from error

    async def close(self) -> None:
        await self._session.close()

    @staticmethod
    async def _body(content: aiohttp.StreamReader) -> str:
        body = bytearray()
        async for chunk in content.iter_any():
            body += chunk
            if len(body) > LARGEST_BODY:
                raise UpnpError("a body that is too large")
        return body.decode(errors="replace")
