"""The first record of a TLS client, as OpenSSL writes it."""

import contextlib
import ssl


def client_hello(
    newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3, oldest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2
) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version, context.maximum_version = oldest, newest
    context.set_alpn_protocols(["h2"])
    out = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname="thinwire-hub").do_handshake()
    return out.read()
