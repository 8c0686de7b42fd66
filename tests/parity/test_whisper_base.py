"""The real whisper-base against transformers: states, tokens, times of tokens, and a recording of over a minute.

Tokens must be identical: a recording at which they differ has a cause, unless PyTorch's own margin there is below what
float32 resolves, 1e-3. On these recordings no margin is below 9e-3.
"""

from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from transformers import (
    AutomaticSpeechRecognitionPipeline,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)
from transformers.generation import GenerateEncoderDecoderOutput
from transformers.modeling_outputs import BaseModelOutput

from speech_emotion_jax import TranscriptionOptions, WhisperPipeline
from speech_emotion_jax.decoding.words import FRAME_SECONDS, token_times
from speech_emotion_jax.inputs.audio import SAMPLE_RATE, load

ENCODER_BUDGET = 1e-4  # relative to the largest value
FIRST_LOGITS_BUDGET = 1e-3
PROBABILITY_BUDGET = 1e-4
LIMIT = 40  # tokens; none of the recordings has as many

DEMO = Path(str(files("speech_emotion_jax") / "demo_data"))


class Original:
    """transformers' whisper-base, and what it makes of the recordings."""

    def __init__(self, folder: Path, waveforms: Sequence[np.ndarray]):
        # Eager: the other kinds give no attention.
        self.model = WhisperForConditionalGeneration.from_pretrained(folder, attn_implementation="eager").eval()
        self.extractor = WhisperFeatureExtractor.from_pretrained(folder)
        self.tokenizer = WhisperTokenizer.from_pretrained(folder)
        self.features = self.extractor(waveforms, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features
        self.encoded = self.model.get_encoder()(self.features).last_hidden_state

    def written(self, *, beams: int = 1, timestamps: bool = False) -> list[list[int]]:
        """One pass of `generate` over all recordings: tokens without prompts and ends."""
        found: Any = self.model.generate(
            encoder_outputs=BaseModelOutput(self.encoded),
            language="es",
            task="transcribe",
            return_timestamps=timestamps,
            num_beams=beams,
            do_sample=False,
            max_new_tokens=LIMIT,
            force_unique_generate_call=True,
            return_dict_in_generate=True,
        )
        prompt, end = 3 if timestamps else 4, self.model.generation_config.eos_token_id
        rows = [sequence[prompt:].tolist() for sequence in found.sequences]
        return [row[: row.index(end)] for row in rows]  # all end

    def decode(self, tokens: Sequence[int], row: int):
        ids = torch.tensor([list(tokens)])
        return self.model(encoder_outputs=(self.encoded[row : row + 1],), decoder_input_ids=ids, output_attentions=True)


@pytest.fixture(autouse=True, scope="module")
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def waveforms() -> list[np.ndarray]:
    """Spanish, spoken by a machine."""
    return [load(path) for path in sorted(DEMO.glob("*.flac"))]


@pytest.fixture(scope="module")
def original(whisper_base, waveforms) -> Original:
    return Original(whisper_base, waveforms)


@pytest.fixture(scope="module")
def pipeline(whisper_base) -> Iterator[WhisperPipeline]:
    loaded = WhisperPipeline.from_pretrained(whisper_base)
    yield loaded
    loaded.close()


def written(
    pipeline: WhisperPipeline, waveforms: Sequence[np.ndarray], *, beams: int = 1, timestamps: bool = False
) -> list[list[int]]:
    """The tokens of one batch."""
    listener, vocabulary = pipeline.listener, pipeline.vocabulary
    prompt = vocabulary.prompt("es", "transcribe", timestamps=timestamps)
    found = listener.search(
        listener.hear(listener.features(waveforms)),
        [prompt] * len(waveforms),
        start=len(prompt),
        rules=vocabulary.rules(timestamps=timestamps),
        limit=LIMIT,
        beams=beams,
    )
    return [tokens[:length].tolist() for tokens, length in zip(found.tokens, found.lengths, strict=True)]


def test_encoder_and_first_logits(pipeline, original, waveforms):
    listener = pipeline.listener
    prompt = pipeline.vocabulary.prompt("es", "transcribe", timestamps=False)

    @jax.jit
    def first_step(parameters, features):
        model = nnx.merge(listener.graph, parameters)
        encoded = model.encoder(features)
        tokens, padding = jnp.array([prompt], jnp.int32), jnp.zeros(1, jnp.int32)
        cache = model.decoder.empty_cache(1, len(prompt))
        decoded = model.decoder(tokens, 0, padding, cache, model.listen(encoded))
        return encoded, model.decoder.logits(decoded.states)

    for row, waveform in enumerate(waveforms):
        encoded, logits = first_step(listener.parameters, listener.features([waveform]))
        expected = original.encoded[row].numpy()
        assert np.abs(encoded[0] - expected).max() <= ENCODER_BUDGET * np.abs(expected).max()
        expected = original.decode(prompt, row).logits[0].numpy()
        assert np.abs(logits[0] - expected).max() <= FIRST_LOGITS_BUDGET


@pytest.mark.parametrize(
    "search", [{}, {"beams": 5}, {"timestamps": True}], ids=["greedy", "5 beams", "greedy, timestamps"]
)
def test_tokens(pipeline, original, waveforms, search):
    """In one batch and one by one: a row's tokens do not depend on its neighbours."""
    expected = original.written(**search)
    assert written(pipeline, waveforms, **search) == expected
    assert [written(pipeline, [each], **search)[0] for each in waveforms] == expected
    assert len({len(tokens) for tokens in expected}) > 1  # rows end at different steps


def test_language_and_speech(pipeline, original, waveforms):
    """Also of a hiss and of silence."""
    hiss = np.random.default_rng(0).normal(size=5 * SAMPLE_RATE).astype(np.float32) * 0.01
    sounds = [*waveforms, hiss, np.zeros(SAMPLE_RATE, np.float32)]
    listener, vocabulary = pipeline.listener, pipeline.vocabulary
    prompt = vocabulary.prompt("es", "transcribe", timestamps=False)
    features = original.extractor(sounds, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features
    logits = original.model(features, decoder_input_ids=torch.tensor([prompt] * len(sounds))).logits[:, 0]

    heard = listener.hear(listener.features(sounds))
    languages = list(vocabulary.languages.values())
    ours = listener.detect(heard, vocabulary.start, languages)
    assert [languages[best] for best in ours.argmax(axis=1)] == original.model.detect_language(features).tolist()
    assert np.abs(ours - logits[:, languages].softmax(dim=-1).numpy()).max() <= PROBABILITY_BUDGET

    rules = vocabulary.rules(timestamps=False)
    found = listener.search(heard, [prompt] * len(sounds), start=len(prompt), rules=rules, limit=LIMIT)
    no_speech = logits.softmax(dim=-1)[:, vocabulary.no_speech].numpy()
    assert np.abs(found.no_speech - no_speech).max() <= PROBABILITY_BUDGET
    assert no_speech.min() < 0.1 < 0.5 < no_speech.max()


def test_times_of_tokens(pipeline, original, waveforms):
    """Of the same tokens, from the attention of the same heads to the same frames."""
    listener, vocabulary = pipeline.listener, pipeline.vocabulary
    prompt, heads = vocabulary.prompt("es", "transcribe", timestamps=False), vocabulary.alignment_heads
    texts = [(*prompt, *tokens) for tokens in original.written()]
    attention = listener.align(listener.hear(listener.features(waveforms)), texts, heads)
    before = len(prompt) - 1  # tokens that predict no token of the text
    for row, (text, waveform) in enumerate(zip(texts, waveforms, strict=True)):
        frames = round(len(waveform) / SAMPLE_RATE / FRAME_SECONDS)
        output = original.decode(text, row)
        theirs = torch.stack([output.cross_attentions[layer][0, head] for layer, head in heads])
        assert np.abs(attention[row, :, : len(text)] - theirs.numpy()).max() <= PROBABILITY_BUDGET
        watched = GenerateEncoderDecoderOutput(
            sequences=torch.zeros(1, len(text) + 1, dtype=torch.long), cross_attentions=(output.cross_attentions,)
        )
        [starts] = original.model._extract_token_timestamps(watched, heads, num_frames=2 * frames, num_input_ids=before)
        times = token_times(attention[row, :, before : len(text), :frames])
        np.testing.assert_allclose(times[:, 0], starts[before:-2], atol=1e-6)
        np.testing.assert_allclose(times[:, 1], starts[before + 1 : -1], atol=1e-6)
        assert times[-1, 1] > 0.5 * len(waveform) / SAMPLE_RATE


@pytest.mark.parametrize(("window", "stride"), [(30.0, 5.0), (12.0, 2.0)])
def test_a_recording_of_over_a_minute(pipeline, original, waveforms, window, stride):
    """Overlapping windows, joined, against transformers' own pipeline: the same text, no stitch differs."""
    pause = np.zeros(SAMPLE_RATE, np.float32)
    joined = np.concatenate([part for waveform in waveforms * 3 for part in (waveform, pause)])
    theirs = AutomaticSpeechRecognitionPipeline(
        model=original.model, feature_extractor=original.extractor, tokenizer=original.tokenizer
    )
    expected = theirs(
        joined.copy(),
        chunk_length_s=window,
        stride_length_s=stride,
        generate_kwargs={"language": "es", "task": "transcribe", "num_beams": 1},
    )["text"]
    recording = {"array": joined, "sampling_rate": SAMPLE_RATE}
    options = TranscriptionOptions(language="es", window=window, stride=(stride, stride), no_speech=None)
    [transcript] = pipeline.transcribe([recording], options)
    assert transcript["text"] == expected.strip()
    assert transcript["duration"] == round(len(joined) / SAMPLE_RATE, 3) > 60
    assert len(expected.split()) > 50
