"""The code paths of the baselines on tiny material; what they are worth is the benchmarks' to say."""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch_geometric.data import Batch, Data

from benchmarks.baselines import edits, heads, scores
from benchmarks.baselines.fine_tuning import SIDE, FineTuning, fine_tune, fine_tuned, read, small
from benchmarks.baselines.networks import AttentionPooling, Heterogeneous, NoMessages, Published, Relational, parameters
from benchmarks.baselines.thumbnails import CODECS, inside, pixels_of, restore, shrink, thumbnail_sets
from thinwire.receiver.inference.mpnn import CONCEPT, CONTEXT, FUSED, PATCH, PLACE, GraphNetwork, NetworkShape, to_data
from thinwire.receiver.training.efficientnet import EfficientNetLite0
from thinwire.sender.graph.fusion import Origin, fuse
from thinwire.shared.formats.graph import Concepts, FusedGraph, Grid, Patches
from thinwire.shared.identifiers import BundleId, StudyKey, TextSource

FEATURES = 8
SHAPE = NetworkShape(FEATURES, concepts=6, findings=2, hidden=8, layers=2)


def graph(seed: int, said: int = 3) -> FusedGraph:
    rng = np.random.default_rng(seed)
    cell = np.array([9, 10, 18, 30], np.int32)
    patches = Patches(cell, np.full(4, 0.1, np.float32), rng.normal(size=(4, FEATURES)).astype(np.float32))
    relations = np.array([[0, 1, 0], [2, 1, 1]], np.int32) if said else np.zeros((0, 3), np.int32)
    concepts = Concepts(np.arange(said, dtype=np.int32), np.zeros(said, np.int32), relations)
    origin = Origin(StudyKey(bytes(16)), BundleId(bytes(16)), TextSource.GENERATED, "DX", "PA")
    return fuse(patches, concepts, rng.normal(size=FEATURES).astype(np.float32), Grid(200, 200, 256), origin)


def batch_of(*data: Data) -> Batch:
    return Batch.from_data_list(list(data))


@pytest.mark.parametrize("network", [GraphNetwork, Relational, Heterogeneous, NoMessages, AttentionPooling, Published])
@pytest.mark.parametrize("edit", [edits.whole, edits.without_context, edits.without_concepts])
def test_every_network_reads_every_kind_of_graph(network: type[GraphNetwork], edit: object) -> None:
    torch.manual_seed(0)
    model = network(SHAPE)
    assert parameters(model) > 0
    assert callable(edit)
    one, other, wordless = (edit(to_data(g)) for g in (graph(0), graph(1), graph(2, said=0)))
    out = model.eval()(batch_of(one, other, wordless))
    assert out.shape == (3, 2)
    # A graph is read alike alone and among others.
    torch.testing.assert_close(model(batch_of(other)), out[1:2], rtol=1e-4, atol=1e-5)
    out.sum().backward()


def test_only_networks_that_pass_messages_heed_an_edge() -> None:
    data = to_data(graph(0))
    apart = edits.without_fusion(data)
    for network, heeds in (
        (Relational, True),
        (Heterogeneous, True),
        (Published, True),
        (NoMessages, False),
        (AttentionPooling, False),
    ):
        torch.manual_seed(0)
        model = network(SHAPE).eval()
        with torch.no_grad():
            assert torch.equal(model(batch_of(data)), model(batch_of(apart))) != heeds


def test_edits_take_out_what_they_say() -> None:
    data = to_data(graph(0))
    assert int((data.edge_type == FUSED).sum()) == 2
    assert not (edits.without_fusion(data).edge_type == FUSED).any()
    everywhere = edits.fused_all_to_all(data)
    assert int((everywhere.edge_type == FUSED).sum()) == 2 * 4 * 3
    ends = everywhere.node_type[everywhere.edge_index[:, everywhere.edge_type == FUSED]]
    assert sorted({tuple(pair) for pair in ends.T.tolist()}) == [(PATCH, CONCEPT), (CONCEPT, PATCH)]
    for edit, kind, gone in ((edits.without_context, CONTEXT, 1), (edits.without_concepts, CONCEPT, 3)):
        out = edit(data)
        assert out.num_nodes == data.num_nodes - gone
        assert not (out.node_type == kind).any()
        assert out.edge_index.max() < out.num_nodes
        torch.testing.assert_close(out.x, data.x[data.node_type != kind])
    assert data.num_nodes == 8  # the original stays as it was


def picture(height: int = 180, width: int = 200) -> NDArray[np.uint8]:
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(0).normal(0, 6, (height, width))
    return np.asarray(np.clip(90 + 60 * np.sin(x / 17) + 50 * np.cos(y / 23) + noise, 0, 255), dtype=np.uint8)


@pytest.mark.parametrize("codec", sorted(CODECS))
def test_a_thumbnail_is_within_its_budget_and_more_bytes_say_more(codec: str) -> None:
    image, grid = picture(), Grid(1800, 2000, 256)
    errors = []
    for budget in (1024, 10240):
        (thumbnail,) = shrink(image, codec, [budget])
        assert thumbnail is not None
        assert len(thumbnail.data) <= budget
        assert max(pixels_of(thumbnail.data, codec).shape) == thumbnail.side
        seen = inside(restore(thumbnail.data, codec, grid), grid)
        height, width = grid.placed[2:]
        assert seen.shape == (height, width)
        wanted = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
        errors.append(np.abs(seen.astype(float) - wanted).mean())
    assert errors[1] < errors[0] < 20


def test_what_does_not_fit_is_said() -> None:
    small_one, large = shrink(picture(), "jpeg", [64, 4096])
    assert small_one is None
    assert large is not None
    assert shrink(picture(), "jpeg", [4096]) == [large]


def test_the_published_network_has_two_convolutions_and_no_more() -> None:
    model = Published(NetworkShape(FEATURES, 6, 2, hidden=128, layers=2))
    wide = FEATURES + PLACE
    embedded = (6 + 3) * wide
    assert parameters(model) == embedded + (wide + 1) * 128 + 129 * 128 + 129 * 2
    data = batch_of(to_data(graph(0)))
    with torch.no_grad():
        hidden = model.eval()(data, torch.tensor([False]), torch.tensor([True]))
        assert not torch.equal(hidden, model(data))


def test_shelves_are_kept_by_budget(tmp_path: Path) -> None:
    with ProcessPoolExecutor(1) as pool:
        images = [picture(), picture(160)]
        made = thumbnail_sets("a", images, "jpeg", [64, 1024], tmp_path, pool)
        assert [(one.budget, one.missing, len(one.files)) for one in made] == [(64, 2, 0), (1024, 0, 2)]
    # The processes are gone: a result that is not in the cache would fail.
    assert thumbnail_sets("a", images, "jpeg", [1024, 64], tmp_path, pool) == made[::-1]


def test_heads_find_what_is_there_and_never_meet_the_patient() -> None:
    rng = np.random.default_rng(0)
    y = np.repeat([0.0, 1.0], 40)
    groups = [f"p{n // 2}" for n in range(80)]
    x = rng.normal(size=(80, 5))
    x[:, 0] += 3 * y
    out = heads.cross_fitted(x, y, groups, seed=0)
    assert scores.rows_of(y[:, None], out[:, None], ["x"], groups, {"arm": "a"})[0]["auc"] > 0.9
    for train, test in heads.folds_of(y, groups, 5, 0):
        assert not {groups[i] for i in train} & {groups[i] for i in test}
    labels = np.stack([y, np.where(rng.random(80) < 0.2, np.nan, y)], axis=1)
    assert heads.trained_scores((x, labels, groups), x[:3]).shape == (3, 2)


def test_pooled_vectors_hold_back_the_context() -> None:
    one = graph(0)
    assert heads.vector_of(one).shape == (4 * FEATURES,)
    assert heads.vector_of(one, context=False).shape == (3 * FEATURES,)
    dark = replace(one, context=np.zeros_like(one.context))
    np.testing.assert_array_equal(heads.vector_of(one, False), heads.vector_of(dark, False))


def test_rows_compare_on_the_same_images() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random((60, 2)) < 0.5).astype(float)
    good, bad = labels + rng.normal(0, 0.3, labels.shape), rng.normal(size=labels.shape)
    groups = [str(n) for n in range(60)]
    rows = scores.rows_of(labels, bad, ["a", "b"], groups, {"arm": "bad"}, ours=good)
    assert [row["outcome"] for row in rows] == ["a", "b", scores.MEAN]
    assert rows[2]["to_ours"] == pytest.approx((rows[0]["to_ours"] + rows[1]["to_ours"]) / 2, abs=1e-3)
    assert rows[2]["to_ours_high"] < 0
    assert "to ours -" in scores.told(rows[2])


def test_fine_tuning_takes_unknown_labels_and_gives_a_logit_for_each(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (5, 2, 32, 32), dtype=np.uint8)
    labels = np.array([[0, 1], [1, np.nan], [0, 0], [1, 1], [0, np.nan]], dtype=float)
    said: list[str] = []
    plan = FineTuning(epochs=2, batch=2)
    first, again = (fine_tune(images, labels, plan, said.append, EfficientNetLite0) for _ in range(2))
    out = read(first, images[:, 0])
    assert out.shape == (5, 2)
    np.testing.assert_array_equal(out, read(again, images[:, 0]))
    assert len(said) == 4
    for _ in range(2):  # trained, then read from the cache
        kept = fine_tuned(images, labels, plan, tmp_path, said.append, EfficientNetLite0)
        np.testing.assert_allclose(read(kept, images[:, 0]), out, rtol=1e-4, atol=1e-5)
    assert len(said) == 6
    assert small(picture()).shape == (SIDE, SIDE)
