"""Make a checkpoint with RANDOM weights, in the published layout and converted. It is as costly as a real one.

Kernels have unit gain, so activations stay of order one at any depth and the results of the sides can be compared.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from ..config import EmotionConfig
from ..convert import SCHEMA, TEXT_ENCODER, is_converted, publish_and_convert
from ..models import parameter_shapes
from ..runtime.progress import progress
from .clips import WORDS

NOTICE = "RANDOM weights, made to measure time and memory: what they predict means nothing"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclass(frozen=True)
class RandomCheckpoint:
    """A concat checkpoint for Spanish.

    Attributes:
        folder: the folder that holds the published and the converted checkpoint.
        config: the architecture.
    """

    folder: Path
    config: EmotionConfig

    @property
    def published(self) -> Path:
        """The folder in the published layout."""
        return self.folder / "published"

    @property
    def text_encoder(self) -> Path:
        """The published folder of the text encoder."""
        return self.published / TEXT_ENCODER

    @property
    def converted(self) -> Path:
        """The converted folder."""
        return self.folder / "converted"

    @property
    def size(self) -> str:
        """The size of the audio encoder as the end of a title, empty for the published size."""
        audio, published = self.config.audio, EmotionConfig.published("es", "concat").audio
        assert audio is not None
        assert published is not None
        shape, usual = ((each.num_hidden_layers, each.hidden_size) for each in (audio, published))
        return "" if shape == usual else f", {shape[0]} layer{'s' * (shape[0] != 1)} of {shape[1]}"

    @property
    def parameters(self) -> int:
        """The number of parameters."""
        return sum(int(np.prod(shape)) for shape in parameter_shapes(self.config).values())


def concat_config(layers: int | None = None, width: int | None = None) -> EmotionConfig:
    """Return the published concat architecture, or a smaller one.

    Args:
        layers: the number of layers of the audio encoder; the text encoder has half as many. None as published.
        width: the width of both encoders. None as published.
    """
    config = EmotionConfig.published("es", "concat")
    audio, text = config.audio, config.text
    assert audio is not None
    assert text is not None
    if layers is not None:
        audio = replace(audio, num_hidden_layers=layers)
        text = replace(text, num_hidden_layers=max(1, layers // 2))
    if width is not None:
        shape = {"hidden_size": width, "num_attention_heads": max(1, width // 64), "intermediate_size": 4 * width}
        audio = replace(audio, output_hidden_size=width, **shape)
        text = replace(text, vocab_size=1000, **shape)
    return EmotionConfig.of("concat", config.labels, audio, text)


def random_checkpoint(config: EmotionConfig, home: Path) -> RandomCheckpoint:
    """Return the random checkpoint of an architecture, and make it if it does not exist.

    Args:
        config: the architecture.
        home: the folder of all random checkpoints. One of the published size takes 5.6 GB.
    """
    assert config.audio is not None
    assert config.text is not None
    name = f"RANDOM-concat-{config.audio.num_hidden_layers}x{config.audio.hidden_size}-{SCHEMA}"
    checkpoint = RandomCheckpoint(home / name, config)
    if not is_converted(checkpoint.converted):
        shutil.rmtree(checkpoint.published, ignore_errors=True)  # left by a run that was killed before it had converted
        with progress(f"Making {name}"), tempfile.TemporaryDirectory() as tokenizer:
            _write_tokenizer(Path(tokenizer), config.text.vocab_size)
            publish_and_convert(
                config,
                "es",
                random_parameters(config),
                checkpoint.published,
                checkpoint.converted,
                text_assets=Path(tokenizer),
                notice=NOTICE,
            )
    return checkpoint


def random_parameters(config: EmotionConfig) -> dict[str, Float[np.ndarray, " *any"]]:
    """Draw the parameters of a model, {path: float32 array}.

    Norms are ones and biases zeros. Kernels are drawn from N(0, 1 / inputs) and all other arrays from N(0, 1).
    """
    generator = np.random.Generator(np.random.SFC64(0))

    def draw(path: str, shape: tuple[int, ...]) -> np.ndarray:
        last = path.rpartition(".")[2]
        if last in ("scale", "bias"):
            return np.full(shape, float(last == "scale"), np.float32)
        array = generator.standard_normal(shape, np.float32)
        if last.endswith("kernel"):
            array *= shape[-2] ** -0.5
        return array

    return {path: draw(path, shape) for path, shape in parameter_shapes(config).items()}


def _write_tokenizer(folder: Path, size: int) -> None:
    """Write a BERT tokenizer whose vocabulary holds the words of the benchmark's texts."""
    from transformers import BertTokenizer

    tokens = list(dict.fromkeys([*SPECIAL, *WORDS]))
    tokens += [f"[unused{number}]" for number in range(size - len(tokens))]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    BertTokenizer(vocab=vocabulary, do_lower_case=True, strip_accents=False, model_max_length=512).save_pretrained(
        folder
    )
