"""Golden files: the original's activations on some recordings, for checking a machine without PyTorch.

A golden is one small safetensors file. For each recording it holds the inputs of our networks (waveform, features,
tokens) in full and a `SampledActivation` of every stage. Its metadata is JSON: the SHA-256 of the weight files, a
digest of each of their tensors, the constants of the modules, the versions of the packages, and the SHA-256 of each
complete stage. Reading a golden executes no code.
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
from ..runtime.compat import safetensors_metadata
from ..runtime.storage import Folder
from .reference_activations import SampledActivation, sha256
from .stages import INPUT_STAGES, Stages
from .tensors import Constants, Digests

SCHEMA = 1
_KEY = "speech_emotion_jax.golden"


@dataclass(frozen=True)
class GoldenRecording:
    """One recording of a golden.

    Attributes:
        name: the file's name, or "".
        text: the text, or None.
        inputs: the stages that our networks start from, complete.
        slices: a sample of every stage.
        sha256: the SHA-256 of every complete stage.
    """

    name: str
    text: str | None
    inputs: Stages
    slices: Mapping[str, SampledActivation]
    sha256: Mapping[str, str]

    @classmethod
    def of(cls, name: str, text: str | None, stages: Stages) -> GoldenRecording:
        """Sample a recording.

        Args:
            name: the file's name, or "".
            text: the text, or None.
            stages: the stages that the original computed.
        """
        return cls(
            name,
            text,
            {stage: array for stage, array in stages.items() if stage in INPUT_STAGES},
            {stage: SampledActivation.of(stage, array) for stage, array in stages.items()},
            {stage: sha256(array) for stage, array in stages.items()},
        )


@dataclass(frozen=True)
class Golden:
    """The content of a golden file.

    Attributes:
        kind: the kind of architecture, "emotion" or "whisper".
        mode: the mode of an emotion checkpoint.
        language: the language of an emotion checkpoint.
        weights: {part: {weight file: SHA-256}}.
        tensors: {precision: digests of the tensors}.
        constants: the constants of the original's modules.
        versions: the packages that made the golden.
        recordings: the recordings.
    """

    kind: str
    mode: str | None
    language: str | None
    weights: Mapping[str, Mapping[str, str]]
    tensors: Mapping[str, Digests]
    constants: Constants
    versions: Mapping[str, str]
    recordings: Sequence[GoldenRecording]

    def write(self, path: str) -> None:
        """Write the golden to a file on disk or in a bucket.

        Raises:
            InvalidInput: if `path` names a folder.
            OSError: if the file cannot be written, for example because the disk is full.
        """
        arrays: dict[str, np.ndarray] = {}
        recordings = []
        for number, recording in enumerate(self.recordings):
            arrays |= {f"{number}/given/{stage}": array for stage, array in recording.inputs.items()}
            stages = {}
            for stage, sample in recording.slices.items():
                stages[stage] = {"shape": sample.shape, "scale": sample.scale, "sha256": recording.sha256[stage]}
                arrays |= {f"{number}/values/{stage}": sample.values, f"{number}/sums/{stage}": sample.sums}
            recordings.append({"name": recording.name, "text": recording.text, "stages": stages})
        metadata = {
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
        data = save({name: np.ascontiguousarray(array) for name, array in arrays.items()}, {_KEY: json.dumps(metadata)})
        folder, name = split_path(path)
        folder.make()
        folder.write(name, data)


def split_path(path: str) -> tuple[Folder, str]:
    """Split the path of a golden into its folder, on disk or in a bucket, and its name.

    Raises:
        InvalidInput: if `path` names a folder.
    """
    above, sign, name = path.rpartition("/")
    folder = Folder.open(above + sign or ".")
    if not name or (folder.on_disk and os.path.isdir(path)):
        raise InvalidInput(f"{path} is a folder; name a file for the golden")
    return folder, name


def read_golden(path: str) -> Golden:
    """Read a golden file.

    Raises:
        UnreadableInput: if the file cannot be read.
        InvalidInput: if it is not a golden, is damaged, or has another schema.
    """
    folder, name = split_path(path)
    try:
        data = folder.read(name)
    except OSError as error:
        reason = error.strerror or "there is no such file"
        raise UnreadableInput(f"{path} can't be read: {reason}; make a golden with --record") from error
    try:
        metadata = _read_metadata(data)
        arrays = load(data)
        if metadata["schema"] != SCHEMA:
            raise ValueError(f"schema {metadata['schema']}")
        recordings = [_read_recording(number, each, arrays) for number, each in enumerate(metadata["recordings"])]
        return Golden(
            metadata["kind"],
            metadata["mode"],
            metadata["language"],
            metadata["weights"],
            metadata["tensors"],
            metadata["constants"],
            metadata["versions"],
            recordings,
        )
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise InvalidInput(
            f"{path} is not a golden, is damaged, or is of another version ({reason}); make a new one with --record"
        ) from error


def _read_metadata(data: bytes) -> dict[str, Any]:
    return json.loads(safetensors_metadata(data)[_KEY])


def _read_recording(number: int, metadata: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> GoldenRecording:
    inputs, slices, checksums = {}, {}, {}
    for stage, about in metadata["stages"].items():
        if stage in INPUT_STAGES:
            inputs[stage] = arrays[f"{number}/given/{stage}"]
        slices[stage] = SampledActivation(
            tuple(int(size) for size in about["shape"]),
            float(about["scale"]),
            arrays[f"{number}/values/{stage}"],
            arrays[f"{number}/sums/{stage}"],
        )
        checksums[stage] = str(about["sha256"])
    return GoldenRecording(str(metadata["name"]), metadata["text"], inputs, slices, checksums)
