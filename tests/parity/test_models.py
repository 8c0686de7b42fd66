"""The JAX models against the torch classes of transformers, on the same random weights: layer by layer, then whole."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import Wav2Vec2BertConfig as TorchConfig
from transformers import Wav2Vec2BertModel

from speech_emotion_jax import EmotionPipeline
from speech_emotion_jax.audio.waveform import load as load_audio
from speech_emotion_jax.checkpoints import Request, load_checkpoint
from speech_emotion_jax.config import Wav2Vec2BertConfig
from speech_emotion_jax.convert.layouts import wav2vec2_bert as layout
from speech_emotion_jax.convert.rules import Layout, TensorInfo, match
from speech_emotion_jax.models.parameters import parameters_of
from speech_emotion_jax.models.wav2vec2_bert import Wav2Vec2Bert
from speech_emotion_jax.parity.original import TorchOriginal

from ..support.budgets import BATCH_BUDGET, LAYER_BUDGET, LOGIT_BUDGET, PROBABILITY_BUDGET
from ..support.checkpoints import (
    SMALL,
    TINY,
    random_tensors,
    shapes_of,
    write_audio_checkpoint,
    write_bert,
    write_roberta,
)
from ..support.marks import rest_slow

MODES = ("text", "audio", "concat", "mean", "multihead")
TEXT = "No me lo puedo creer, ¡qué alegría!"


def folders(tmp_path: Path, mode: str, language: str, size=TINY, **options) -> tuple[Path, Path | None]:
    """A checkpoint of a mode, and its text encoder where it has one."""
    if mode == "text":
        return write_roberta(tmp_path / "model", language, size=size), None
    model = write_audio_checkpoint(tmp_path / "model", mode, language, size=size, **options)
    return model, None if mode == "audio" else write_bert(tmp_path / "text", language, size=size)


def load(model: Path, text: Path | None, mode: str, language: str):
    request = Request(str(model), mode=mode, language=language, text_encoder=text and str(text))
    return load_checkpoint(request, jax.devices()[0], "float32").model


def random_features(frames: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(1, frames, 160)).astype(np.float32)


def assert_close(ours: jax.Array, theirs: torch.Tensor, budget: float) -> None:
    theirs = theirs.detach().numpy()
    assert ours.shape == theirs.shape
    assert np.abs(np.asarray(ours) - theirs).max() <= budget * np.abs(theirs).max()


@pytest.mark.parametrize("frames", rest_slow([129, 1, 2, 127, 128, 300, 700]))
@pytest.mark.parametrize("size", rest_slow([TINY, SMALL]), ids=["tiny", "small"])
def test_audio_hidden_states(tmp_path, size, frames):
    model, _ = folders(tmp_path, "audio", "es", size)
    x = random_features(frames)
    mask = np.ones((1, frames), bool)
    mask[0, -1] = frames == 1 or frames % 2 == 0  # an odd last frame is masked
    states = load(model, None, "audio", "es").audio_encoder(jnp.asarray(x), jnp.asarray(mask), hidden_states=True)
    original = TorchOriginal(model, "audio").audio_hidden_states(torch.tensor(x), torch.tensor(mask.astype(np.int64)))
    assert len(states.hidden_states) == size.layers + 1 == len(original)
    for ours, theirs in zip(states.hidden_states, original, strict=True):
        assert_close(ours, theirs, LAYER_BUDGET)


@pytest.mark.parametrize("mode", ["text", "concat"])
def test_text_hidden_states(tmp_path, mode):
    model, text = folders(tmp_path, mode, "en", SMALL)
    original = TorchOriginal(model, mode, text)
    ids, mask = original.tokens(TEXT)
    padded = np.pad(ids.numpy(), ((0, 0), (0, 7)), constant_values=1).astype(np.int32)
    real = np.pad(mask.numpy().astype(bool), ((0, 0), (0, 7)))
    states = load(model, text, mode, "en").text_encoder(jnp.asarray(padded), jnp.asarray(real), hidden_states=True)
    for ours, theirs in zip(states.hidden_states, original.text_hidden_states(ids, mask), strict=True):
        assert_close(ours[:, : ids.shape[1]], theirs, LAYER_BUDGET)


@pytest.mark.parametrize("mode", MODES)
def test_logits_from_identical_inputs(tmp_path, mode):
    model, text = folders(tmp_path, mode, "es", SMALL)
    original = TorchOriginal(model, mode, text)
    x, mask = random_features(211), np.ones((1, 211), bool)
    ids, token_mask = original.tokens(TEXT) if mode != "audio" else (None, None)
    inputs = {} if mode == "text" else {"features": torch.tensor(x), "mask": torch.tensor(mask.astype(np.int64))}
    theirs = original.logits(**inputs, ids=ids, token_mask=token_mask)
    ours = load(model, text, mode, "es")(
        None if mode == "text" else jnp.asarray(x),
        None if mode == "text" else jnp.asarray(mask),
        None if ids is None else jnp.asarray(ids.numpy().astype(np.int32)),
        None if token_mask is None else jnp.asarray(token_mask.numpy().astype(bool)),
    )
    assert np.abs(np.asarray(ours) - theirs.detach().numpy()).max() <= LOGIT_BUDGET


@pytest.mark.slow
def test_multihead_across_the_batch(tmp_path):
    """The original's rank-2 attention couples the clips of a batch; ours does so only when asked."""
    model, text = folders(tmp_path, "multihead", "es")
    ours = load(model, text, "multihead", "es")
    rng = np.random.default_rng(1)
    audio, words = (rng.normal(size=(5, TINY.projection)).astype(np.float32) for _ in range(2))
    fusion = TorchOriginal(model, "multihead", text).model.mult_attn_model
    for coupled in (False, True):
        theirs = fusion(torch.tensor(audio), torch.tensor(words), coupled)
        fused = ours.fusion(jnp.asarray(audio), jnp.asarray(words), across_batch=coupled)
        assert_close(fused, theirs, LAYER_BUDGET)
    alone = ours.fusion(jnp.asarray(audio[:1]), jnp.asarray(words[:1]))
    assert np.abs(np.asarray(ours.fusion(jnp.asarray(audio), jnp.asarray(words))[0] - alone[0])).max() < BATCH_BUDGET


@pytest.mark.slow
def test_weighted_layer_sum(tmp_path):
    model, _ = folders(tmp_path, "audio", "es", config_overrides={"use_weighted_layer_sum": True})
    x, mask = random_features(60), np.ones((1, 60), bool)
    theirs = TorchOriginal(model, "audio").logits(torch.tensor(x), torch.tensor(mask.astype(np.int64)))
    ours = load(model, None, "audio", "es")(jnp.asarray(x), jnp.asarray(mask))
    assert np.abs(np.asarray(ours) - theirs.detach().numpy()).max() <= LOGIT_BUDGET


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [{}, {"num_adapter_layers": 3}, {"output_hidden_size": 48, "use_intermediate_ffn_before_adapter": True}],
    ids=["one layer", "three layers", "other width"],
)
def test_adapter(overrides):
    settings = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "output_hidden_size": 32,
        "add_adapter": True,
    } | overrides
    theirs = Wav2Vec2BertModel(TorchConfig(**settings)).eval()
    named = random_tensors({f"wav2vec2_bert.{name}": shape for name, shape in shapes_of(theirs).items()}, 0, "float32")
    state = {name.removeprefix("wav2vec2_bert."): tensor for name, tensor in named.items()}
    theirs.load_state_dict(state, strict=True)
    config = Wav2Vec2BertConfig.from_json(settings)
    ours = encoder_with(config, {name: tensor.numpy() for name, tensor in state.items()})
    x = random_features(75)
    original = theirs(torch.tensor(x), attention_mask=torch.ones(1, 75, dtype=torch.int64)).last_hidden_state
    encoded = ours(jnp.asarray(x), jnp.ones((1, 75), bool))
    assert encoded.mask.all()
    assert_close(encoded.last, original, LAYER_BUDGET)

    padded = ours(jnp.pad(jnp.asarray(x), ((0, 0), (0, 53), (0, 0))), jnp.arange(128)[None] < 75)
    assert int(padded.mask.sum()) == original.shape[1]
    assert_close(padded.last[:, : original.shape[1]], original, LAYER_BUDGET)


def encoder_with(config: Wav2Vec2BertConfig, tensors: dict[str, np.ndarray]) -> Wav2Vec2Bert:
    """The encoder alone, filled by the converter's table."""
    from flax import nnx

    encoder = Wav2Vec2Bert(config, rngs=nnx.Rngs(0))
    shapes = {path: leaf.shape for path, leaf in parameters_of(encoder).items()}
    infos = {name: TensorInfo("F32", tensor.shape) for name, tensor in tensors.items()}
    matching, problems = match(Layout(layout.ENCODER), infos, shapes)
    assert problems == []
    graph, state = nnx.split(encoder)
    flat = dict(nnx.to_flat_state(state))
    for assignment in matching.assignments:
        arrays = [assignment.transform.forward(tensors[name]) for name in assignment.names]
        path = tuple(assignment.target.split("."))
        flat[path] = flat[path].replace(jnp.asarray(np.stack(arrays) if assignment.stacked else arrays[0]))
    return nnx.merge(graph, nnx.from_flat_state(flat))


@pytest.mark.parametrize("seconds", rest_slow([5, 0.3, 31]))
@pytest.mark.parametrize("language", rest_slow(["es", "en"]))
@pytest.mark.parametrize("mode", MODES)
def test_probabilities_from_the_waveform(published, mode, language, seconds):
    model = published(mode, language)
    text = None if mode in ("text", "audio") else published("text_encoder", language)
    original = TorchOriginal(model, mode, text)
    pipeline = EmotionPipeline.from_pretrained(
        str(model), mode=mode, language=language, text_encoder=text and str(text)
    )
    rng = np.random.default_rng(2)
    # 8 kHz sources leave the upper half of the spectrum to rounding errors, where the original's float64 FFT matters.
    for rate in (16_000, 8_000):
        recording = {"array": (rng.normal(size=int(seconds * rate)) * 0.1).astype(np.float32), "sampling_rate": rate}
        [prediction] = pipeline.predict([{"audio": recording, "text": TEXT}])
        theirs = original.probabilities(
            waveform=None if mode == "text" else load_audio(recording), text=None if mode == "audio" else TEXT
        )
        ours = np.array(list(prediction["scores"].values()))
        assert np.abs(ours - np.ravel(theirs)).max() <= PROBABILITY_BUDGET


@pytest.mark.slow
def test_multi_label_text_uses_sigmoids(tmp_path):
    model = write_roberta(tmp_path / "model", "en", problem_type="multi_label_classification")
    [prediction] = EmotionPipeline.from_pretrained(str(model), mode="text", language="en").predict([{"text": TEXT}])
    theirs = np.ravel(TorchOriginal(model, "text").probabilities(text=TEXT))
    assert abs(theirs.sum() - 1) > 1e-3
    assert np.abs(np.array(list(prediction["scores"].values())) - theirs).max() <= PROBABILITY_BUDGET


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["audio", "concat", "mean", "multihead"])
def test_batch_invariance(published, mode):
    """A clip alone, and at the padding of a batch of 8 with clips from 0.3 s to 20 s."""
    text = None if mode == "audio" else str(published("text_encoder", "es"))
    pipeline = EmotionPipeline.from_pretrained(str(published(mode, "es")), mode=mode, language="es", text_encoder=text)
    rng = np.random.default_rng(3)
    seconds = (0.3, 0.31, 1.0, 2.5, 5.0, 7.77, 12.3, 20.0)
    examples = [
        {"audio": {"array": (rng.normal(size=int(s * 16_000)) * 0.1).astype(np.float32), "sampling_rate": 16_000}}
        | {"text": TEXT * (index + 1)}
        for index, s in enumerate(seconds)
    ]
    together = pipeline.predict(examples)
    for example, batched in zip(examples, together, strict=True):
        [alone] = pipeline.predict([example])
        assert max(abs(alone["scores"][label] - batched["scores"][label]) for label in alone["scores"]) <= BATCH_BUDGET


@pytest.mark.slow
def test_padding_in_one_batch_changes_nothing(published):
    """The same, below the pipeline's buckets: eight lengths in one array of 1,024 frames."""
    model = load(published("audio", "es"), None, "audio", "es")
    lengths = [14, 15, 50, 125, 250, 388, 615, 1000]
    clips = [random_features(length, seed=length)[0] for length in lengths]
    padded = np.stack([np.pad(clip, ((0, 1024 - len(clip)), (0, 0)), constant_values=1.0) for clip in clips])
    mask = np.arange(1024)[None] < np.array(lengths)[:, None]
    together = model.probabilities(model(jnp.asarray(padded), jnp.asarray(mask)))
    for clip, row in zip(clips, together, strict=True):
        alone = model.probabilities(model(jnp.asarray(clip[None]), jnp.ones((1, len(clip)), bool)))
        assert np.abs(np.asarray(alone[0] - row)).max() <= BATCH_BUDGET


def test_swapped_layers_are_seen(tmp_path):
    """The random weights have unit gain: a converter that mixed up two layers could not pass these tests."""
    model, _ = folders(tmp_path, "audio", "es", SMALL)
    ours = load(model, None, "audio", "es")
    x, mask = jnp.asarray(random_features(100)), jnp.ones((1, 100), bool)
    before = ours(x, mask)
    kernel = ours.audio_encoder.layers.ffn1.output_dense.kernel
    kernel.set_value(kernel.get_value()[jnp.array([1, 0, 2, 3])])
    assert np.abs(np.asarray(ours(x, mask) - before)).max() > 0.01
