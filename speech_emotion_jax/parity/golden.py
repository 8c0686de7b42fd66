"""A golden: what the original made of some recordings, in one small file; a machine without PyTorch is held against it.

A safetensors file. Of each recording it holds what ours starts from (waveform, features, tokens) whole, and of every
stage what a `SampledActivation` keeps; in its metadata, as JSON, which weights made it (sha256 of their files), a
digest of each of their tensors, the constants beside them, and the sha256 of each whole stage. Nothing in it is
executed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ..errors import InvalidInput, UnreadableInput
from ..runtime.storage import Folder
from .reference_activations import SampledActivation, sha256
from .stages import INPUT_STAGES, Stages
from .tensors import Constants, Digests

SCHEMA = 1
_KEY = "speech_emotion_jax.golden"


@dataclass(frozen=True)
class GoldenRecording:
    """What was kept of one recording: its name and text, the stages that ours is `given` whole, and slices of all."""

    name: str
    text: str | None
    inputs: Stages
    slices: Mapping[str, SampledActivation]
    sha256: Mapping[str, str]  # {stage: of all of it}

    @classmethod
    def of(cls, name: str, text: str | None, stages: Stages) -> GoldenRecording:
        """What is kept of a recording whose stages the original has computed."""
        return cls(
            name,
            text,
            {stage: array for stage, array in stages.items() if stage in INPUT_STAGES},
            {stage: SampledActivation.of(stage, array) for stage, array in stages.items()},
            {stage: sha256(array) for stage, array in stages.items()},
        )


@dataclass(frozen=True)
class Golden:
    """All that is in the file."""

    kind: str  # of the architecture: emotion or whisper
    mode: str | None
    language: str | None
    weights: Mapping[str, Mapping[str, str]]  # {part: {weight file: sha256}}
    tensors: Mapping[str, Digests]  # {precision: digests}
    constants: Constants
    versions: Mapping[str, str]  # of what made it
    recordings: Sequence[GoldenRecording]

    def write(self, path: str) -> None:
        """Write the file. Raises InvalidInput as `split_path`, OSError for a full disk."""
        arrays: dict[str, np.ndarray] = {}
        recordings = []
        for number, taken in enumerate(self.recordings):
            arrays |= {f"{number}/given/{stage}": array for stage, array in taken.inputs.items()}
            stages = {}
            for stage, kept in taken.slices.items():
                stages[stage] = {"shape": kept.shape, "scale": kept.scale, "sha256": taken.sha256[stage]}
                arrays |= {f"{number}/values/{stage}": kept.values, f"{number}/sums/{stage}": kept.sums}
            recordings.append({"name": taken.name, "text": taken.text, "stages": stages})
        about = {
            "schema": SCHEMA,
            "kind": self.kind,
            "mode": self.mode,
            "language": self.language,
            "weights": self.weights,
            "tensors": self.tensors,
            "constants": self.constants,
            "versions": self.versions,
            "recordings": recordings,
        }
        data = save({name: np.ascontiguousarray(array) for name, array in arrays.items()}, {_KEY: json.dumps(about)})
        folder, name = split_path(path)
        folder.make()
        folder.write(name, data)


def split_path(path: str) -> tuple[Folder, str]:
    """The folder, on a disk or a bucket, and the name of a golden. Raises InvalidInput where no file can be."""
    above, name = os.path.split(path)
    folder = Folder.open(above or ".")
    if not name or (folder.on_disk and os.path.isdir(path)):
        raise InvalidInput(f"{path} is a folder; name a file for the golden")
    return folder, name


def read_golden(path: str) -> Golden:
    """Read a golden. Raises UnreadableInput for a file that is missing and InvalidInput for what is none."""
    folder, name = split_path(path)
    try:
        data = folder.read(name)
    except OSError as error:
        reason = error.strerror or "there is no such file"
        raise UnreadableInput(f"{path} can't be read: {reason}; --record makes a golden") from error
    try:
        about = _metadata(data)
        arrays = load(data)
        if about["schema"] != SCHEMA:
            raise ValueError(f"schema {about['schema']}")
        taken = [_taken(number, each, arrays) for number, each in enumerate(about["recordings"])]
        return Golden(
            about["kind"],
            about["mode"],
            about["language"],
            about["weights"],
            about["tensors"],
            about["constants"],
            about["versions"],
            taken,
        )
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise InvalidInput(
            f"{path} is no golden, or a damaged one, or of another version ({reason}); --record makes one"
        ) from error


def _metadata(data: bytes) -> dict[str, Any]:
    """The golden's part of a safetensors file's header, which its reader from bytes leaves out."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(json.loads(data[8 : 8 + length])["__metadata__"][_KEY])


def _taken(number: int, about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> GoldenRecording:
    given, slices, checksums = {}, {}, {}
    for stage, kept in about["stages"].items():
        if stage in INPUT_STAGES:
            given[stage] = arrays[f"{number}/given/{stage}"]
        slices[stage] = SampledActivation(
            tuple(int(size) for size in kept["shape"]),
            float(kept["scale"]),
            arrays[f"{number}/values/{stage}"],
            arrays[f"{number}/sums/{stage}"],
        )
        checksums[stage] = str(kept["sha256"])
    return GoldenRecording(str(about["name"]), about["text"], given, slices, checksums)
