"""`export`: one study as files for people and other programs. Names and formats: docs/store-format.md."""

from io import BytesIO
from pathlib import Path

from thinwire.receiver.bundles import Bundles
from thinwire.receiver.content import study_files
from thinwire.receiver.kept import KeptStudy
from thinwire.receiver.outputs.graph_file import wrap
from thinwire.receiver.outputs.graphml import graphml
from thinwire.receiver.outputs.pyg import hetero_bytes
from thinwire.receiver.outputs.radiograph import radiograph
from thinwire.receiver.store import Store
from thinwire.shared.durable import Disk
from thinwire.shared.envelope import Kind
from thinwire.shared.payload import decode
from thinwire.shared.picture import draw

SHORT = 16
"""Hex digits of a study's id in file names."""


def export_study(
    study: KeptStudy, store: Store, bundles: Bundles, folder: Path, disk: Disk, max_bytes: int
) -> list[Path]:
    """Write what is here of a study to `folder`; returns what was written, in order.

    max_bytes: most that the study's archive may restore to. Raises BadArchive, BadFormat for a part that the disk
    damaged, DiskFull.
    """
    disk.make_folder(folder)
    stem = study.study.hex()[:SHORT]
    written: list[Path] = []

    def write(path: Path, data: bytes) -> None:
        disk.write(path, data, "export")
        written.append(path)

    files: list[bytes] = []
    archive = store.plaintext(study.site, study.study, Kind.PIXELS)
    if archive is not None:
        disk.make_folder(folder / stem)
        for member in study_files(archive, study.study, max_bytes):
            write(folder / stem / Path(member.name).name, member.data)
            files.append(member.data)
    payload = store.plaintext(study.site, study.study, Kind.GRAPH)
    if payload is not None:
        graph = decode(payload, study.study, bundles.coder)
        names = [concept.name for concept in bundles.coder(graph.bundle).spec.concepts]
        read = {} if study.reading is None else study.reading.findings
        findings = {name: (f.probability, f.low, f.high) for name, f in read.items()}
        write(folder / f"{stem}.thinwire", wrap(study.study, payload))
        write(folder / f"{stem}.pyg.safetensors", hetero_bytes(graph))
        write(folder / f"{stem}.graphml", graphml(graph, names))
        picture = BytesIO()
        draw(graph, names, radiograph(files, graph.grid), findings).save(picture, "PNG")
        write(folder / f"{stem}.png", picture.getvalue())
    return written
