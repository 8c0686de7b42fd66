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

from scripts.transcription_parity import sequential_tokens, use_whole_log_mel, whole_log_mel
from speech_emotion_jax import TranscriptionOptions, WhisperPipeline
from speech_emotion_jax.audio.waveform import SAMPLE_RATE, load
from speech_emotion_jax.models.whisper import CrossKV
from speech_emotion_jax.whisper.words import FRAME_SECONDS, token_times

ENCODER_BUDGET = 1e-4  # relative to the largest value
FIRST_LOGITS_BUDGET = 1e-3
PROBABILITY_BUDGET = 1e-4
LIMIT = 40  # tokens; no clip has as many

DEMO = Path(str(files("speech_emotion_jax") / "demo_data"))
CLIPS = 6


class Original:
    """transformers' whisper-base, and what it makes of the sounds."""

    def __init__(self, folder: Path, sounds: Sequence[np.ndarray]):
        self.model = WhisperForConditionalGeneration.from_pretrained(folder).eval()
        self.extractor = WhisperFeatureExtractor.from_pretrained(folder)
        self.tokenizer = WhisperTokenizer.from_pretrained(folder)
        features = self.extractor(sounds, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features
        self.encoded = self.model.get_encoder()(features).last_hidden_state

    def tokens(self, *, beams: int = 1, timestamps: bool = False) -> list[list[int]]:
        """One pass of `generate` over all clips, without prompts and ends."""
        found: Any = self.model.generate(
            encoder_outputs=BaseModelOutput(self.encoded[:CLIPS]),
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
        """All logits and cross-attention, which only eager attention tells."""
        self.model.set_attn_implementation("eager")
        encoded, ids = (self.encoded[row : row + 1],), torch.tensor([list(tokens)])
        output = self.model(encoder_outputs=encoded, decoder_input_ids=ids, output_attentions=True)
        self.model.set_attn_implementation("sdpa")
        return output


def tokens_of(
    pipeline: WhisperPipeline, heard: CrossKV, rows: int, *, beams: int = 1, timestamps: bool = False
) -> list[list[int]]:
    """What one batch of `rows` is transcribed as."""
    vocabulary = pipeline.vocabulary
    prompt = vocabulary.prompt("es", "transcribe", timestamps=timestamps)
    rules = vocabulary.rules(timestamps=timestamps)
    found = pipeline.programs.search(heard, [prompt] * rows, start=len(prompt), rules=rules, limit=LIMIT, beams=beams)
    return [tokens[:length].tolist() for tokens, length in zip(found.tokens, found.lengths, strict=True)]


@pytest.fixture(autouse=True, scope="module")
def _torch_for_inference() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    """Spanish, spoken by a machine."""
    return [load(path) for path in sorted(DEMO.glob("*.flac"))]


@pytest.fixture(scope="module")
def sounds(clips) -> list[np.ndarray]:
    """The clips, a hiss, and silence."""
    hiss = np.random.default_rng(0).normal(size=5 * SAMPLE_RATE).astype(np.float32) * 0.01
    return [*clips, hiss, np.zeros(SAMPLE_RATE, np.float32)]


@pytest.fixture(scope="module")
def original(whisper_base, sounds) -> Original:
    return Original(whisper_base, sounds)


@pytest.fixture(scope="module")
def pipeline(whisper_base) -> Iterator[WhisperPipeline]:
    loaded = WhisperPipeline.from_pretrained(whisper_base)
    yield loaded
    loaded.close()


@pytest.fixture(scope="module")
def heard(pipeline, sounds) -> CrossKV:
    """All sounds in one batch."""
    return pipeline.programs.encode(pipeline.programs.features(sounds))


@pytest.fixture(scope="module")
def heard_alone(pipeline, clips) -> list[CrossKV]:
    """Clip by clip."""
    return [pipeline.programs.encode(pipeline.programs.features([clip])) for clip in clips]


def test_encoder_and_first_logits(pipeline, original, clips):
    programs = pipeline.programs
    prompt = pipeline.vocabulary.prompt("es", "transcribe", timestamps=False)

    @jax.jit
    def first_step(parameters, features):
        model = nnx.merge(programs.graph, parameters)
        encoded = model.encoder(features)
        tokens, padding = jnp.array([prompt], jnp.int32), jnp.zeros(1, jnp.int32)
        cache = model.decoder.empty_cache(1, len(prompt))
        decoded = model.decoder(tokens, 0, padding, cache, model.cross_kv(encoded))
        return encoded, model.decoder.logits(decoded.states)

    for row, clip in enumerate(clips):
        encoded, logits = first_step(programs.parameters, programs.features([clip]))
        expected = original.encoded[row].numpy()
        assert np.abs(encoded[0] - expected).max() <= ENCODER_BUDGET * np.abs(expected).max()
        expected = original.decode(prompt, row).logits[0].numpy()
        assert np.abs(logits[0] - expected).max() <= FIRST_LOGITS_BUDGET


@pytest.mark.parametrize(
    "search", [{}, {"beams": 5}, {"timestamps": True}], ids=["greedy", "5 beams", "greedy, timestamps"]
)
def test_tokens(pipeline, original, heard, heard_alone, search):
    """In one batch and one by one: a row's tokens do not depend on its neighbours."""
    expected = original.tokens(**search)
    batch = pipeline.programs.select_rows(heard, range(CLIPS))
    assert tokens_of(pipeline, batch, CLIPS, **search) == expected
    assert [tokens_of(pipeline, each, 1, **search)[0] for each in heard_alone] == expected
    assert len({len(tokens) for tokens in expected}) > 1  # rows end at different steps


def test_language_and_speech(pipeline, original, sounds, heard):
    vocabulary = pipeline.vocabulary
    prompt, languages = vocabulary.prompt("es", "transcribe", timestamps=False), list(vocabulary.languages.values())
    logits = torch.cat([original.decode(prompt, row).logits[:, 0] for row in range(len(sounds))])

    ours = pipeline.programs.detect(heard, vocabulary.start, languages, vocabulary.no_speech).languages
    theirs = original.model.detect_language(encoder_outputs=BaseModelOutput(original.encoded))
    assert [languages[best] for best in ours.argmax(axis=1)] == theirs.tolist()
    assert np.abs(ours - logits[:, languages].softmax(dim=-1).numpy()).max() <= PROBABILITY_BUDGET

    rules, prompts = vocabulary.rules(timestamps=False), [prompt] * len(sounds)
    found = pipeline.programs.search(heard, prompts, start=len(prompt), rules=rules, limit=LIMIT)
    no_speech = logits.softmax(dim=-1)[:, vocabulary.no_speech].numpy()
    assert np.abs(found.no_speech - no_speech).max() <= PROBABILITY_BUDGET
    assert no_speech[:CLIPS].max() < 0.6 < no_speech[CLIPS:].min()


def test_times_of_tokens(pipeline, original, clips, heard):
    """Of the same tokens, from the attention of the same heads to the same frames."""
    programs, vocabulary = pipeline.programs, pipeline.vocabulary
    prompt, heads = vocabulary.prompt("es", "transcribe", timestamps=False), vocabulary.alignment_heads
    texts = [(*prompt, *tokens) for tokens in original.tokens()]
    attention = programs.align(programs.select_rows(heard, range(CLIPS)), texts, heads)
    before = len(prompt) - 1  # tokens that predict no token of the text
    for row, (text, clip) in enumerate(zip(texts, clips, strict=True)):
        frames = round(len(clip) / SAMPLE_RATE / FRAME_SECONDS)
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
        assert times[-1, 1] > 0.5 * len(clip) / SAMPLE_RATE


def test_a_recording_of_over_a_minute(pipeline, original, clips):
    """Windows of 30 s that overlap, joined, against transformers' own pipeline: the same text, no stitch differs."""
    pause = np.zeros(SAMPLE_RATE, np.float32)
    joined = np.concatenate([part for clip in clips * 3 for part in (clip, pause)])
    theirs = AutomaticSpeechRecognitionPipeline(
        model=original.model, feature_extractor=original.extractor, tokenizer=original.tokenizer
    )
    generate = {"language": "es", "task": "transcribe", "num_beams": 1, "max_new_tokens": 2 * LIMIT}
    expected = theirs(joined.copy(), chunk_length_s=30, generate_kwargs=generate)["text"]
    recording = {"array": joined, "sampling_rate": SAMPLE_RATE}
    options = TranscriptionOptions(language="es", no_speech=None, max_tokens=2 * LIMIT)
    [transcript] = pipeline.transcribe([recording], options)
    assert transcript["text"] == expected.strip()
    assert transcript["duration"] == round(len(joined) / SAMPLE_RATE, 3) > 60
    assert len(expected.split()) > 60


@pytest.mark.parametrize("prompted", [False, True])
def test_window_after_window(pipeline, original, clips, prompted: bool):
    """Each from where the timestamps of the last one end, and prompted with these or not: the same text.

    Both hear parts of the log-mel of the whole recording, as transformers does it. Of each window by itself, as ours
    does it, other low energies are cut.
    """
    pause = np.zeros(SAMPLE_RATE, np.float32)
    joined = np.concatenate([part for clip in [*clips, *clips[::-1], *clips] for part in (clip, pause)])
    whole = whole_log_mel(original.extractor, joined)
    expected = sequential_tokens(original.model, whole, "es", prompted=prompted)
    options = TranscriptionOptions(language="es", sequential=True, condition_on_previous=prompted, no_speech=None)
    with use_whole_log_mel(pipeline, joined, whole.input_features[0].numpy()):
        [transcript] = pipeline.transcribe([{"array": joined, "sampling_rate": SAMPLE_RATE}], options)
    assert transcript["text"] == original.tokenizer.decode(expected, skip_special_tokens=True).strip()
