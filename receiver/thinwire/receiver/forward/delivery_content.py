"""The content of deliveries: the objects of a study for a target, made from the store."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from thinwire.receiver.decoding.dicom_object import DicomObject
from thinwire.receiver.export.best_image import StudyImages
from thinwire.receiver.export.fhir import WrittenOf, fhir_bundle, fhir_study, nothing_written
from thinwire.receiver.export.machine_result import MachineResult, machine_result
from thinwire.receiver.export.picture import concept_names
from thinwire.receiver.export.secondary_capture import secondary_capture
from thinwire.receiver.export.structured_report import structured_report
from thinwire.receiver.forward.delivery import Delivery
from thinwire.receiver.forward.queue import Items, SiteStudy
from thinwire.receiver.inference.bundles import Bundles
from thinwire.receiver.store.records import StoredStudy
from thinwire.receiver.targets import FhirTarget, Target
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.errors import BadFormat, Retryable, UnknownBundle, UnknownStudy, UnreadableDicom
from thinwire.shared.formats.originals import Member
from thinwire.shared.formats.payload import decode
from thinwire.shared.formats.positional import micros
from thinwire.shared.identifiers import Digest, Tier, digest

FILE, REPORT, CAPTURE, FHIR = "file", "sr", "capture", "fhir"


class Superseded(Exception):
    """The study has changed since the delivery was planned; another delivery has the newer version."""


Made = DicomObject | bytes | Exception
"""A DICOM object, or a FHIR transaction; else the reason why there is none."""


@dataclass(frozen=True)
class DeliveryContent:
    """Lists and makes the objects of a study for targets. written: the report and draft of a study."""

    study_images: StudyImages
    bundles: Bundles
    written: WrittenOf = nothing_written

    def items(self, target: Target, key: SiteStudy) -> Items:
        """The objects of a study for a target, as far as they are received, in the order of sending. None of files that
        have become part of another study since they were looked for."""
        try:
            study = self.study_images.store.study(*key)
        except UnknownStudy:
            return []
        if target.since is not None and study.received < target.since:
            return []
        if isinstance(target, FhirTarget):
            found = fhir_study(study, self.study_images, self.written)
            return [] if found is None else [(FHIR, found.version)]
        items = [(f"{FILE} {n}", each) for n, each in enumerate(self.study_images.store.file_digests(*key))]
        if items and study.prediction is not None:
            version = prediction_version(study)
            items += [(REPORT, version), (CAPTURE, version)]
        return items

    def make(self, key: SiteStudy, deliveries: Sequence[Delivery]) -> Iterator[tuple[Delivery, Made]]:
        """The content of each delivery of one study; else Superseded, or the error."""
        study = self.study_images.store.study(*key)
        files: list[Member] | None = None
        result: MachineResult | None = None
        for delivery in deliveries:
            try:
                files = self.study_images.files(*key) if files is None else files
                if delivery.item == FHIR:
                    yield delivery, self._fhir(study, files, delivery)
                    continue
                if delivery.item.startswith(FILE):
                    yield delivery, self._file(files, delivery)
                    continue
                if study.prediction is None or prediction_version(study) != delivery.version:
                    yield delivery, Superseded()
                    continue
                result = result or self._result(study, files)
                if delivery.item == REPORT:
                    made = structured_report(result)
                else:
                    made = secondary_capture(result, concept_names(result.graph, self.bundles))
                yield delivery, self.study_images.decoder.dicom_object(made)
            except (BadFormat, UnknownBundle, UnreadableDicom) as error:
                yield delivery, error
            except (Retryable, OSError):
                raise
            except Exception as error:  # noqa: BLE001 - its text may name a patient, and it must stop no other study
                yield delivery, UnreadableDicom(f"unexpected error ({type(error).__name__})")

    def _fhir(self, study: StoredStudy, files: Sequence[Member], delivery: Delivery) -> bytes | Superseded:
        found = fhir_study(study, self.study_images, self.written)
        if found is None or found.version != delivery.version:
            return Superseded()
        return fhir_bundle(found, [self.study_images.header(each) for each in files])

    def _result(self, study: StoredStudy, files: Sequence[Member]) -> MachineResult:
        payload = self.study_images.store.plaintext(study.site, study.study, Kind.GRAPH)
        if payload is None:
            raise UnreadableDicom("the study's graph is not here")
        graph = decode(payload, study.study, self.bundles.coder)
        best = self.study_images.image(study.site, study.study, graph.grid, files)
        found = machine_result(study, graph, best, self.study_images.decoder)
        if found is None:
            raise UnreadableDicom("none of the study's files is an image to which a report could refer")
        return found

    def _file(self, files: Sequence[Member], delivery: Delivery) -> DicomObject | Superseded:
        place = int(delivery.item.removeprefix(FILE))
        if place >= len(files) or digest(files[place].data) != delivery.version:
            return Superseded()
        return self.study_images.decoder.dicom_object(files[place].data)


def prediction_version(study: StoredStudy) -> Digest:
    """The version of SR and capture: another prediction, or other originals, is another version."""
    prediction = study.prediction
    facts = None if prediction is None else [prediction.bundle.hex(), micros(prediction.at), str(prediction.urgency)]
    corrected = [each.study.hex() for each in study.additions if each.counts and each.corrects]
    version = [facts, study.sealed_sizes.get(Tier.ORIGINALS), *([corrected] if corrected else [])]
    return digest(json.dumps(version).encode())
