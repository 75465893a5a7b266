"""The socket of a server, of this package's API or page, and the one line where it cannot be had."""

import os
import socket

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def listen(host: str, port: int) -> socket.socket:
    """
    A listening socket; port 0 takes one that is free.

    Raises:
        ValueError: if the address cannot be used.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        # The text of the error repeats the address; an unknown host has a number below 0.
        reason = os.strerror(error.errno) if (error.errno or 0) > 0 else "no such host"
        raise ValueError(f"{host}, port {port}, cannot be used ({reason}); choose another --port.") from None


def address(host: str, listener: socket.socket) -> str:
    """The address at which it is reached."""
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{listener.getsockname()[1]}"
