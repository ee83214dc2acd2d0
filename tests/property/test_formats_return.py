"""Whatever can be written comes back as it was, in one form."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.format_samples import (
    BUNDLE,
    CODER,
    EPOCH,
    HUB_SIGNING,
    SITE,
    SITE_SIGNING,
    STUDY,
    coder_of,
    key_of,
    spec,
)
from thinwire.shared.crypto.envelope import Kind, open_sealed, seal
from thinwire.shared.formats.crops import Photometric
from thinwire.shared.formats.display import Display, SpacingKind
from thinwire.shared.formats.graph import Concepts, FusedGraph, Grid, Patches, empty_measurements
from thinwire.shared.formats.manifest import (
    IDENTITY_KEYWORDS,
    Added,
    FileRead,
    Manifest,
    TierEntry,
    read_manifest,
    sign_manifest,
)
from thinwire.shared.formats.payload import decode, encode
from thinwire.shared.formats.receipts import Receipt, StudyStatus, detail, read_receipt, sign_receipt
from thinwire.shared.formats.window import Function, Window
from thinwire.shared.identifiers import BundleId, Digest, StudyKey, TextSource, Tier, study_key

EXAMPLES = settings(max_examples=100, deadline=None, derandomize=True, database=None)
MOMENTS = st.datetimes(datetime(1970, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
DIGESTS = st.binary(min_size=32, max_size=32).map(Digest)
SIZES = st.integers(0, (1 << 53) - 1)


@st.composite
def graphs(draw: st.DrawFn) -> FusedGraph:
    grid = Grid(draw(st.integers(1, 65535)), draw(st.integers(1, 65535)), spec().working_size)
    valid = np.flatnonzero(grid.valid)
    cell = np.array(sorted(draw(st.sets(st.sampled_from(valid.tolist()), max_size=40))), np.int32)
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    share = rng.dirichlet(np.ones(len(cell) + 1))[:-1] if len(cell) else np.zeros(0)
    named = sorted(draw(st.sets(st.integers(0, 90 * 3 - 1), max_size=30)))
    m, k = len(named), len(cell)
    ends = st.tuples(st.integers(0, max(0, m - 1)), st.integers(0, max(0, m - 1)), st.integers(0, 2))
    relations = sorted(draw(st.sets(ends, max_size=20))) if m else []
    fusion = st.tuples(st.integers(0, k - 1), st.integers(0, m - 1)) if k and m else st.none()
    return FusedGraph(
        study=STUDY,
        bundle=BUNDLE,
        grid=grid,
        patches=Patches(cell, share.astype(np.float32), rng.normal(size=(k, 128)).astype(np.float32)),
        context=rng.normal(size=128).astype(np.float32),
        concepts=Concepts(
            np.array(named, np.int32) // 3,
            np.array(named, np.int32) % 3,
            np.array(relations, np.int32).reshape(-1, 3),
        ),
        measurements=empty_measurements(),
        fusion=draw(fusion),
        text_source=draw(st.sampled_from(TextSource)),
        modality=draw(st.sampled_from(["CR", "DX", ""])),
        view_position=draw(st.sampled_from(["PA", "AP", "", "LL"])),
    )


@EXAMPLES
@given(graphs())
def test_a_graph_returns_in_one_form(graph: FusedGraph) -> None:
    data = encode(graph, CODER)
    back = decode(data, STUDY, coder_of)
    assert encode(back, CODER) == data
    assert (back.grid, back.fusion, back.text_source) == (graph.grid, graph.fusion, graph.text_source)
    np.testing.assert_array_equal(back.patches.cell, graph.patches.cell)
    np.testing.assert_array_equal(back.concepts.relations, graph.concepts.relations)
    np.testing.assert_allclose(back.patches.score, graph.patches.score, rtol=0.045, atol=2**-12)


@EXAMPLES
@given(st.binary(max_size=5000), st.sampled_from(Kind), st.binary(min_size=16, max_size=16), st.integers(10, 12))
def test_a_sealed_object_returns(plaintext: bytes, kind: Kind, study: bytes, chunk_log2: int) -> None:
    sealed = seal(EPOCH, kind, StudyKey(study), plaintext, chunk_log2)
    header, back = open_sealed(sealed, key_of)
    assert (header.kind, header.study, back) == (kind, study, plaintext)
    assert seal(EPOCH, kind, StudyKey(study), plaintext, chunk_log2) == sealed


@EXAMPLES
@given(
    st.sampled_from(StudyStatus),
    st.none() | DIGESTS,
    MOMENTS,
    st.dictionaries(st.text(max_size=8), st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8)),
)
def test_a_receipt_returns(
    status: StudyStatus, stored: Digest | None, at: datetime, facts: dict[str, float | str]
) -> None:
    receipt = Receipt(STUDY, SITE, stored, status, at, detail(facts))
    assert read_receipt(sign_receipt(receipt, HUB_SIGNING), HUB_SIGNING.public_key()) == receipt


NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
SPACINGS = st.tuples(*[st.floats(0.001, 99.0)] * 2)
WINDOWS = st.sampled_from(Function).flatmap(
    lambda function: (
        st.just(Window(function))
        if function in (Function.PERCENTILES, Function.LUT)
        else st.builds(Window, st.just(function), NUMBERS, st.floats(1e-3, 1e9))
    )
)
STORED = st.integers(-(1 << 15), (1 << 16) - 1)
DISPLAYS = st.one_of(st.none(), SPACINGS).flatmap(
    lambda spacing: st.builds(
        Display,
        photometric=st.sampled_from(Photometric),
        bits_stored=st.integers(1, 16),
        signed=st.booleans(),
        inverted=st.booleans(),
        rescale=st.none() | st.tuples(NUMBERS, NUMBERS),
        window=WINDOWS,
        padding=st.none() | st.tuples(STORED, STORED),
        spacing_mm=st.just(spacing),
        spacing_kind=st.just(SpacingKind.UNKNOWN) if spacing is None else st.sampled_from(tuple(SpacingKind)[1:]),
        orientation=st.text(max_size=8),
    )
)
FILES_READ = st.builds(
    FileRead, st.just(0), st.text(max_size=30), DISPLAYS, st.lists(st.text(max_size=70), max_size=32).map(tuple)
)


@EXAMPLES
@given(
    st.lists(st.tuples(DIGESTS, SIZES), min_size=1, max_size=5).map(tuple),
    st.sets(st.sampled_from(Tier)),
    DIGESTS,
    SIZES,
    MOMENTS,
    st.dictionaries(st.sampled_from(IDENTITY_KEYWORDS), st.text(max_size=80)),
    st.none() | FILES_READ,
    st.lists(DIGESTS, unique=True, max_size=3),
)
def test_a_manifest_returns(
    files: tuple[tuple[Digest, int], ...],
    tiers: set[Tier],
    sealed: Digest,
    size: int,
    created: datetime,
    identity: dict[str, str],
    read: FileRead | None,
    corrected: list[Digest],
) -> None:
    entries = tuple(TierEntry(tier, sealed, size, size // 2) for tier in sorted(tiers))
    study = study_key(each for each, _ in files)
    manifest = Manifest(study, SITE, created, BundleId(bytes(16)), entries, files, identity, read)
    added = Added.fitting(
        StudyKey(sealed[:16]), dict.fromkeys(corrected, files[0][0]), () if read is None else read.warnings
    )
    for each in (manifest, replace(manifest, read=None, added=added)):
        assert read_manifest(sign_manifest(each, SITE_SIGNING), SITE_SIGNING.public_key()) == each
