"""A study's X-ray from its best tier, with missing regions visibly missing."""

import json
from io import BytesIO
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.support.dicoms import chest, dicom
from tests.support.hub_folder import Clinic, Sealed, StudyParts, join, read_of, study_parts
from tests.support.tier_samples import (
    HEIGHT,
    MEANING,
    RECTANGLES,
    WIDTH,
    WINDOW,
    sample_crops,
    sample_preview,
    shown,
)
from tests.support.tier_samples import stored as stored_values
from thinwire.receiver.cli.main import app
from thinwire.receiver.export.best_image import BestImage, stripes
from thinwire.receiver.hub import Hub
from thinwire.receiver.transport.inbox import FolderInbox
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.formats import crops, preview
from thinwire.shared.formats.bundle import Bundle
from thinwire.shared.formats.graph import Grid
from thinwire.shared.formats.originals import Member
from thinwire.shared.imaging.radiograph import open_radiograph

GREY = shown(stored_values())
GRID = Grid(HEIGHT, WIDTH, 256)


@pytest.fixture
def parts(hub: Hub, clinic: Clinic, bundle: Bundle) -> StudyParts:
    """A study of which the graph is here."""
    made = study_parts(clinic, bundle)
    put(hub, clinic, made.graph)
    return made


def put(hub: Hub, clinic: Clinic, part: Sealed) -> None:
    pipeline = hub.pipeline()
    pipeline.put(clinic.site, part.object, part.header, part.plaintext, False)


def arrive(hub: Hub, clinic: Clinic, part: Sealed, length: int) -> None:
    """The first bytes of an object, as the link leaves them while it is on its way."""
    inbox = FolderInbox(hub.data / "inbox", hub.disk, hub.clock)
    partial = inbox.open(clinic.site, part.object, len(part.sealed), lambda _: 0, 64)
    partial.append(part.sealed[:length])
    partial.close()


def best_image(hub: Hub, clinic: Clinic, parts: StudyParts, files: tuple[Member, ...] = ()) -> BestImage:
    return hub.study_images().image(clinic.site, parts.study, GRID, files)


def image_of(found: BestImage) -> np.ndarray:
    assert found.image is not None
    return found.image


def png(values: np.ndarray) -> Member:
    return Member("0000.png", bytes(imagecodecs.png_encode(values)))


def inside() -> np.ndarray:
    """bool [H, W]: where the sample has crops."""
    here = np.zeros((HEIGHT, WIDTH), np.bool_)
    for each in RECTANGLES:
        here[each.place] = True
    return here


def test_nothing_is_shown_of_an_image_of_which_nothing_is_here(hub: Hub, clinic: Clinic, parts: StudyParts) -> None:
    assert best_image(hub, clinic, parts) == BestImage(None, "nothing yet")


def test_the_originals_go_before_every_other_tier(hub: Hub, clinic: Clinic, parts: StudyParts) -> None:
    put(hub, clinic, clinic.seal(Kind.PREVIEW, parts.study, sample_preview()))
    found = best_image(hub, clinic, parts, (png(GREY),))
    assert found.source == "the original file that this hub chose; the clinic named none"
    np.testing.assert_array_equal(image_of(found), open_radiograph(png(GREY).data).shown)
    # A file that does not decode here costs the originals and not the preview.
    assert best_image(hub, clinic, parts, (Member("0000.png", b"broken"),)).source.startswith("the preview (")


def test_crops_lie_over_the_preview_with_the_same_greys(hub: Hub, clinic: Clinic, parts: StudyParts) -> None:
    put(hub, clinic, clinic.seal(Kind.PREVIEW, parts.study, sample_preview()))
    alone = image_of(best_image(hub, clinic, parts))
    put(hub, clinic, clinic.seal(Kind.CROPS, parts.study, sample_crops()))
    found = best_image(hub, clinic, parts)
    assert found.source.endswith("with 3 of 3 crops over it")
    here = inside()
    np.testing.assert_array_equal(image_of(found)[here], GREY[here])
    below = np.asarray(Image.fromarray(alone).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(image_of(found)[~here], below[~here])


def test_crops_alone_are_laid_over_stripes(hub: Hub, clinic: Clinic, parts: StudyParts) -> None:
    put(hub, clinic, clinic.seal(Kind.CROPS, parts.study, sample_crops()))
    found = best_image(hub, clinic, parts)
    assert found.source == "3 of 3 crops alone"
    here = inside()
    np.testing.assert_array_equal(image_of(found)[here], GREY[here])
    np.testing.assert_array_equal(image_of(found)[~here], stripes(HEIGHT, WIDTH)[~here])
    assert len(np.unique(stripes(HEIGHT, WIDTH))) == 2


def test_a_preview_or_crops_of_another_image_is_not_shown(hub: Hub, clinic: Clinic, parts: StudyParts) -> None:
    put(hub, clinic, clinic.seal(Kind.PREVIEW, parts.study, preview.encode(GREY[:200], WINDOW, 4000)))
    values = stored_values()[:, :200]
    other = crops.encode(values, shown(values), RECTANGLES[:1], MEANING)
    put(hub, clinic, clinic.seal(Kind.CROPS, parts.study, other))
    assert best_image(hub, clinic, parts) == BestImage(None, "nothing yet")


def test_what_is_still_arriving_is_shown_as_far_as_it_is_verified(hub: Hub, clinic: Clinic, parts: StudyParts) -> None:
    coarse = clinic.seal(Kind.PREVIEW, parts.study, sample_preview(8000))
    assert coarse.header.chunk_log2 == 10
    arrive(hub, clinic, coarse, 45 + 1039)
    assert best_image(hub, clinic, parts) == BestImage(None, "nothing yet")
    arrive(hub, clinic, coarse, len(coarse.sealed) - 1)
    found = best_image(hub, clinic, parts)
    assert found.source.startswith("the coarse preview (")
    assert max(image_of(found).shape) == 128
    assert hub.study_images().arriving_labels(hub.store.find(parts.study.hex())) == {1: found.source}
    path = hub.data / "inbox" / clinic.site / coarse.object.hex()
    data = bytearray(path.read_bytes())
    data[300] ^= 1  # a damaged part is not shown
    path.write_bytes(data)
    assert best_image(hub, clinic, parts) == BestImage(None, "nothing yet")


def test_crops_that_are_arriving_are_shown_rectangle_by_rectangle(hub: Hub, clinic: Clinic, parts: StudyParts) -> None:
    noise = np.random.default_rng(0).integers(0, 4096, (HEIGHT, WIDTH)).astype(np.uint16)
    data = crops.encode(noise, shown(noise), [*RECTANGLES, crops.Rectangle(0, 80, 130, 150, 0.1)], MEANING)
    fine = clinic.seal(Kind.CROPS, parts.study, data)
    assert fine.header.chunk_log2 == 14
    arrive(hub, clinic, fine, len(fine.sealed) - 1)
    found = best_image(hub, clinic, parts)
    assert found.source == "2 of 4 crops alone"
    first = RECTANGLES[1].place
    np.testing.assert_array_equal(image_of(found)[first], shown(noise)[first])


def test_another_study_and_site_have_nothing_of_it(hub: Hub, clinic: Clinic, parts: StudyParts, bundle: Bundle) -> None:
    coarse = clinic.seal(Kind.PREVIEW, parts.study, sample_preview(8000))
    arrive(hub, clinic, coarse, len(coarse.sealed) - 1)
    arriving = hub.study_images().arriving
    assert arriving.prefix(clinic.site, parts.study, Kind.PREVIEW)
    assert arriving.prefix(clinic.site, parts.study, Kind.CROPS) == b""
    assert arriving.prefix(clinic.site, study_parts(clinic, bundle, 1).study, Kind.PREVIEW) == b""
    assert arriving.prefix(join(hub, "south-ridge").site, parts.study, Kind.PREVIEW) == b""


def test_a_preview_lies_as_the_manifest_says(hub: Hub, clinic: Clinic, bundle: Bundle) -> None:
    file = dicom(chest(HEIGHT, WIDTH), PatientOrientation=["R", "F"])
    parts = study_parts(clinic, bundle, files=(file,), read=read_of(file))
    put(hub, clinic, clinic.seal(Kind.PREVIEW, parts.study, sample_preview()))
    assert best_image(hub, clinic, parts).orientation == ""
    put(hub, clinic, parts.manifest)
    assert best_image(hub, clinic, parts).orientation == "R\\F"


def test_people_see_it(tmp_path: Path, hub: Hub, clinic: Clinic, parts: StudyParts) -> None:
    def said(*words: str) -> str:
        result = CliRunner().invoke(app, [*words, "--data", str(hub.data)])
        assert result.exit_code == 0, result.output
        return result.output

    study, picture = parts.study.hex()[:8], tmp_path / "seen.png"
    assert "drawn from nothing yet" in said("show", study, "--png", str(picture))
    assert "The crops are requested" in said("request", study, "crops")
    assert hub.store.requested_parts(clinic.site) == [(parts.study, Kind.CROPS)]
    fine = clinic.seal(Kind.CROPS, parts.study, sample_crops())
    arrive(hub, clinic, clinic.seal(Kind.PREVIEW, parts.study, sample_preview(8000)), 4000)
    put(hub, clinic, fine)
    assert "already stored" in said("ask", study, "evidence")
    assert hub.store.requested_parts(clinic.site) == []
    blank = picture.read_bytes()
    page = said("show", study, "--png", str(picture))
    assert "arriving: the coarse preview" in page
    assert f"{len(fine.sealed):,} bytes on the wire" in page
    assert picture.read_bytes() != blank
    facts = json.loads(CliRunner().invoke(app, ["show", study, "--json", "--data", str(hub.data)]).stdout)
    assert facts["arriving"] == {"preview": "the coarse preview (119 x 128)"}
    assert facts["tiers"]["crops"] == len(fine.sealed)
    assert CliRunner().invoke(app, ["request", study, "graph", "--data", str(hub.data)]).exit_code == 2


def test_export_writes_both_as_files_that_any_program_reads(
    tmp_path: Path, hub: Hub, clinic: Clinic, parts: StudyParts
) -> None:
    put(hub, clinic, clinic.seal(Kind.PREVIEW, parts.study, sample_preview()))
    put(hub, clinic, clinic.seal(Kind.CROPS, parts.study, sample_crops()))
    words = ["export", parts.study.hex(), "--data", str(hub.data), "--to", str(tmp_path / "out")]
    assert CliRunner().invoke(app, words).exit_code == 0
    stem = tmp_path / "out" / parts.study.hex()[:16]
    seen = Image.open(BytesIO(stem.with_suffix(".preview.png").read_bytes()))
    assert (seen.mode, seen.size) == ("L", (WIDTH, HEIGHT))
    written = imagecodecs.png_decode(stem.with_suffix(".crops.png").read_bytes())
    facts = json.loads(stem.with_suffix(".crops.json").read_bytes())
    assert written.shape == (HEIGHT, WIDTH, 2)
    here = inside()
    assert ((written[:, :, 1] == 65535) == here).all()
    values = written[:, :, 0].astype(np.int64) + facts["stored_value_of_0"]
    np.testing.assert_array_equal(values[here], stored_values()[here])
    assert facts["rectangles"][0] == {"x": 140, "y": 100, "width": 30, "height": 40, "share": 0.5}
    assert (facts["photometric"], facts["rescale"]) == ("MONOCHROME1", {"slope": 1.0, "intercept": 0.0})
    assert facts["window"] == {"function": "LINEAR", "center": 2048.0, "width": 4096.0}
    assert len(facts["rectangles"]) == facts["rectangles_in_all"] == 3
