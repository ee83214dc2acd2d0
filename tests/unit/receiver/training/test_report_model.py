"""The report model, its losses and its training, on models small enough for a test."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import SwinConfig, SwinModel, T5Config, T5ForConditionalGeneration

from thinwire.receiver.training import corpus
from thinwire.receiver.training.corpus import Progress
from thinwire.receiver.training.presets import Preset, paper
from thinwire.receiver.training.pretrain import pretrain
from thinwire.receiver.training.report_model import PAD, ReportModel, Targets, Weights, grounding, losses, written
from thinwire.receiver.training.report_stage import Material, ReportStage, Schedule, move, narrowed
from thinwire.receiver.training.tokenizer import learn_tokenizer, local_tokenizer, target_tokens
from thinwire.shared.errors import BadConfiguration

TINY = Preset(
    "tiny",
    64,
    embed_dim=8,
    depths=(1, 1, 1, 1),
    heads=(1, 1, 2, 2),
    window=2,
    feature_size=16,
    decoder_layers=1,
    decoder_heads=2,
    decoder_ff=32,
    vocabulary=300,
    max_tokens=24,
    dropout=0.0,
    drop_path=0.0,
)
VOCABULARY = 300


def model(preset: Preset = TINY) -> ReportModel:
    torch.manual_seed(0)
    return ReportModel(preset, VOCABULARY, len(corpus.FINDINGS)).eval()


def batch(count: int = 3, length: int = 9) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(2, VOCABULARY, (count, length), generator=generator)
    tokens[:, 0] = PAD
    valid = torch.tensor([[True, True, True, False]]).expand(count, -1)
    return torch.rand(count, 1, 64, 64, generator=generator), valid, tokens


def targets(tokens: torch.Tensor, cells: int = 4) -> Targets:
    count = len(tokens)
    coverage = torch.zeros(count, cells, 5)
    coverage[:, 1, 0] = 1.0
    about = torch.full_like(tokens, -1)
    about[:, 2:5] = 0
    return Targets(
        tokens, about, torch.tensor([[1.0, 0, 0, 0, 0]] * count), coverage, torch.ones(count, dtype=torch.bool)
    )


def test_attention_leaves_padding_alone_and_shares_the_rest_with_the_null_keys() -> None:
    pixels, valid, tokens = batch()
    with torch.no_grad():
        out = model()(pixels, valid, tokens)
    assert out.attention.shape == (3, 9, 4)
    assert float(out.attention[..., 3].abs().max()) < 1e-6
    total = out.attention.sum(-1)
    assert float(total.max()) < 1.0
    assert float(total.min()) > 0.0


def test_grounding_falls_as_the_attention_moves_into_the_box() -> None:
    _, _, tokens = batch()
    target = targets(tokens)
    spread = torch.full((3, 8, 4), 0.2)
    inside = torch.zeros(3, 8, 4)
    inside[:, 1:4, 1] = 0.95
    far, near = grounding(spread, target), grounding(inside, target)
    assert near[0] < far[0]  # a finding's words look into its box
    assert near[1] < far[1]  # the other words look at nothing


def test_unknown_labels_teach_nothing() -> None:
    pixels, valid, tokens = batch()
    known = targets(tokens)
    unknown = replace(known, labels=torch.full((3, 5), float("nan")))
    out = model()(pixels, valid, tokens)
    assert float(losses(out, unknown, Weights())["finding"].detach()) == 0.0
    assert float(losses(out, known, Weights())["finding"].detach()) > 0.0


def test_writing_in_a_batch_is_writing_one_by_one() -> None:
    pixels, valid, _ = batch()
    tiny = model()
    with torch.no_grad():
        features, _ = tiny.encoder(pixels, valid)
    prompts = torch.tensor([[PAD, 5, 6, 7], [PAD, 8, PAD, PAD], [PAD, PAD, PAD, PAD]])
    together, attention = tiny.write(features, valid, prompts)
    for row, length in enumerate((4, 2, 1)):
        alone, seen = tiny.write(features[row : row + 1], valid[row : row + 1], prompts[row : row + 1, :length])
        count = int(written(alone).sum())
        assert together[row, :count].tolist() == alone[0, :count].tolist()
        assert torch.allclose(attention[row, :count], seen[0, :count], atol=1e-5)


def material(count: int = 12, size: int = 64) -> Material:
    samples = [replace(corpus.phantom(seed), role="report") for seed in range(count)]
    return Material(samples, [corpus.canvas_of(sample, size) for sample in samples], size)


class Killed(BaseException):
    pass


def kill_in_the_second_epoch(_stage: str, done: float, _total: float, _words: str) -> None:
    if done > 1.4:
        raise Killed


def test_a_killed_run_goes_on_to_the_same_curve(tmp_path: Path) -> None:
    data = material()
    tokenizer = learn_tokenizer((s.report for s in data.samples), VOCABULARY)
    schedule = Schedule(epochs=3, batch=4, patience=9)
    train, validation = np.arange(8), np.arange(8, 12)

    def stage(folder: str) -> ReportStage:
        (tmp_path / folder).mkdir(exist_ok=True)
        return ReportStage(TINY, schedule, data, tokenizer, tmp_path / folder)

    whole = stage("whole")
    whole.run(train, validation, lambda *_: None)

    with pytest.raises(Killed):
        stage("cut").run(train, validation, kill_in_the_second_epoch)
    again = stage("cut")
    again.run(train, validation, lambda *_: None)

    def curve(of: ReportStage) -> list[float]:
        return [row["validation_total"] for row in of.history]

    assert curve(again) == pytest.approx(curve(whole), rel=1e-6)
    assert curve(whole)[-1] < curve(whole)[0]


def checkpoints(folder: Path) -> tuple[Path, Path]:
    """A Swin of three channels and a T5 of the paper's classes, tiny, as from_pretrained reads them."""
    torch.manual_seed(0)
    swin = SwinConfig(image_size=64, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=2)
    SwinModel(swin).save_pretrained(folder / "swin")
    t5 = T5Config(
        vocab_size=VOCABULARY, d_model=24, d_kv=8, d_ff=32, num_layers=1, num_heads=3, decoder_start_token_id=0
    )
    T5ForConditionalGeneration(t5).save_pretrained(folder / "t5")
    learn_tokenizer(["no pneumothorax or effusion"], VOCABULARY).save(str(folder / "t5" / "tokenizer.json"))
    return folder / "swin", folder / "t5"


def test_the_papers_preset_is_built_from_local_checkpoints(tmp_path: Path) -> None:
    swin, t5 = checkpoints(tmp_path)
    preset = paper(swin, t5, working_size=64)
    assert preset.feature_size == 24
    built = model(preset)
    pixels, valid, tokens = batch()
    with torch.no_grad():
        out = built(pixels, valid, tokens)
        whole = T5ForConditionalGeneration.from_pretrained(t5).eval()
        # Without null keys the decoder is the checkpoint's own.
        built.decoder.null_keys = torch.nn.Parameter(torch.zeros(0, 24))
        ours, _ = built.decoder(out.features, valid, tokens)
        theirs = whole(encoder_outputs=(out.features,), attention_mask=valid.long(), decoder_input_ids=tokens).logits
    assert out.attention.shape == (3, 9, 4)
    assert torch.allclose(ours, theirs, atol=1e-4)
    assert isinstance(local_tokenizer(t5), Tokenizer)


def test_a_folder_without_a_checkpoint_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration) as refused:
        paper(tmp_path, tmp_path)
    assert "tokenizer.json" in refused.value.remedy


def test_each_token_knows_the_finding_of_its_sentence() -> None:
    sample = next(s for s in map(corpus.phantom, range(50)) if any(finding for _, finding in s.sentences))
    tokenizer = learn_tokenizer([sample.report, sample.indication], 400)
    ids, about = target_tokens(tokenizer, sample, 128, indication=True)
    assert len(ids) == len(about)
    asserted = {corpus.FINDINGS.index(f) for _, f in sample.sentences if f}
    assert set(about.tolist()) - {-1} == asserted
    said = tokenizer.decode([int(i) for i, a in zip(ids, about, strict=True) if a in asserted])
    for sentence, finding in sample.sentences:
        assert (sentence.lower() in said) == bool(finding)


def test_what_is_written_with_kept_keys_is_what_the_whole_decoder_would_write() -> None:
    torch.manual_seed(3)
    made = model()
    features, valid = torch.randn(4, 4, 16), torch.tensor([[True, True, True, False]]).expand(4, -1)
    prompts = torch.tensor([[PAD, 7, 9, 11], [PAD, 8, PAD, PAD], [PAD, 5, 6, 4], [PAD, PAD, PAD, PAD]])
    tokens, attention = made.write(features, valid, prompts)
    for row, size in enumerate((4, 2, 4, 1)):
        ids = prompts[row, :size].tolist()
        while len(ids) < TINY.max_tokens:
            with torch.no_grad():
                logits, _ = made.decoder(features[row : row + 1], valid[row : row + 1], torch.tensor([ids]))
            following = int(logits[0, -1].argmax())
            if following in (PAD, 1):
                break
            ids.append(following)
        assert tokens[row, : len(ids)].tolist() == ids
        assert not tokens[row, len(ids) :].any()
        assert not attention[row, len(ids) :].any()


def test_an_image_moves_with_its_boxes_and_half_of_a_batch_stays() -> None:
    pixels = torch.zeros(64, 1, 64, 64)
    pixels[:, :, 32:, 32:] = 1.0
    target = replace(targets(torch.zeros(64, 3, dtype=torch.long)), coverage=torch.zeros(64, 4, 5))
    target.coverage[:, 3, 0] = 1.0
    moved, with_boxes = move(pixels, target, torch.Generator().manual_seed(0))
    stayed = (moved - pixels).abs().amax((1, 2, 3)) < 1e-4
    assert 16 < int(stayed.sum()) < 48
    share = moved[:, 0, 32:, 32:].mean((1, 2))
    assert torch.allclose(share, with_boxes.coverage[:, 3, 0], atol=0.25)
    assert float(share.min()) > 0.6


def test_few_cells_are_seen_only_where_boxes_are_complete() -> None:
    valid = torch.ones(40, 400, dtype=torch.bool)
    coverage = torch.zeros(40, 400, 5)
    coverage[:, 17, 2] = 1.0
    boxed = torch.arange(40) % 2 == 0
    target = replace(targets(torch.zeros(40, 3, dtype=torch.long)), coverage=coverage, boxed=boxed)
    seen = narrowed(valid, target, 1.0, torch.Generator().manual_seed(0))
    assert bool(seen[~boxed].all())
    assert bool(seen[boxed, 17].all())
    assert int(seen[boxed].sum(1).max()) < 20
    assert bool(narrowed(valid, target, 0.0, torch.Generator()).all())


def test_imitation_pulls_a_cell_towards_what_the_teacher_says() -> None:
    _, _, tokens = batch()
    pixels, valid, _ = batch()
    out = model()(pixels, valid, tokens)
    same = replace(targets(tokens), teacher=out.imitation.detach() * 3)
    other = replace(targets(tokens), teacher=-out.imitation.detach())
    weights = Weights(imitation=1.0)
    assert losses(out, same, weights)["imitation"].item() == pytest.approx(0.0, abs=1e-5)
    assert losses(out, other, weights)["imitation"].item() == pytest.approx(2.0, abs=1e-4)
    assert "imitation" not in losses(out, targets(tokens), weights)


def test_training_may_begin_at_a_smaller_size(tmp_path: Path) -> None:
    data = material(size=128)
    preset = replace(TINY, working_size=128, small_size=64, patch_size=8, depths=(1, 1, 2), heads=(1, 2, 2))
    tokenizer = learn_tokenizer((s.report for s in data.samples), VOCABULARY)
    stage = ReportStage(preset, Schedule(epochs=3, small_epochs=2, batch=4), data, tokenizer, tmp_path)
    stage.run(np.arange(8), np.arange(8, 12), lambda *_: None)
    assert len(stage.history) == 3
    best = torch.load(stage.best_path, weights_only=True)["model"]
    # The best epoch is one of the bundle's own size, however low the loss was before.
    assert all(torch.equal(value, stage.model.state_dict()[name]) for name, value in best.items())
    # Its output at its own size does not depend on earlier inputs.
    fresh = ReportModel(preset, tokenizer.get_vocab_size(), len(corpus.FINDINGS)).eval()
    fresh.load_state_dict(best)
    pixels, _ = data.images([0, 1], torch.device("cpu"))
    small, _ = data.at(64).images([0, 1], torch.device("cpu"))
    with torch.no_grad():
        stage.model.encoder.hidden(small)
        assert torch.equal(stage.model.encoder.hidden(pixels), fresh.encoder.hidden(pixels))
    assert (tmp_path / "tensorboard").is_dir()


def test_painting_in_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    data, indices = material(), np.arange(12)

    def painted(path: Path, progress: Progress) -> torch.Tensor:
        encoder = model().encoder
        pretrain(encoder, data, indices, 2, Schedule(batch=4), path, progress)
        return encoder.projection.weight.new_tensor(encoder.swin.layernorm.weight.tolist())

    whole = painted(tmp_path / "whole.pt", lambda *_: None)
    with pytest.raises(Killed):
        painted(tmp_path / "cut.pt", kill_in_the_second_epoch)
    assert torch.allclose(painted(tmp_path / "cut.pt", lambda *_: None), whole, atol=1e-7)
    assert not torch.allclose(whole, model().encoder.swin.layernorm.weight)
