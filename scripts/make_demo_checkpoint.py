"""Train the demo checkpoint on the synthetic corpus and put it, with a few test recordings, into the package.

    python scripts/demo_corpus.py CORPUS
    python scripts/make_demo_checkpoint.py CORPUS [--seeds 3] [--output speech_emotion_jax/demo_data]

For each seed it trains a system from text alone and one from audio alone, then a fused one (mode concat): a new head on
both encoders, which stay as they are, as the published fusions keep their text encoder. It prints the accuracy of each
on held-out voices and sentences beside the majority rate. The fused one of the first seed is written in the published
layout in float16, and its accuracy is measured once more through the converter and the pipeline.

A toy: synthetic speech, labels made up by rules. It says nothing about people.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, stdev

import jax
import jax.numpy as jnp
import numpy as np
import optax
import soundfile
from flax import nnx
from rich.console import Console
from rich.progress import track
from safetensors.numpy import save_file
from transformers import BertTokenizer

from speech_emotion_jax import EmotionPipeline
from speech_emotion_jax.config import BertConfig, EmotionConfig, Wav2Vec2BertConfig
from speech_emotion_jax.convert.layouts import bert, fusion
from speech_emotion_jax.inputs.batches import FRAME_BUCKETS, bucket, pad_tokens
from speech_emotion_jax.inputs.features import feature_frames, features, samples_for
from speech_emotion_jax.inputs.text import TextTokenizer
from speech_emotion_jax.models.emotion import EmotionModel
from speech_emotion_jax.models.parameters import parameters_of
from speech_emotion_jax.registry import LABELS

AUDIO = Wav2Vec2BertConfig(
    num_hidden_layers=2, hidden_size=64, num_attention_heads=4, intermediate_size=128, output_hidden_size=64
)
TEXT = BertConfig(num_hidden_layers=2, hidden_size=48, num_attention_heads=4, intermediate_size=96)
PROJECTION = 48
PADDING_VALUE = 1.0
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
BATCH = 32
EPOCHS = {"text": 40, "audio": 10, "concat": 200}
MAX_SAMPLES = 16_000 * 7


@dataclass(frozen=True)
class Split:
    """The clips of a split as arrays: features (clips, frames, 160), ids (clips, tokens), masks, labels (clips,)."""

    names: list[str]
    texts: list[str]
    features: np.ndarray
    frame_mask: np.ndarray
    ids: np.ndarray
    token_mask: np.ndarray
    labels: np.ndarray


def configuration(mode: str, vocabulary: int) -> EmotionConfig:
    text = replace(TEXT, vocab_size=vocabulary)
    labels = LABELS["es"]
    if mode == "text":
        return EmotionConfig(mode, labels, None, text, None, head_width=text.hidden_size)
    if mode == "audio":
        return EmotionConfig(mode, labels, AUDIO, None, PROJECTION, head_width=PROJECTION)
    return EmotionConfig(mode, labels, AUDIO, text, PROJECTION, head_width=PROJECTION + text.hidden_size)


def write_tokenizer(folder: Path, texts: list[str]) -> int:
    """A tokenizer of the texts' words; all others are [UNK]. Returns the size of its vocabulary."""
    words = sorted({word for text in texts for word in re.findall(r"\w+|[^\w\s]", text.lower())})
    vocabulary = [*SPECIAL_TOKENS, *words]
    tokenizer = BertTokenizer(
        vocab={token: index for index, token in enumerate(vocabulary)},
        do_lower_case=True,
        strip_accents=False,
        model_max_length=512,
    )
    tokenizer.save_pretrained(folder)
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in vocabulary), encoding="utf-8")
    return len(vocabulary)


def read_split(corpus: Path, rows: list[dict[str, str]], tokenizer: TextTokenizer) -> Split:
    waveforms = [soundfile.read(corpus / row["filename"], dtype="float32")[0][:MAX_SAMPLES] for row in rows]
    frames = bucket(max(feature_frames(len(waveform)) for waveform in waveforms), FRAME_BUCKETS)
    out, masks = [], []
    for start in track(range(0, len(rows), BATCH), "Features", console=Console(stderr=True)):
        chunk = waveforms[start : start + BATCH]
        padded = np.zeros((BATCH, samples_for(frames)), np.float32)
        for row, waveform in zip(padded, chunk, strict=False):
            row[: len(waveform)] = waveform[: len(row)]
        lengths = np.array([len(waveform) for waveform in chunk] + [16_000] * (BATCH - len(chunk)), np.int32)
        batch, mask = features(padded, lengths, padding_value=PADDING_VALUE)
        out.append(np.asarray(batch)[: len(chunk)])
        masks.append(np.asarray(mask)[: len(chunk)])
    texts = [row["transcription"] for row in rows]
    tokens = [tokenizer(text).ids for text in texts]
    ids, token_mask = pad_tokens(tokens, max(map(len, tokens)), TEXT.pad_token_id)
    labels = np.array([LABELS["es"].index(row["label"]) for row in rows], np.int32)
    names = [row["filename"] for row in rows]
    return Split(names, texts, np.concatenate(out), np.concatenate(masks), ids, token_mask, labels)


def inputs(split: Split, items: np.ndarray, mode: str) -> dict[str, jax.Array]:
    """The model's arguments for some clips, padded to a common length."""
    frames = bucket(int(split.frame_mask[items].sum(axis=1).max()), FRAME_BUCKETS)
    audio = {"features": split.features[items, :frames], "frame_mask": split.frame_mask[items, :frames]}
    text = {"ids": split.ids[items], "token_mask": split.token_mask[items]}
    chosen = ({} if mode == "text" else audio) | ({} if mode == "audio" else text)
    return {name: jnp.asarray(array) for name, array in chosen.items()}


def train(config: EmotionConfig, data: Split, seed: int) -> EmotionModel:
    epochs = EPOCHS[config.mode]
    graph, parameters = nnx.split(EmotionModel(config, rngs=nnx.Rngs(seed)))
    steps = epochs * (len(data.labels) // BATCH)
    schedule = optax.warmup_cosine_decay_schedule(0.0, 2e-3, steps // 10, steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=0.05))
    state = optimizer.init(parameters)

    @jax.jit
    def step(parameters, state, batch, labels):
        def loss(parameters):
            logits = nnx.merge(graph, parameters)(**batch)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        value, gradient = jax.value_and_grad(loss)(parameters)
        updates, state = optimizer.update(gradient, state, parameters)
        return optax.apply_updates(parameters, updates), state, value

    rng = np.random.default_rng(seed)
    for _ in track(range(epochs), f"Training from {config.mode}, seed {seed}", console=Console(stderr=True)):
        for items in batches(data, rng):
            batch = inputs(data, items, config.mode)
            # Noise and lost words keep the small encoders from learning the few voices and sentences by heart.
            if "features" in batch:
                batch["features"] += 0.2 * rng.normal(size=batch["features"].shape).astype(np.float32)
            if "ids" in batch:
                lost = (batch["ids"] >= len(SPECIAL_TOKENS)) & (rng.random(batch["ids"].shape) < 0.3)
                batch["ids"] = jnp.where(lost, SPECIAL_TOKENS.index("[UNK]"), batch["ids"])
            parameters, state, _ = step(parameters, state, batch, jnp.asarray(data.labels[items]))
    return nnx.merge(graph, parameters)


def fuse(text: EmotionModel, audio: EmotionModel, data: Split, seed: int) -> EmotionModel:
    """The trained encoders under a new head, which alone is trained."""
    assert text.config.text is not None
    model = EmotionModel(configuration("concat", text.config.text.vocab_size), rngs=nnx.Rngs(seed))
    model.audio_encoder, model.projector = audio.audio_encoder, audio.projector
    model.text_encoder = text.text_encoder
    vectors = fused_vectors(model, data)
    graph, parameters = nnx.split(model.classifier)
    optimizer = optax.adamw(1e-3, weight_decay=0.05)
    state = optimizer.init(parameters)

    @jax.jit
    def step(parameters, state, vectors, labels):
        def loss(parameters):
            logits = nnx.merge(graph, parameters)(vectors)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        updates, state = optimizer.update(jax.grad(loss)(parameters), state, parameters)
        return optax.apply_updates(parameters, updates), state

    rng = np.random.default_rng(seed)
    for _ in range(EPOCHS["concat"]):
        for items in batches(data, rng):
            parameters, state = step(parameters, state, vectors[items], data.labels[items])
    model.classifier = nnx.merge(graph, parameters)
    return model


def fused_vectors(model: EmotionModel, data: Split) -> jax.Array:
    """What the head of a fused model sees of each clip."""
    encode = nnx.jit(
        lambda model, features, frame_mask, ids, token_mask: model.fuse(
            model.encode_audio(features, frame_mask), model.encode_text(ids, token_mask)
        )
    )
    return jnp.concatenate([encode(model, **inputs(data, items, "concat")) for items in whole_batches(data)])[
        : len(data.labels)
    ]


def whole_batches(data: Split) -> Iterator[np.ndarray]:
    """All clips in order; the last batch is filled up with the first clip."""
    for start in range(0, len(data.labels), BATCH):
        items = np.arange(start, min(start + BATCH, len(data.labels)))
        yield np.pad(items, (0, BATCH - len(items)))


def batches(data: Split, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """An epoch of clips in random order, those of about one length together."""
    lengths = data.frame_mask.sum(axis=1) + rng.uniform(0, 20, len(data.labels))
    order = np.argsort(lengths)
    starts = np.arange(0, len(order) - BATCH + 1, BATCH) + rng.integers(0, len(order) % BATCH + 1)
    for start in rng.permutation(starts):
        yield order[start : start + BATCH]


def accuracy(model: EmotionModel, data: Split) -> float:
    predict = nnx.jit(lambda model, batch: model(**batch).argmax(axis=-1))
    found = [np.asarray(predict(model, inputs(data, items, model.config.mode))) for items in whole_batches(data)]
    return float((np.concatenate(found)[: len(data.labels)] == data.labels).mean())


def write_published(folder: Path, model: EmotionModel, tokenizer: Path) -> None:
    """The checkpoint as the published ones are laid out, its tensors in float16."""
    parameters = {path: np.asarray(array, np.float16) for path, array in parameters_of(model).items()}
    config, text_folder = model.config, folder / "text_encoder"
    assert config.audio is not None
    assert config.text is not None
    text_folder.mkdir(parents=True)
    for file in tokenizer.iterdir():
        shutil.copyfile(file, text_folder / file.name)
    frozen = {path: array for path, array in parameters.items() if path.startswith("text_encoder.")}
    save_file(bert.LAYOUT.tensors(frozen), text_folder / "model.safetensors", {"format": "pt"})
    write_json(text_folder / "config.json", asdict(config.text) | {"architectures": ["BertModel"]})
    unused = {
        "classifier.layernorm.weight": np.ones(config.head_width, np.float16),
        "classifier.layernorm.bias": np.zeros(config.head_width, np.float16),
        "wav2vec2_bert.masked_spec_embed": np.zeros(config.audio.hidden_size, np.float16),
    }
    own = {path: array for path, array in parameters.items() if path not in frozen}
    save_file(fusion.LAYOUT.tensors(own) | unused, folder / "model.safetensors", {"format": "pt"})
    settings = {
        "architectures": ["CustomAudioClassificationConcat"],
        "model_type": "wav2vec2-bert",
        "classifier_proj_size": config.projection_width,
        "id2label": {str(index): label for index, label in enumerate(config.labels)},
        "label2id": {label: index for index, label in enumerate(config.labels)},
        "notice": "a toy trained on synthetic speech; of no use on people",
    }
    write_json(folder / "config.json", asdict(config.audio) | settings)
    preprocessor = {
        "feature_extractor_type": "SeamlessM4TFeatureExtractor",
        "feature_size": 80,
        "num_mel_bins": 80,
        "padding_side": "right",
        "padding_value": PADDING_VALUE,
        "return_attention_mask": True,
        "sampling_rate": 16_000,
        "stride": 2,
    }
    write_json(folder / "preprocessor_config.json", preprocessor)


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def ship(output: Path, model: EmotionModel, tokenizer: Path, corpus: Path, test: list[dict[str, str]]) -> None:
    """The package's demo folder: the checkpoint, and the shortest block of the test clips as flac.

    A block is one voice and three sentences, each spoken in two ways with two labels: no modality alone decides.
    """

    def frames(block: list[dict[str, str]]) -> int:
        return sum(soundfile.info(corpus / row["filename"]).frames for row in block)

    block = min(
        (test[start : start + len(LABELS["es"])] for start in range(0, len(test), len(LABELS["es"]))), key=frames
    )
    with tempfile.TemporaryDirectory(dir=output.parent) as temporary:
        staging = Path(temporary) / "demo_data"
        write_published(staging / "checkpoint", model, tokenizer)
        listed = []
        for row in block:
            samples, rate = soundfile.read(corpus / row["filename"], dtype="int16")
            soundfile.write(staging / f"{row['label']}.flac", samples, rate, subtype="PCM_16")
            listed.append([f"{row['label']}.flac", row["label"], row["transcription"]])
        with (staging / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([["filename", "label", "transcription"], *listed])
        shutil.rmtree(output, ignore_errors=True)
        staging.rename(output)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="folder made by scripts/demo_corpus.py")
    parser.add_argument("--output", type=Path, default=Path("speech_emotion_jax/demo_data"))
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    with (options.corpus / "manifest.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    by_split = {split: [row for row in rows if row["split"] == split] for split in ("train", "test")}
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        tokenizer = Path(temporary)
        vocabulary = write_tokenizer(tokenizer, [row["transcription"] for row in by_split["train"]])
        encode = TextTokenizer(tokenizer, TEXT.max_tokens)
        data = {split: read_split(options.corpus, chosen, encode) for split, chosen in by_split.items()}
        majority = np.bincount(data["test"].labels).max() / len(data["test"].labels)
        print(f"{len(data['train'].labels)} clips to train on, {len(data['test'].labels)} held out (voices, sentences)")
        print(f"majority rate {majority:.3f}")
        scores: dict[str, list[float]] = {"text": [], "audio": [], "concat": []}
        for seed in range(options.seeds):
            text, audio = (train(configuration(mode, vocabulary), data["train"], seed) for mode in ("text", "audio"))
            fused = fuse(text, audio, data["train"], seed)
            for model in (text, audio, fused):
                scores[model.config.mode].append(accuracy(model, data["test"]))
                print(f"seed {seed}  {model.config.mode:6}  accuracy {scores[model.config.mode][-1]:.3f}", flush=True)
            if seed == 0:
                ship(options.output, fused, tokenizer, options.corpus, by_split["test"])
        for mode, found in scores.items():
            spread = f" +- {stdev(found):.3f}" if len(found) > 1 else ""
            print(f"{mode:6}  {mean(found):.3f}{spread} over {len(found)} seeds")
    pipeline = EmotionPipeline.from_pretrained(str(options.output / "checkpoint"), mode="concat", language="es")
    test = by_split["test"]
    predictions = pipeline.predict(
        {"audio": options.corpus / row["filename"], "text": row["transcription"]} for row in test
    )
    right = sum(p["top_label"] == row["label"] for p, row in zip(predictions, test, strict=True))
    size = sum(path.stat().st_size for path in options.output.rglob("*") if path.is_file())
    print(f"shipped checkpoint, through the pipeline: held-out accuracy {right / len(test):.3f}; {size / 1e6:.2f} MB")
    print(f"{time.perf_counter() - start:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
