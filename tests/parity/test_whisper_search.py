"""Greedy and beam search against transformers' `generate`, on random models that end at odd places."""

import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from safetensors.torch import load_file, save_file
from transformers import WhisperForConditionalGeneration

from speech_emotion_jax.checkpoints import load_whisper
from speech_emotion_jax.config import WhisperConfig
from speech_emotion_jax.convert.sources import read_json
from speech_emotion_jax.runtime.devices import select_mesh
from speech_emotion_jax.text.tokenizer import load_tokenizer
from speech_emotion_jax.whisper.programs import WhisperPrograms
from speech_emotion_jax.whisper.search import SearchResult
from speech_emotion_jax.whisper.vocabulary import Vocabulary

from ..support.checkpoints import write_whisper

pytestmark = pytest.mark.slow

LIMIT = 14  # tokens
RECORDINGS = 3
FRAMES = 40  # of an encoded recording
SCORE_BUDGET = 1e-4  # of mean log-probabilities
PROBABILITY_BUDGET = 1e-5


class Manner(NamedTuple):
    """How a model talks: by how much the logit of its end is raised, and how much logits differ."""

    end: float
    spread: float = 1.5


# By seed: most end somewhere, not all at once. Of the unsure one, hypotheses that end badly stay the best.
MANNERS = {11: Manner(2.0), 12: Manner(5.0), 16: Manner(3.0), 18: Manner(2.0), 19: Manner(2.0, spread=0.45)}
BIAS = 3.0


def write_talker(folder: Path, seed: int) -> Path:
    """A tiny random Whisper that is never sure, so that hypotheses compete, and may end after any token."""
    manner = MANNERS[seed]
    write_whisper(folder, seed=seed, config_overrides={"max_source_positions": FRAMES})
    generation = read_json(folder / "generation_config.json")
    end, no_timestamps = generation["eos_token_id"], generation["no_timestamps_token_id"]
    steering = [generation["decoder_start_token_id"], *range(no_timestamps - 4, no_timestamps + 1)]
    generation |= {
        "suppress_tokens": [*range(0, end, 7), *steering],
        "begin_suppress_tokens": [*range(3, end, 5), end],
        "max_initial_timestamp_index": 5,
    }
    (folder / "generation_config.json").write_text(json.dumps(generation))

    tensors = load_file(folder / "model.safetensors")
    norm, embeddings = "model.decoder.layer_norm", tensors["model.decoder.embed_tokens.weight"]
    tensors[f"{norm}.weight"] *= manner.spread
    # A direction of which every state holds the same: what an embedding has of it is added to the token's logit.
    direction = torch.nn.functional.normalize(tensors[f"{norm}.bias"], dim=0)
    tensors[f"{norm}.bias"] = BIAS * direction
    embeddings[end] += manner.end / BIAS * direction
    embeddings[no_timestamps + 1 :] -= 4 / BIAS * direction  # all 1,501 are then about as likely as the best word
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


class Talker(NamedTuple):
    """One random model in torch, and its parameters in JAX."""

    torch: WhisperForConditionalGeneration
    parameters: nnx.State


class Talkers:
    """Random models of one architecture, which share their compiled programs; and the recordings they hear."""

    def __init__(self, folders: dict[int, Path]):
        mesh = select_mesh(None)
        self.models: dict[int, Talker] = {}
        for seed, folder in folders.items():
            checkpoint = load_whisper(str(folder), NamedSharding(mesh, PartitionSpec()), "float32")
            self.programs = WhisperPrograms(checkpoint.model, mesh)
            original = WhisperForConditionalGeneration.from_pretrained(folder).eval()
            self.models[seed] = Talker(original, self.programs.parameters)
            settings, generation = (read_json(folder / f"{name}.json") for name in ("config", "generation_config"))
            self.vocabulary = Vocabulary.read(
                "random", load_tokenizer(folder), WhisperConfig.from_json(settings), settings, generation
            )
        shape = (RECORDINGS, 2 * FRAMES, settings["num_mel_bins"])
        self.log_mel = np.random.default_rng(0).normal(size=shape).astype(np.float32)

    def ours(
        self, seed: int, *, beams: int, timestamps: bool, previous: Sequence[Sequence[int]] = ((),) * RECORDINGS
    ) -> SearchResult:
        """`previous` are tokens that stand before each recording's prompt."""
        self.programs.parameters = self.models[seed].parameters
        prompt = self.prompt(timestamps)
        return self.programs.search(
            self.programs.encode(self.programs.place_rows(list(self.log_mel))),
            [(*each, *prompt) for each in previous],
            start=len(prompt),
            rules=self.vocabulary.rules(timestamps=timestamps),
            limit=LIMIT,
            beams=beams,
        )

    def prompt(self, timestamps: bool) -> tuple[int, ...]:
        return self.vocabulary.prompt("es", "transcribe", timestamps=timestamps)

    def theirs(self, seed: int, *, beams: int, timestamps: bool, **options):
        """One pass of `generate`, which for a batch knows no unequal `prompt_ids`: then over the recording `row`."""
        row = options.pop("row", None)
        features = self.log_mel if row is None else self.log_mel[row : row + 1]
        return self.models[seed].torch.generate(
            torch.tensor(features.swapaxes(1, 2)),
            language="es",
            task="transcribe",
            return_timestamps=timestamps,
            num_beams=beams,
            do_sample=False,
            max_new_tokens=LIMIT,
            force_unique_generate_call=True,
            return_dict_in_generate=True,
            output_scores=True,
            **options,
        )

    def written(self, sequences: torch.Tensor, prompt: int) -> list[list[int]]:
        """Without prompts and ends."""
        rows = [[*sequence[prompt:].tolist(), self.vocabulary.end] for sequence in sequences]
        return [row[: row.index(self.vocabulary.end)] for row in rows]


@pytest.fixture(autouse=True, scope="module")
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def talkers(tmp_path_factory) -> Talkers:
    root = tmp_path_factory.mktemp("talkers")
    return Talkers({seed: write_talker(root / str(seed), seed) for seed in MANNERS})


def transcripts(found: SearchResult) -> list[list[int]]:
    return [tokens[:length].tolist() for tokens, length in zip(found.tokens, found.lengths, strict=True)]


@pytest.mark.parametrize("timestamps", [False, True], ids=["words", "timestamps"])
def test_greedy(talkers, timestamps):
    found: list[list[int]] = []
    prompt, end = len(talkers.prompt(timestamps)), talkers.vocabulary.end
    for seed in MANNERS:
        ours = talkers.ours(seed, beams=1, timestamps=timestamps)
        theirs = talkers.theirs(seed, beams=1, timestamps=timestamps)
        expected = talkers.written(theirs.sequences, prompt)
        assert transcripts(ours) == expected
        scores = torch.stack(theirs.scores).log_softmax(dim=-1)
        for row, tokens in enumerate(expected):
            if len(tokens) < LIMIT:
                mean = scores[range(len(tokens) + 1), row, [*tokens, end]].mean()
                assert abs(ours.log_probability[row] - mean) <= SCORE_BUDGET
        found += expected
    assert_various(talkers, found, timestamps)


@pytest.mark.parametrize(
    ("beams", "timestamps"), [(2, False), (3, False), (4, False), (5, False), (2, True), (5, True)]
)
def test_beams(talkers, beams, timestamps):
    found: list[list[int]] = []
    steps, otherwise = set(), 0
    prompt = len(talkers.prompt(timestamps))
    for seed in MANNERS:
        ours = talkers.ours(seed, beams=beams, timestamps=timestamps)
        theirs = talkers.theirs(seed, beams=beams, timestamps=timestamps)
        expected = talkers.written(theirs.sequences, prompt)
        assert transcripts(ours) == expected
        assert np.abs(ours.log_probability - theirs.sequences_scores.numpy()).max() <= SCORE_BUDGET
        otherwise += expected != transcripts(talkers.ours(seed, beams=1, timestamps=timestamps))
        steps.add(len(theirs.scores))
        found += expected
    assert_various(talkers, found, timestamps)
    assert otherwise >= 2  # than greedy
    assert LIMIT in steps  # some searches go on to the end,
    assert timestamps or min(steps) < LIMIT  # and others end early; with timestamps random weights seldom do


def assert_various(talkers: Talkers, found: Sequence[Sequence[int]], timestamps: bool) -> None:
    """The models do what the tests are about: they end early, late and not at all, and write times between words."""
    lengths = [len(tokens) for tokens in found]
    assert LIMIT in lengths
    assert min(lengths) < LIMIT // 2
    assert len(set(lengths)) >= 3
    stamps = [[token >= talkers.vocabulary.first_timestamp for token in tokens] for tokens in found]
    if timestamps:
        assert any(stamp and follower for each in stamps for stamp, follower in pairwise(each))
        assert any(not stamp and follower for each in stamps for stamp, follower in pairwise(each))


@pytest.mark.parametrize("beams", [1, 3])
def test_earlier_text_in_the_prompt(talkers, beams):
    """A batch of prompts of unequal lengths against torch one by one; and whether there is speech, which is told by the
    logits of <|startoftranscript|>, wherever it stands."""
    vocabulary, prompt = talkers.vocabulary, talkers.prompt(timestamps=True)
    earlier = [(), (vocabulary.previous, 7), (vocabulary.previous, *range(30, 50))]
    for seed in MANNERS:
        ours = talkers.ours(seed, beams=beams, timestamps=True, previous=earlier)
        for row, before in enumerate(earlier):
            ids = {"prompt_ids": torch.tensor(before)} if before else {}
            theirs = talkers.theirs(seed, beams=beams, timestamps=True, row=row, **ids)
            assert transcripts(ours)[row] == talkers.written(theirs.sequences, len(before) + len(prompt))[0]
            logits = (
                talkers.models[seed]
                .torch(
                    torch.tensor(talkers.log_mel[row : row + 1].swapaxes(1, 2)),
                    decoder_input_ids=torch.tensor([[*before, *prompt]]),
                )
                .logits[0, len(before)]
            )
            assert abs(ours.no_speech[row] - logits.softmax(dim=-1)[vocabulary.no_speech]) <= PROBABILITY_BUDGET
