"""Training of the coder, on features made for it."""

import numpy as np
import pytest
import torch

from tests.unit.receiver.training.test_report_model import TINY, VOCABULARY, model
from thinwire.receiver.training.coder_stage import (
    FAITHFUL,
    LEVELS,
    Bottleneck,
    KeptPatches,
    faithful_level,
    kept_patches,
    learn,
)
from thinwire.receiver.training.corpus import FINDINGS, phantom
from thinwire.receiver.training.graph_stage import AttendedImages
from thinwire.receiver.training.report_model import PAD
from thinwire.receiver.training.report_stage import Material
from thinwire.sender.graph.report_graph import RuleExtractor
from thinwire.sender.graph.vocabulary import load_vocabulary
from thinwire.shared.formats.bundle import BundleSpec
from thinwire.shared.formats.coder import SOURCES, Coder
from thinwire.shared.identifiers import TextSource

IMAGES = 80
SPEC = BundleSpec("tiny", "tiny", TINY.working_size, TINY.feature_size, 24, 50.0, FINDINGS, load_vocabulary().concepts)


def seen(source: TextSource, material: Material) -> AttendedImages:
    """Patches that a few directions, their place and the context vector explain but for a little."""
    random = np.random.default_rng(0)
    n, cells, d = IMAGES, SPEC.working_size // 32 * (SPEC.working_size // 32), SPEC.feature_size
    place, told = random.normal(size=(cells, d)), random.normal(size=(d, d)) / 8
    context = random.normal(size=(n, d)) * np.linspace(1, 0.05, d)
    own = random.normal(size=(n, cells, 3)) @ random.normal(size=(3, d))
    feature = place + (context @ told)[:, None] + own + 0.01 * random.normal(size=(n, cells, d))
    share = random.dirichlet(np.ones(cells), n) * material.valid
    texts = [sample.report for sample in material.samples]
    return AttendedImages(
        feature.astype(np.float16), context.astype(np.float32), share.astype(np.float32), texts, source
    )


def learn_it() -> tuple[Coder, KeptPatches, AttendedImages]:
    material = Material([phantom(seed) for seed in range(IMAGES)], (), SPEC.working_size)
    tokens = torch.randint(2, VOCABULARY, (IMAGES, 12), generator=torch.Generator().manual_seed(0))
    tokens[:, 0], tokens[:, 9:] = PAD, PAD
    everyone = np.arange(IMAGES)
    read = [(everyone, seen(source, material)) for source in (TextSource.GENERATED, TextSource.REPORT)]
    held_out = kept_patches(read[0][1], material.valid)
    extractor = RuleExtractor(load_vocabulary())
    how = Bottleneck(steps=60, batch=16)
    tables = learn(model(), material, tokens, read, held_out, SPEC, extractor, how, 0, lambda *_: None)
    return Coder(SPEC, tables), held_out, read[0][1]


@pytest.fixture(scope="module")
def learned() -> tuple[Coder, KeptPatches, AttendedImages]:
    return learn_it()


def bits(coder: Coder, kept: KeptPatches, level: int) -> float:
    """A value of the features, by the weights that both ends hold."""
    spent = []
    for context, feature, cell in zip(kept.context, kept.feature, kept.cell, strict=True):
        symbols = coder.symbols(context.numpy(), feature.numpy(), cell.numpy().astype(np.int32), level)
        for each, weights in (
            (symbols[0][None], coder.weights(level, True)),
            (symbols[1], coder.weights(level, False)),
        ):
            chance = (
                np.take_along_axis(weights[None], each[..., None] + coder.reach, 2) / weights.sum(-1)[None, :, None]
            )
            spent.append(-np.log2(chance).ravel())
    return float(np.concatenate(spent).mean())


def error(coder: Coder, kept: KeptPatches, level: int) -> float:
    far = [
        np.square(coder.received(x.numpy(), f.numpy(), c.numpy().astype(np.int32), level)[1] - f.numpy()).mean()
        for x, f, c in zip(kept.context, kept.feature, kept.cell, strict=True)
    ]
    return float(np.mean(far))


def test_finer_levels_take_more_bits_and_are_closer(learned: tuple[Coder, KeptPatches, AttendedImages]) -> None:
    coder, kept, _ = learned
    assert coder.levels == LEVELS
    spent = [bits(coder, kept, level) for level in range(LEVELS)]
    far = [error(coder, kept, level) for level in range(LEVELS)]
    assert spent == sorted(spent, reverse=True)
    assert far[0] < far[3] < far[7]


def test_three_directions_cost_about_three_numbers(learned: tuple[Coder, KeptPatches, AttendedImages]) -> None:
    """Place and context are known already, so that most of the 16 values of a patch say nothing."""
    coder, kept, _ = learned
    weights = coder.weights(3, context=False).astype(np.float64)
    share = weights / weights.sum(1, keepdims=True)
    entropy = np.sort(-(share * np.log2(share)).sum(1))[::-1]
    assert entropy[:3].sum() > 0.6 * entropy.sum()
    assert np.square(kept.feature.numpy()).mean() > 20 * error(coder, kept, 3)


def test_the_level_that_is_used_keeps_what_the_heads_say(learned: tuple[Coder, KeptPatches, AttendedImages]) -> None:
    coder, kept, _ = learned
    heads = model()
    assert coder.chosen == faithful_level(coder, heads, kept)
    before = heads.finding_head(kept.context)
    received = [
        coder.received(x.numpy(), f.numpy(), c.numpy().astype(np.int32))[0]
        for x, f, c in zip(kept.context, kept.feature, kept.cell, strict=True)
    ]
    left = ((heads.finding_head(torch.from_numpy(np.stack(received))) - before) ** 2).mean(0) / before.var(0)
    assert coder.chosen == 0 or left.max() <= 1 - FAITHFUL + 1e-6


def test_what_is_often_said_is_likely(learned: tuple[Coder, KeptPatches, AttendedImages]) -> None:
    coder, _, read = learned
    found = [RuleExtractor(load_vocabulary()).extract(text, TextSource.REPORT) for text in read.texts]
    names = [concept.name for concept in SPEC.concepts]
    effusion = names.index("effusion")
    said = np.mean([bool(((f.concept == effusion) & (f.assertion == 0)).any()) for f in found])
    chance = coder.tables.concept[SOURCES.index(TextSource.REPORT), effusion, 0] / 65536
    assert chance == pytest.approx(said, abs=0.05)
    # Nobody gave an indication: its chances are those of all texts.
    asked = coder.tables.concept[SOURCES.index(TextSource.INDICATION), effusion, 0] / 65536
    assert asked == pytest.approx(said, abs=0.2)


def test_learning_again_gives_the_same_tables(learned: tuple[Coder, KeptPatches, AttendedImages]) -> None:
    again = learn_it()[0]
    for name, array in vars(learned[0].tables).items():
        np.testing.assert_array_equal(getattr(again.tables, name), array)
