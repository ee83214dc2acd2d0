"""What the decoding process makes of foreign bytes, as messages, and back with every size checked."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom.uid import UID

from thinwire.receiver.decoding.dicom_object import DicomObject
from thinwire.receiver.decoding.messages import Message, flat, shaped
from thinwire.shared.errors import BadCrops, BadFormat, BadPreview
from thinwire.shared.formats.crops import Crops, Meaning, Photometric, Rectangle
from thinwire.shared.formats.display import Display
from thinwire.shared.formats.preview import Preview
from thinwire.shared.formats.window import Window
from thinwire.shared.imaging.dicom import Radiograph

_BYTES = frozenset(("|u1",))
_STORED = frozenset(("|u1", "|i1", "<u2", "<i2"))
_CROPPED = frozenset(("|u1", "<u2"))
_LEVELS = frozenset(("<f4",))

UNREADABLE = (BadFormat, AttributeError, IndexError, LookupError, TypeError, ValueError)
"""The exceptions for a message that is not of the expected form."""


@dataclass(frozen=True)
class ChosenImage:
    """The frontal image among files, as `frontal.Chosen`. index: into the files."""

    index: int
    radiograph: Radiograph
    warnings: tuple[str, ...]


def of_radiograph(found: Radiograph, *first: object) -> Message:
    """first: fields before those of the radiograph."""
    stored, samples = flat(found.stored)
    levels, tones = flat(found.levels)
    text = [found.display.orientation, found.view_position, found.modality, found.burned_in, list(found.warnings)]
    return Message([*first, stored, levels, found.display.to_bytes(), *text], [samples, tones])


def radiograph(fields: list[Any], buffers: list[bytes]) -> Radiograph:
    """Raises UNREADABLE."""
    stored_shape, levels_shape, facts, orientation, view, modality, burned_in, warnings = fields
    stored = shaped(stored_shape, buffers[0], _STORED, 2)
    levels = shaped(levels_shape, buffers[1], _LEVELS, 1).astype(np.float32)
    samples = stored.astype(np.uint16)  # of signed values modulo 65,536, as the difference is
    samples -= np.uint16(int(stored.min()) & 0xFFFF)
    return Radiograph(
        pixels=levels[samples],
        stored=stored,
        levels=levels,
        display=Display.from_bytes(bytes(facts), str(orientation)),
        view_position=str(view),
        modality=str(modality),
        burned_in=str(burned_in),
        warnings=tuple(str(each) for each in warnings),
    )


def of_preview(found: Preview | None) -> Message:
    if found is None:
        return Message([], [])
    shape, pixels = flat(found.image)
    size = [found.native_height, found.native_width, found.window.to_bytes()]
    return Message([*size, shape, found.layer, found.layers], [pixels])


def preview(fields: list[Any], buffers: list[bytes]) -> Preview | None:
    """Raises UNREADABLE."""
    if not fields:
        return None
    height, width, window, shape, layer, layers = fields
    image = shaped(shape, buffers[0], _BYTES, 2)
    return Preview(int(height), int(width), Window.from_bytes(window, BadPreview), image, int(layer), int(layers))


def of_crops(found: Crops | None) -> Message:
    if found is None:
        return Message([], [])
    shown = found.meaning
    meaning = [shown.bits_stored, shown.signed, shown.photometric, shown.spacing_mm, shown.rescale]
    parts = [flat(each) for each in (found.tone, *found.samples)]
    places = [[each.x, each.y, each.width, each.height, each.share] for each in found.rectangles]
    size = [found.native_height, found.native_width, found.least, found.total]
    shapes = [shape for shape, _ in parts]
    return Message([size, meaning, shown.window.to_bytes(), places, shapes], [pixels for _, pixels in parts])


def crops(fields: list[Any], buffers: list[bytes]) -> Crops | None:
    """Raises UNREADABLE."""
    if not fields:
        return None
    (height, width, least, total), (bits, signed, photometric, spacing, rescale), window, places, shapes = fields
    tone = shaped(shapes[0], buffers[0], _BYTES, 1)
    samples = [shaped(shape, data, _CROPPED, 2) for shape, data in zip(shapes[1:], buffers[1:], strict=True)]
    rectangles = [Rectangle(x, y, w, h, share) for x, y, w, h, share in places]
    for rectangle, part in zip(rectangles, samples, strict=True):
        inside = rectangle.y + rectangle.height <= height and rectangle.x + rectangle.width <= width
        if not inside or part.shape != (rectangle.height, rectangle.width) or int(part.max()) >= len(tone):
            raise ValueError("a rectangle is outside its image")
    meaning = Meaning(
        int(bits),
        bool(signed),
        Photometric(photometric),
        None if spacing is None else tuple(spacing),
        None if rescale is None else tuple(rescale),
        Window.from_bytes(window, BadCrops),
    )
    return Crops(height, width, meaning, least, tone, tuple(rectangles), tuple(samples), total)


def of_object(found: DicomObject, given: bytes) -> Message:
    """given: the file as it came; its bytes return only if they had to change."""
    uids = [found.sop_class, found.instance, found.syntax, found.study, found.series]
    return Message([str(each) for each in uids], [found.data] if found.data != given else [])


def dicom_object(fields: list[Any], buffers: list[bytes], given: bytes) -> DicomObject:
    """Raises UNREADABLE."""
    sop_class, instance, syntax, study, series = map(str, fields)
    return DicomObject(buffers[0] if buffers else given, UID(sop_class), instance, UID(syntax), study, series)
