"""Addresses as people write them: HOST:PORT."""

from thinwire.shared.errors import BadConfiguration


def host_and_port(text: str, remedy: str = "Give for example 0.0.0.0:7443.", lowest: int = 0) -> tuple[str, int]:
    """(host, port) of HOST:PORT; an IPv6 host stands in brackets. lowest: 1 where port 0, a free one, makes no sense.

    Raises BadConfiguration with the remedy.
    """
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not lowest <= int(port) < 1 << 16:
        raise BadConfiguration(f"{text!r} is no HOST:PORT", remedy)
    return host.strip("[]"), int(port)


def address_text(host: str, port: int) -> str:
    """HOST:PORT, an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
