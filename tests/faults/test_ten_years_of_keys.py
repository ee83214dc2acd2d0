"""Ten years of a hub and a clinic: renewals, rotations, restarts, power cuts at any step, a clinic that is switched off
for months and once until its certificate has ended. Everything but TLS is the real code; a stand-in checks the
certificates as TLS does."""

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import func, select

from tests.support.clock import FakeClock
from tests.support.hub_end import HubEnd, manifest_of
from tests.support.power import Cutoff, Fuse, LossyDisk, PowerCut
from tests.support.scripted_link import ScriptedLink
from tests.support.two_ends import PLAN, SITE, Sample, samples
from thinwire.receiver.sites import keyring, rotation
from thinwire.receiver.sites.enrolment import SiteRegistry
from thinwire.receiver.sites.keyring import KeyKind, load_keyring, make_keyring
from thinwire.receiver.store.tables import HUB, epochs, objects
from thinwire.receiver.transport.inbox import FolderInbox
from thinwire.receiver.transport.ingest import IngestSession
from thinwire.sender.enrolment import join, load_enrolment
from thinwire.sender.outbox.epochs import Epochs
from thinwire.sender.outbox.outbox import Outbox
from thinwire.sender.outbox.tables import CLINIC, FILE
from thinwire.sender.transport.credentials import Credentials
from thinwire.sender.transport.session import UplinkSession
from thinwire.shared.crypto.certificates import begin, expiry, load
from thinwire.shared.crypto.keys import Identity, JoinToken, fingerprint, issue_server, prove_join
from thinwire.shared.errors import LinkLost, NotEnrolled
from thinwire.shared.identifiers import EpochId
from thinwire.shared.storage.database import Database
from thinwire.shared.storage.migrations import create_database, open_database
from thinwire.shared.wire.v1 import link_pb2 as wire

STEP = 61 * 86_400.0
"""Seconds: two months."""
ROTATIONS = {10: KeyKind.AUTHORITY, 13: KeyKind.SEALING, 30: KeyKind.SEALING, 42: KeyKind.AUTHORITY}
"""By step."""
OFF = {*range(15, 18), *range(24, 37)}
"""Steps in which the clinic is switched off: half a year, and later until its certificate has ended."""


class Years:
    """Both ends on their folders, built up again after every power cut."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock, self.fuse = folder, FakeClock(), Fuse()
        self.clinic, self.hub_keys = folder / "clinic", folder / "hub" / "keys"
        self.rng = random.Random(7)
        self.disk = LossyDisk(self.fuse)
        make_keyring(self.hub_keys, self.disk, self.clock)
        create_database(folder / "hub" / "thinwire.db", HUB)
        # Each stays open: what a power cut leaves is rolled back, and SQL is compiled once.
        self.database = open_database(folder / "hub" / "thinwire.db", HUB)
        self.clinic_database: Database | None = None
        self.start_hub()
        self.join()

    def start_hub(self) -> None:
        """As `serve` starts."""
        found = load_keyring(self.hub_keys)
        rotation.advance(found, self.database, self.clock)
        self.keys = rotation.in_use(found, self.database)
        self.hub = HubEnd(self.folder / "hub", b"", self.keys, self.disk, self.clock, [], self.database)
        self.server = issue_server(self.keys.authority, (), self.clock)
        self.inbox = FolderInbox(self.folder / "hub" / "inbox", self.disk, self.clock)

    def outbox(self) -> Outbox:
        """The clinic, as it starts."""
        enrolment = load_enrolment(self.clinic)
        if self.clinic_database is None:
            self.clinic_database = open_database(self.clinic / FILE, CLINIC)
        epochs_ = Epochs(
            database=self.clinic_database,
            keys=self.clinic / "keys" / "epochs",
            site=SITE,
            hub=enrolment.hub,
            signing=enrolment.signing,
            disk=self.disk,
            clock=self.clock,
        )
        return Outbox(self.clinic, self.clinic_database, epochs_, enrolment.hub_signing)

    @property
    def registry(self) -> SiteRegistry:
        return self.hub.enrolment

    def join(self) -> None:
        token = self.registry.enrol(SITE)[0]

        def ask(used: JoinToken, request: bytes, signing: Ed25519PrivateKey) -> wire.JoinReply:
            assert shakes(used.bootstrap.certificate_pem, self.keys.trusted_pem, self.clock)
            assert shakes(self.server.certificate_pem, used.authority_pem, self.clock)
            public = signing.public_key().public_bytes_raw()
            given = self.registry.join(used.id, request, public, prove_join(signing, used.id, request))
            return wire.JoinReply(
                certificate=given.certificate_pem,
                sealing_key=given.sealing_key,
                signing_key=given.signing_key,
                site=given.site,
            )

        join(self.clinic, token, "hub:7443", self.disk, self.clock, ask)

    def connect(self) -> None:
        """One stream, as `Uplink` opens it: the certificate, the session, a renewal. Raises what ends it."""
        outbox = self.outbox()
        credentials = load_enrolment(self.clinic).credentials(self.clinic, self.disk, self.clock)
        identity = self.accepted(outbox.hub_keys.authorities_pem() or b"", credentials)
        self.registry.connect(SITE, identity.certificate_pem)
        ingest = IngestSession(SITE, self.inbox, self.hub.pipeline, self.clock, self.disk)
        ScriptedLink(self.clock).carry(UplinkSession(outbox, self.clock, self.disk), ingest)
        if credentials.is_due(identity):
            request, proof = credentials.request(identity)
            present = fingerprint(identity.certificate_pem)
            credentials.take(self.registry.renew(SITE, present, request, proof), identity)

    def accepted(self, trusted: bytes, credentials: Credentials) -> Identity:
        """The identity with which TLS and the hub let the clinic in."""
        if not shakes(self.server.certificate_pem, trusted, self.clock):
            raise LinkLost("the hub's certificate is not trusted")
        present = credentials.present()
        for identity in (present, *credentials.others(present)):
            trusts = shakes(identity.certificate_pem, self.keys.trusted_pem, self.clock)
            if trusts and not self.registry.refused({SITE: fingerprint(identity.certificate_pem)}):
                return identity
        raise NotEnrolled("no certificate of the clinic is accepted")

    def send(self, sample: Sample) -> None:
        """Accept a study at the clinic, and make its parts."""
        outbox = self.outbox()
        outbox.accept(sample.study, sample.source, PLAN)
        for entry in outbox.unfinished():
            source = outbox.source(entry.study)
            for kind, plaintext in Sample(source).parts.items():
                if kind in entry.missing:
                    outbox.add(entry.study, kind, plaintext)
            parts = [part.object for part in outbox.entry(entry.study).parts if part.object]
            outbox.add(entry.study, PLAN[1], manifest_of(parts))

    def rotate(self, kind: KeyKind) -> None:
        keyring.rotate(self.hub_keys, kind, self.disk, self.clock)
        rotation.register(load_keyring(self.hub_keys), self.database, self.clock)

    def retire(self) -> None:
        done = rotation.retire(self.keys, self.database, self.clock)
        if done:
            keyring.remove_retired(self.hub_keys, done, self.disk)
            self.start_hub()

    def through_cuts(self, act: Callable[[], object]) -> None:
        """Do it, with the power going at a step, and at another, until it is done."""
        for steps in (self.rng.randrange(1, 60), self.rng.randrange(1, 200)):
            self.disk = LossyDisk(Cutoff(steps))
            try:
                self.start_hub()
                act()
                break
            except PowerCut:
                continue
            finally:
                self.disk = LossyDisk(Fuse())
                self.start_hub()
        else:
            act()


def shakes(certificate: bytes, trusted: bytes, clock: FakeClock) -> bool:
    """Whether TLS takes a certificate: of a trusted authority, and both valid now."""
    leaf, now = load(certificate), clock.now()
    for root in x509.load_pem_x509_certificates(trusted):
        if root.subject == leaf.issuer and all(begin(each) <= now <= expiry(each) for each in (leaf, root)):
            try:
                leaf.verify_directly_issued_by(root)
            except InvalidSignature:  # another key of the same name
                continue
            return True
    return False


def test_ten_years(tmp_path: Path) -> None:
    years, studies = Years(tmp_path), samples(61, size=300)
    sent: list[Sample] = []
    fingerprints, ended = set(), 0
    for step in range(61):
        years.clock.advance(STEP)
        years.start_hub()
        if (kind := ROTATIONS.get(step)) is not None:
            before = len(load_keyring(years.hub_keys).generations)
            years.through_cuts(partial(years.rotate, kind))
            assert len(load_keyring(years.hub_keys).generations) > before
            years.start_hub()
        if step % 6 == 5:
            years.through_cuts(years.retire)
        sample = studies[step]
        sent.append(sample)
        years.send(sample)
        if step in OFF:
            continue
        try:
            years.through_cuts(years.connect)
        except (NotEnrolled, LinkLost):
            ended += 1
            years.through_cuts(years.join)
            years.through_cuts(years.connect)
        fingerprints.add(fingerprint(load_enrolment(years.clinic).identity.certificate_pem))
        with years.database.read() as connection:
            stored = connection.scalar(select(func.count(objects.c.study.distinct())))
        assert stored == len(sent), step
    assert ended == 1
    assert len(fingerprints) >= 6
    years.start_hub()
    held = {(each.kind, each.number): each.retired for each in years.keys.generations}
    numbers = {number for kind, number in held if kind is KeyKind.AUTHORITY}
    assert len(numbers) >= 3
    assert held[KeyKind.AUTHORITY, 1]
    assert held[KeyKind.SEALING, 1]
    assert not (years.hub_keys / keyring.AUTHORITY_KEY).exists()
    assert years.keys.announcement.authority == max(numbers)
    with years.database.read() as connection:
        left = list(connection.scalars(select(epochs.c.epoch)))
    assert left
    for epoch in left:  # every epoch that is kept can still be opened
        assert years.registry.epoch_key(SITE, EpochId(epoch)) is not None
