"""`export`: one study as files. Names and formats: docs/store-format.md."""

import logging
from pathlib import Path

from thinwire.receiver.export.best_image import StudyImages
from thinwire.receiver.export.graph_file import wrap
from thinwire.receiver.export.graphml import graphml
from thinwire.receiver.export.machine_result import machine_result
from thinwire.receiver.export.picture import concept_names, drawn
from thinwire.receiver.export.pyg import hetero_bytes
from thinwire.receiver.export.secondary_capture import secondary_capture
from thinwire.receiver.export.structured_report import structured_report
from thinwire.receiver.export.tier_files import crops_json, crops_png, preview_png
from thinwire.receiver.inference.bundles import Bundles
from thinwire.receiver.store.records import StoredStudy
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.errors import UnreadableDicom
from thinwire.shared.formats.payload import decode
from thinwire.shared.storage.durable import Disk

log = logging.getLogger(__name__)

SHORT = 16
"""Hex digits of a study key in file names."""


def export_study(
    study: StoredStudy, study_images: StudyImages, bundles: Bundles, folder: Path, disk: Disk
) -> list[Path]:
    """Write the files of a study to `folder`; returns their paths, in order.

    Raises BadFormat for a damaged blob, DiskFull.
    """
    disk.make_folder(folder)
    stem = study.study.hex()[:SHORT]
    written: list[Path] = []

    def write(path: Path, data: bytes) -> None:
        disk.write(path, data, "export")
        written.append(path)

    members = study_images.files(study.site, study.study)
    if members:
        disk.make_folder(folder / stem)
    for member in members:
        write(folder / stem / Path(member.name).name, member.data)
    preview, crops = study_images.preview(study.site, study.study), study_images.crops(study.site, study.study)
    if preview is not None:
        write(folder / f"{stem}.preview.png", preview_png(preview))
    if crops is not None:
        write(folder / f"{stem}.crops.png", crops_png(crops))
        write(folder / f"{stem}.crops.json", crops_json(crops))
    payload = study_images.store.plaintext(study.site, study.study, Kind.GRAPH)
    if payload is not None:
        graph = decode(payload, study.study, bundles.coder)
        names = concept_names(graph, bundles)
        best = study_images.image(study.site, study.study, graph.grid, members)
        write(folder / f"{stem}.thinwire", wrap(study.study, payload))
        write(folder / f"{stem}.pyg.safetensors", hetero_bytes(graph))
        write(folder / f"{stem}.graphml", graphml(graph, names))
        write(folder / f"{stem}.png", drawn(study, graph, names, best))
        try:
            result = machine_result(study, graph, best, study_images.decoder)
            if result is not None:
                write(folder / f"{stem}.sr.dcm", structured_report(result))
                write(folder / f"{stem}.capture.dcm", secondary_capture(result, names))
        except UnreadableDicom as error:
            log.warning("no DICOM objects of the prediction: %s", error)
    draft = study_images.store.draft(study.site, study.study)
    if draft is not None:
        write(folder / f"{stem}.draft.json", draft)
    return written
