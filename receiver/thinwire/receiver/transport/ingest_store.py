"""The interface of the hub's store to the link."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from thinwire.receiver.sites.enrolment import JoinResult
from thinwire.receiver.store.history import SiteHistory
from thinwire.receiver.store.shares import Limit
from thinwire.shared.crypto.envelope import EnvelopeHeader, EpochKey, KeyOf, Kind
from thinwire.shared.crypto.keys import JoinTokenId
from thinwire.shared.errors import Forged, NotEnrolled
from thinwire.shared.identifiers import Digest, EpochId, SiteName, StudyKey


class EpochKeys(Protocol):
    """The keys of the sites' epochs."""

    def epoch_key(self, site: SiteName, epoch: EpochId) -> EpochKey | None:
        """The key of an epoch that this site announced; None for any other epoch."""
        ...


def key_lookup(keys: EpochKeys, site: SiteName) -> KeyOf:
    """A key function for the envelope: it raises Forged for an epoch of another site."""

    def key_of(epoch: EpochId) -> EpochKey:
        key = keys.epoch_key(site, epoch)
        if key is None:
            raise Forged("the epoch does not belong to this site")
        return key

    return key_of


class IngestStore(EpochKeys, Protocol):
    """The methods of the hub's store for ingest. Each may be called from any thread, and repeated.

    They raise DiskFull, and HubBusy if the same call may succeed later; both without effect.
    """

    def join(
        self, token: JoinTokenId, request: bytes, signing_key: bytes, proof: bytes, renews: bool = True
    ) -> JoinResult:
        """Enrol the token's site. request: certificate request, PEM; signing_key: Ed25519 public, 32 bytes; proof:
        `keys.prove_join`. renews: whether the clinic will ask for its next certificate.

        The first request with a valid proof uses the token up, durably. Until the site has connected, the same request
        is answered again with the same certificate, since the answer may have been lost. Raises NotEnrolled.
        """
        ...

    def renew(self, site: SiteName, certificate: Digest, request: bytes, proof: bytes) -> bytes:
        """The next certificate of a site, PEM, for the one in force; durable when this returns. request: certificate
        request of a new key, PEM; proof: `keys.prove_renewal`.

        Until the next one has connected, both are accepted, and the same request is answered with the same certificate.
        Raises NotEnrolled.
        """
        ...

    def hub_keys(self) -> bytes:
        """The signed list of the hub's keys (`formats.hub_keys`); empty before their first rotation."""
        ...

    def record_keys_taken(self, site: SiteName, taken: Digest) -> None:
        """Record that a site has the list of this digest; another than the present one is ignored."""
        ...

    def connect(self, site: SiteName, certificate: bytes) -> None:
        """A site connects with this certificate, PEM: its used token is not answered any more. If it is the next one,
        it is in force, and the one before is refused. Raises NotEnrolled for an unknown or revoked site, and for a
        certificate that was replaced."""
        ...

    def refused(self, certificates: Mapping[SiteName, Digest]) -> Mapping[SiteName, NotEnrolled]:
        """Those of these sites that `connect` refuses with these certificates, and why."""
        ...

    def admit_epoch(self, site: SiteName, record: bytes) -> None:
        """Store an epoch record (`envelope.open_epoch`), durable when this returns. The first record of an epoch id
        stays; a repeat has no effect. Raises Forged, NotEnrolled, LimitReached."""
        ...

    def limits(self, site: SiteName) -> Mapping[Limit, int]:
        """The limits of a site."""
        ...

    def check_room(self, site: SiteName, size: int) -> None:
        """Raises LimitReached unless the site may store this many bytes more."""
        ...

    def admit(self, site: SiteName, object: Digest, study: StudyKey, size: int) -> bytes | None:
        """Before a part is taken: as `stored_receipt`; of one that is not stored, raises StudyErased for a study that
        was removed from this hub, NotEnrolled for a site whose access is revoked, and LimitReached. size: of the sealed
        object, bytes."""
        ...

    def audit_head(self) -> bytes:
        """The signed head of the hub's audit log (`formats.audit_head`); empty where there is none."""
        ...

    def record_anchor(self, site: SiteName, signed: bytes) -> None:
        """Compare a signed head that a site keeps with the audit log, and record it; one that is not the hub's is
        ignored."""
        ...

    def stored_receipt(self, site: SiteName, object: Digest) -> bytes | None:
        """The signed `stored` receipt of an object that `put` stored for this site, or None: the first one, or another
        where that one does not tell its place in the present history."""
        ...

    def put(
        self,
        site: SiteName,
        object: Digest,
        header: EnvelopeHeader,
        plaintext: bytes,
        urgent: bool,
        admitted: bool = False,
    ) -> bytes:
        """Store one part of a study and sign its `stored` receipt, both durable when this returns, or neither.

        object: SHA-256 of the sealed bytes; a repeat of the same object has no effect, and returns the first receipt.
        header, plaintext: opened and verified, from an epoch of `site`. Another object with the same study, kind
        and plaintext (sealed again after damage at the clinic) is stored once, and gets its own receipt.
        urgent: whether the clinic sent the study as urgent. admitted: `admit` was asked a moment ago, and is not asked
        again before the plaintext is written. The receipt is then undelivered.
        Raises NotEnrolled for a site whose access is revoked, LimitReached; BadPayload, BadManifest, BadArchive,
        UnknownBundle, Forged for invalid content; the store moves useful content to quarantine.
        """
        ...

    def escalate(self, site: SiteName, study: StudyKey) -> bool:
        """Make a stored study urgent by the clinic's decision; durable when this returns. It is triaged again. A
        repeat has no effect. False for an unknown study."""
        ...

    def history(self, site: SiteName) -> SiteHistory:
        """The store in time, for this site."""
        ...

    def compare(self, site: SiteName, receipt: bytes) -> bool:
        """Compare the store with a receipt that the site brings. If the store lacks its object, as after the restore of
        an earlier state, a new generation begins, durably; True then. Another hub's receipt has no effect."""
        ...

    def undelivered_receipts(self, site: SiteName) -> Sequence[bytes]:
        """Signed receipts of any status that the site has not confirmed, oldest first."""
        ...

    def receipts_after(self, site: SiteName, number: int, most: int) -> Sequence[tuple[int, bytes]]:
        """The first of the unconfirmed receipts with a larger number than this, with their numbers, which ascend in the
        order of their transactions. most: of one answer."""
        ...

    def set_aside(self, site: SiteName, item: str, error: Exception) -> None:
        """Park something of a site that could not be received, with its reason. item: an object or a study, hex. It is
        released when the same is received. Of one site a limited number is parked. Never raises."""
        ...

    def record_delivered(self, site: SiteName, *receipts: Digest) -> None:
        """Record that these receipts (SHA-256 of their signed bytes) are durable at the site. Unknown ones are
        ignored."""
        ...

    def requested_parts(self, site: SiteName) -> Sequence[tuple[StudyKey, Kind]]:
        """Requested tiers that are not yet stored; a session sends each request once."""
        ...
