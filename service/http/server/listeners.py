"""The sockets that the server listens on."""

import socket

from service.errors import InvalidConfiguration

BACKLOG = 2048


def bind(host: str, port: int) -> socket.socket:
    """Bind the port, before anything is loaded; `::` also accepts IPv4."""
    return _listen(host, port, reuse_port=False)


def bind_shared(host: str, port: int, count: int) -> list[socket.socket]:
    """Bind the port with several sockets, over which the kernel spreads connections."""
    with bind(host, port) as alone:  # fails if the port is in use, which shared ones would not
        port = alone.getsockname()[1]
    return [_listen(host, port, reuse_port=True) for _ in range(count)]


def _listen(host: str, port: int, *, reuse_port: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    both = host == "::" and socket.has_dualstack_ipv6()
    try:
        return socket.create_server(
            (host, port),
            family=family,
            backlog=BACKLOG,
            reuse_port=reuse_port,
            dualstack_ipv6=both,
        )
    except OSError as error:
        raise InvalidConfiguration(
            f"Cannot listen on {host} port {port}: {error.strerror or error}."
        ) from error
