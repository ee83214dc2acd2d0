"""Addresses in the form HOST:PORT."""

from thinwire.shared.errors import BadConfiguration


def host_and_port(text: str, remedy: str = "Example: --listen 0.0.0.0:7443.", lowest: int = 0) -> tuple[str, int]:
    """(host, port) of HOST:PORT; an IPv6 host is in brackets. lowest: 1 where port 0 (any free port) is not allowed.

    Raises BadConfiguration with the remedy.
    """
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not lowest <= int(port) < 1 << 16:
        raise BadConfiguration(f"{text!r} is not HOST:PORT", remedy)
    return host.strip("[]"), int(port)


def address_text(host: str, port: int) -> str:
    """HOST:PORT, an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
