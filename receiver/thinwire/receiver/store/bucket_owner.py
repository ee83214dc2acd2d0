"""The mark of a hub in its object store. Two hubs in one place would remove each other's objects, and a replica with
another place than the others would spread the blobs over both."""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from thinwire.shared.errors import BadConfiguration
from thinwire.shared.identifiers import digest
from thinwire.shared.storage.object_store import ObjectStore

MARK = "hub"
"""The name of the object."""


def claim(objects: ObjectStore, signing: Ed25519PrivateKey) -> None:
    """The place is this hub's from now on. signing: the hub's key. Raises BadConfiguration if it is another hub's."""
    if objects.get(MARK) is None:
        objects.put(MARK, _mark(signing), "store.mark")
    require_own_place(objects, signing)


def require_own_place(objects: ObjectStore, signing: Ed25519PrivateKey) -> None:
    """Raises BadConfiguration for a place that is not this hub's."""
    found = objects.get(MARK)
    if found is None:
        raise BadConfiguration(
            f"the object store has no object {MARK!r}, by which this hub knows its place",
            "Correct `blobs` in config.toml. If the bucket was put back without it, run `thinwire-receiver restore` "
            "without a folder.",
        )
    if found != _mark(signing):
        raise BadConfiguration(
            "the object store holds the objects of another hub",
            f"Name another bucket or prefix; or remove the object {MARK!r} if that hub is no more.",
        )


def _mark(signing: Ed25519PrivateKey) -> bytes:
    return digest(signing.public_key().public_bytes_raw()).hex().encode()
