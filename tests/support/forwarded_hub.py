"""A hub with a study of real DICOM files, read, and targets to which it goes."""

from pathlib import Path

from tests.support.hub_folder import Clinic, fused, sealed_manifest
from tests.support.machine_results import image_file
from thinwire.receiver.config import FILE
from thinwire.receiver.forward.delivery import Delivery
from thinwire.receiver.forward.queue import Queue, Unplanned
from thinwire.receiver.hub import Hub
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.formats.bundle import Bundle
from thinwire.shared.formats.coder import load_coder
from thinwire.shared.formats.originals import Member, pack
from thinwire.shared.formats.payload import encode
from thinwire.shared.identifiers import SiteName, StudyKey, digest, study_key


def configure(data: Path, toml: str) -> None:
    (data / FILE).write_text(toml, encoding="utf-8")


def keep_study(
    hub: Hub, clinic: Clinic, bundle: Bundle, *files: bytes, read: bool = True, originals: bool = True
) -> StudyKey:
    """A study of these files, or of one image, with its graph and manifest, as if it had come over the link."""
    files = files or (image_file(),)
    study = study_key(digest(each) for each in files)
    graph = clinic.seal(Kind.GRAPH, study, encode(fused(bundle.id, study), load_coder(bundle)))
    archive = pack([Member(f"{n:04}.dcm", data) for n, data in enumerate(files)], "fast")
    whole = clinic.seal(Kind.ORIGINALS, study, archive)
    parts = [graph, sealed_manifest(clinic, files, bundle.id, graph, whole), *([whole] if originals else [])]
    pipeline = hub.pipeline()
    for part in parts:
        pipeline.put(clinic.site, part.object, part.header, part.plaintext, False)
    if read:
        assert pipeline.predict_waiting() == 1
    return study


def next_plan(queue: Queue, target: str, after: str | None = None) -> Unplanned | None:
    """What the target is to plan for next, of the site in turn after `after`."""
    site = queue.unplanned_site(target, None if after is None else SiteName(after))
    return None if site is None else queue.unplanned(target, site)


def next_due(queue: Queue, target: str, after: str | None = None) -> list[Delivery]:
    """What is to be sent to the target next."""
    study = queue.due_study(target, None if after is None else SiteName(after))
    return [] if study is None else queue.due(target, study)
