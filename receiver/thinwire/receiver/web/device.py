"""The cookie of a browser in which an account has signed in: its attempts are counted by themselves.

It opens nothing: it only tells the holder's browser from those of whoever guesses (OWASP, Slow Down Online Guessing
Attacks with Device Cookies). It names nobody, and outlives a restart of the hub.
"""

import hashlib
import secrets

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from itsdangerous import BadData, URLSafeTimedSerializer

LIFE = 400 * 86_400
"""Seconds; browsers keep no cookie for longer (RFC 6265bis)."""


class Devices:
    """signing: the hub's key, from which that of the cookies is derived."""

    def __init__(self, signing: Ed25519PrivateKey) -> None:
        derive = HKDF(SHA256(), 32, salt=None, info=b"thinwire device cookie v1")
        self._key = derive.derive(signing.private_bytes_raw())

    def name(self, account: str) -> str:
        """The end of the cookie's name: people who share a browser have one each."""
        return hashlib.sha256(account.encode()).hexdigest()[:12]

    def issue(self, account: str) -> str:
        return self._serializer(account).dumps(secrets.token_urlsafe(12))

    def known(self, account: str, value: str | None) -> str | None:
        """The device of a cookie; None where it is not one of this account."""
        try:
            return None if value is None else str(self._serializer(account).loads(value, max_age=LIFE))
        except BadData:
            return None

    def _serializer(self, account: str) -> URLSafeTimedSerializer:
        return URLSafeTimedSerializer(self._key, salt=f"device of {account}")
