"""What the link needs of the hub's store, and nothing more."""

from collections.abc import Sequence
from typing import Protocol

from thinwire.receiver.sites.enrolment import JoinResult
from thinwire.shared.crypto.envelope import EnvelopeHeader, EpochKey, KeyOf, Kind
from thinwire.shared.crypto.keys import JoinTokenId
from thinwire.shared.errors import Forged
from thinwire.shared.identifiers import Digest, EpochId, SiteName, StudyKey


class EpochKeys(Protocol):
    """Where the keys of the sites' epochs are."""

    def epoch_key(self, site: SiteName, epoch: EpochId) -> EpochKey | None:
        """The key of an epoch that this very site announced; None for every other epoch."""
        ...


def key_lookup(keys: EpochKeys, site: SiteName) -> KeyOf:
    """As the envelope asks for keys: it raises Forged for an epoch that is not one of the site."""

    def key_of(epoch: EpochId) -> EpochKey:
        key = keys.epoch_key(site, epoch)
        if key is None:
            raise Forged("the epoch is not one of this site")
        return key

    return key_of


class IngestStore(EpochKeys, Protocol):
    """What ingest needs of the hub's store. Every method may be called from any thread, at any time, again.

    Raises DiskFull where there is no room, HubBusy where the same call may succeed later; then nothing has changed.
    """

    def join(self, token: JoinTokenId, request: bytes, signing_key: bytes) -> JoinResult:
        """Enrol the token's site. request: certificate request, PEM; signing_key: Ed25519 public, 32 bytes.

        The first key that comes with a token uses it up, durably; the same key may come again until the token
        expires (the answer may have been lost), and gets an answer again. Raises NotEnrolled.
        """
        ...

    def check_site(self, site: SiteName, certificate: Digest) -> None:
        """Raises NotEnrolled for a site that the hub does not know or no longer serves, or where it gave the site
        another certificate since. certificate: SHA-256 of its DER."""
        ...

    def admit_epoch(self, site: SiteName, record: bytes) -> None:
        """Keep an epoch record (`envelope.open_epoch`), durably when this returns. The first record of an epoch id
        wins; a repeat does nothing. Raises Forged."""
        ...

    def stored_receipt(self, site: SiteName, object: Digest) -> bytes | None:
        """The signed `stored` receipt of an object that `put` kept for this site, or None."""
        ...

    def put(
        self, site: SiteName, object: Digest, header: EnvelopeHeader, plaintext: bytes, urgent: bool, receipt: bytes
    ) -> None:
        """Keep one part of a study and its signed `stored` receipt, both durable when this returns, or neither.

        object: SHA-256 of the sealed bytes; a repeat of the same object does nothing, and the first receipt stays.
        header, plaintext: opened and verified, from an epoch of `site`. Another object with the same study, kind
        and plaintext (sealed anew after damage at the clinic) is kept once, and gets its receipt.
        urgent: the clinic asked for priority. The receipt is then undelivered.
        Raises BadPayload, BadManifest, BadArchive, UnknownBundle, Forged for content that does not hold; the store
        puts into quarantine what is worth it.
        """
        ...

    def escalate(self, site: SiteName, study: StudyKey) -> bool:
        """The clinic asks for priority for a study of which something was stored before; durable when this returns.
        It is triaged anew. A repeat does nothing. False for a study of which nothing is here."""
        ...

    def undelivered_receipts(self, site: SiteName) -> Sequence[bytes]:
        """Signed receipts of any status that the site has not confirmed, oldest first."""
        ...

    def delivered(self, site: SiteName, receipt: Digest) -> None:
        """The site has this receipt (SHA-256 of its signed bytes) durably. Unknown ones are ignored."""
        ...

    def wanted(self, site: SiteName) -> Sequence[tuple[StudyKey, Kind]]:
        """Parts of studies that a reader asked for and that have not been put yet; a stream asks once for each."""
        ...
