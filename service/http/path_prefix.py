"""The path prefix of a request: the part of its URL that a proxy has removed."""

import ipaddress
from collections.abc import Sequence
from contextlib import suppress

from service.http.middleware.exchange import Exchange
from service.schema.path_prefix import parse_path_prefix

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class PathPrefix:
    """Finds the prefix of links in a response.

    Routing never uses it: a proxy has removed the prefix from the path. Otherwise a client could
    add it once more, to get past the rules of a proxy that denies paths.
    """

    def __init__(self, root_path: str, trusted_proxies: Sequence[Network]) -> None:
        self._root_path = root_path
        self._trusted_proxies = trusted_proxies

    def of(self, exchange: Exchange) -> str:
        """Return `X-Forwarded-Prefix` from a trusted proxy, or else the configured prefix."""
        header = exchange.header(b"x-forwarded-prefix")
        if header and self._is_trusted(exchange.scope.get("client")):
            with suppress(ValueError):
                return parse_path_prefix(header)
        return self._root_path

    def _is_trusted(self, client: tuple[str, int] | None) -> bool:
        if client is None:
            return False
        try:
            address = ipaddress.ip_address(client[0])
        except ValueError:
            return False
        return any(address in network for network in self._trusted_proxies)
