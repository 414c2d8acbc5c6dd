"""The number of connections that the limit on open files allows."""

import resource

import structlog

from service.http.server.connections import RESERVED

RESERVED_FILES = 96
"""Files for everything but connections: loading models, a GPU's driver, the log, the loop."""

_log = structlog.get_logger()


def connections_within(max_connections: int, ports: int) -> int:
    """Return the number of connections that each port may have; raise the limit if needed.

    At the limit, the kernel would keep new connections waiting, including health probes.
    """
    files = _allow((max_connections + RESERVED) * ports + RESERVED_FILES)
    fit = max(1, (files - RESERVED_FILES) // ports - RESERVED)
    if fit >= max_connections:
        return max_connections
    _log.warning(
        "connections_lowered", max_connections=fit, wanted=max_connections, open_files=files
    )
    return fit


def _allow(wanted: int) -> int:
    """Return the limit on open files: at least `wanted`, if the system allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    if soft >= wanted:
        return soft
    raised = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
    except (OSError, ValueError):
        return soft
    return raised
