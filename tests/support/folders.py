"""Published folders for the converter's tests: opened, copied, spoilt and converted."""

from __future__ import annotations

import filecmp
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from speech_emotion_jax import EmotionPipeline
from speech_emotion_jax.convert.emotion import open_emotion
from speech_emotion_jax.convert.engine import convert, write_safetensors
from speech_emotion_jax.convert.published import Origin, PublishedCheckpoint
from speech_emotion_jax.errors import InvalidInput

if TYPE_CHECKING:
    import torch

Folders = Callable[[str, str], Path]
Tensors = dict[str, "torch.Tensor"]

WEIGHTS = "model.safetensors"
CLIP = {"array": np.random.default_rng(0).normal(size=4800).astype(np.float32), "sampling_rate": 16_000}
EXAMPLE = {"audio": CLIP, "text": "¡Qué alegría, no me lo puedo creer!"}


def opened(
    model: Path, mode: str, language: str = "es", text: Path | None = None, **options: Any
) -> PublishedCheckpoint:
    text_encoder = None if text is None else Origin.local(text)
    return open_emotion(Origin.local(model), mode, language, text_encoder=text_encoder, **options)


def refusal(act: Callable[[], object], error: type[Exception] = InvalidInput) -> str:
    """The message with which something is refused; one sentence."""
    with pytest.raises(error) as caught:
        act()
    message = str(caught.value)
    assert "\n" not in message
    assert not message.endswith(".")
    return message


def copied(folder: Path, destination: Path) -> Path:
    """A copy of a published folder, to be spoilt."""
    return shutil.copytree(folder, destination)


def rewrite(folder: Path, change: Callable[[Tensors], object]) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS, {"format": "pt"})


def rewrite_json(path: Path, **values: Any) -> None:
    """Set (None: remove) values of a JSON file."""
    content = json.loads(path.read_text()) | values
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


def pickled(folder: Path, name: str, tensors: dict[str, Any] | None = None, *, archive: bool = True) -> None:
    """Write a torch state dict, by default the folder's own weights in place of its safetensors."""
    import torch
    from safetensors.torch import load_file

    if tensors is None:
        tensors = load_file(folder / WEIGHTS)
        (folder / WEIGHTS).unlink()
    torch.save(tensors, folder / name, _use_new_zipfile_serialization=archive)


def round_trip(model: Path, mode: str, text: Path | None, home: Path, language: str = "es") -> tuple[Path, Path]:
    """The converted folder and the exported one."""
    convert(opened(model, mode, language, text), home / "converted")
    write_safetensors(home / "converted", home / "exported")
    return home / "converted", home / "exported"


def assert_same(one: Path, other: Path) -> None:
    assert filecmp.cmp(one, other, shallow=False), f"{one} and {other} differ"


def predict(folder: Path, **options: Any) -> dict[str, float]:
    pipeline = EmotionPipeline.from_pretrained(str(folder), batch_size=1, **options)
    [prediction] = pipeline.predict([EXAMPLE])
    return prediction["scores"]
