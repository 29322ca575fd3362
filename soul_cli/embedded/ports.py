"""TCP ports of this machine."""

import socket

from soul_cli.embedded.errors import ServiceStartError


def find_free_port() -> int:
    """Return a TCP port of the loopback address that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def check_port(host: str, port: int) -> None:
    """Raise ServiceStartError if this process cannot listen on a port; 0 is always free."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise ServiceStartError(
            f"cannot listen on {host}:{port} ({error.strerror}); "
            "stop the program that uses it, or take another port (--port 0 picks a free one)"
        ) from error
