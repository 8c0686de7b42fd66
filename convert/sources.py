"""The weight files of a published folder: safetensors, sharded safetensors, or a torch pickle.

A source knows names, dtypes and shapes without reading the tensors, and reads a few tensors at a time. So the memory of
a conversion stays near the size of its output.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from ..errors import InvalidInput, SpeechEmotionError, UnreadableInput
from .rules import TensorInfo

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
TOOLKIT_BIN = "model.bin"
TORCH_BIN = "pytorch_model.bin"


class TensorSource(ABC):
    """The tensors of one or several files.

    Attributes:
        files: The files.
        tensors: Dtype and shape of each tensor by name.
        duplicates: A phrase for each tensor that is in two files.
    """

    files: tuple[Path, ...]
    tensors: Mapping[str, TensorInfo]
    duplicates: Sequence[str] = ()

    @abstractmethod
    def read(self, names: Iterable[str]) -> Iterator[np.ndarray]:
        """Read the tensors of these names, in order, in their own dtypes."""

    def sha256(self) -> dict[str, str]:
        """Return {file name: SHA-256 in hexadecimal digits}."""
        digests = {}
        for path in self.files:
            with path.open("rb") as file:
                digests[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
        return digests


class SafetensorsSource(TensorSource):
    """One safetensors file, or the shards of an index."""

    def __init__(self, files: tuple[Path, ...]):
        """Read the headers of the files."""
        self.files = files
        self._home: dict[str, Path] = {}
        tensors: dict[str, TensorInfo] = {}
        duplicates: list[str] = []
        for path in files:
            with _safe_open(path) as file:
                for name in file.keys():  # noqa: SIM118, the handle can't be iterated over.
                    if name in tensors:
                        duplicates.append(f"{name} is in {self._home[name].name} and in {path.name}")
                    header = file.get_slice(name)
                    tensors[name] = TensorInfo(header.get_dtype(), tuple(header.get_shape()))
                    self._home[name] = path
        self.tensors, self.duplicates = tensors, duplicates

    def read(self, names: Iterable[str]) -> Iterator[np.ndarray]:
        """Read the tensors of these names, in order, in their own dtypes."""
        # Each call opens the files anew and closes them afterwards, because the pages of a memory map count as this
        # process's memory while it is open.
        names = list(names)
        handles = {path: _safe_open(path) for path in {self._home[name] for name in names}}
        for name in names:
            yield handles[self._home[name]].get_tensor(name)


class TorchSource(TensorSource):
    """A torch state dict, unpickled with weights_only so that no code in it runs. Needs the extra `torch`."""

    def __init__(self, path: Path):
        """Load the file, mapped into memory where its format allows."""
        self.files = (path,)
        self._state = _load_torch(path)
        self.tensors = {
            name: TensorInfo(_TORCH_DTYPES[str(tensor.dtype)], tuple(tensor.shape))
            for name, tensor in self._state.items()
        }

    def read(self, names: Iterable[str]) -> Iterator[np.ndarray]:
        """Read the tensors of these names, in order, in their own dtypes."""
        import torch

        for name in names:
            tensor = self._state[name]
            if tensor.dtype == torch.bfloat16:  # torch can't turn bfloat16 into a NumPy array.
                yield tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
            else:
                yield tensor.numpy()


_TORCH_DTYPES = {
    "torch.float32": "F32",
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
    "torch.float64": "F64",
    "torch.int64": "I64",
    "torch.int32": "I32",
    "torch.int16": "I16",
    "torch.int8": "I8",
    "torch.uint8": "U8",
    "torch.bool": "BOOL",
}


def open_source(folder: Path, weights: str | None = None) -> TensorSource:
    """Open the weights of a published folder.

    `model.bin` beside safetensors with other content is refused: the original toolkit used one or the other depending
    on how the folder was named.

    Args:
        folder: The published folder.
        weights: "safetensors" or "bin" where both are there. None selects safetensors if the other file holds the same
            tensors.

    Raises:
        UnreadableInput: There are no such weights, or a file is broken.
        InvalidInput: The choice is unknown, or the two files differ and none was chosen.
    """
    safetensors = _safetensors_files(folder)
    bins = [folder / name for name in (TOOLKIT_BIN, TORCH_BIN) if (folder / name).is_file()]
    if weights not in (None, "safetensors", "bin"):
        raise InvalidInput(f"unknown weights {weights!r}; choose safetensors or bin")
    if weights == "bin":
        if not bins:
            raise UnreadableInput(
                f"{folder} has neither {TOOLKIT_BIN} nor {TORCH_BIN}; leave the choice of weights out"
            )
        return TorchSource(bins[0])
    if not safetensors:
        if not bins or weights == "safetensors":
            raise UnreadableInput(
                f"{folder} has no weights: there is no {SINGLE}, {INDEX}"
                + ("" if bins else f", {TOOLKIT_BIN} or {TORCH_BIN}")
                + "; name a published folder or a converted one"
            )
        return TorchSource(bins[0])
    source = SafetensorsSource(safetensors)
    if weights is None:
        for path in bins:
            _refuse_other_weights(folder, source, path)
    return source


def open_as_transformers(folder: Path, weights: str | None = None) -> TensorSource:
    """Open the weights that transformers would load: safetensors come first if no choice is made.

    Raises:
        UnreadableInput: There are no such weights, or a file is broken.
        InvalidInput: The choice is unknown.
    """
    return open_source(folder, weights or ("safetensors" if _safetensors_files(folder) else None))


def _refuse_other_weights(folder: Path, source: SafetensorsSource, path: Path) -> None:
    choose = "choose with --weights safetensors or --weights bin (in Python weights=...)"
    try:
        other = TorchSource(path)
    except SpeechEmotionError as error:
        if path.name == TORCH_BIN and isinstance(error.__cause__, ImportError):
            return  # Many repositories hold both. Like transformers, take the safetensors without a comparison.
        raise InvalidInput(
            f"{folder} holds {path.name} beside {SINGLE}, and they could not be compared ({error}); {choose}"
        ) from error
    if (differing := _first_difference(source, other)) is not None:
        raise InvalidInput(f"{folder} holds {path.name} and {SINGLE}, which differ ({differing}); {choose}")


def _first_difference(one: TensorSource, other: TensorSource) -> str | None:
    for name in sorted(one.tensors.keys() ^ other.tensors.keys()):
        return f"only one of them has {name}"
    for name in one.tensors:
        if one.tensors[name] != other.tensors[name]:
            return f"{name} has another shape or dtype"
        (a,), (b,) = one.read([name]), other.read([name])
        if a.tobytes() != b.tobytes():
            return f"in {name}"
    return None


def _safetensors_files(folder: Path) -> tuple[Path, ...]:
    index = folder / INDEX
    if (folder / SINGLE).is_file():
        return (folder / SINGLE,)
    if not index.is_file():
        return ()
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise InvalidInput(f"{index} has no weight_map of tensor names to file names; fetch the folder again")
    shards = sorted(set(names.values()))
    for shard in shards:
        if Path(shard).name != shard or shard in ("", ".", ".."):
            raise InvalidInput(f"{index} names the shard {shard!r}, which is not a plain file name")
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        raise UnreadableInput(f"{folder} lacks {', '.join(missing)}, which {INDEX} names; fetch the folder again")
    return tuple(folder / shard for shard in shards)


def _safe_open(path: Path) -> Any:
    try:
        return safe_open(path, framework="np")
    except (SafetensorError, OSError) as error:
        raise UnreadableInput(f"{path} is not a whole safetensors file ({error}); fetch it again") from error


def _load_torch(path: Path) -> dict[str, Any]:
    try:
        import torch
    except ImportError as error:
        raise UnreadableInput(
            f"{path} is a torch file, and torch is not installed: pip install 'speech_emotion_jax[torch]'"
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of pickles that are read-only or of an old protocol.
        try:
            try:
                state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            except RuntimeError:  # Files from before torch 1.6 are no archives and can't be mapped.
                state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # Unpickling a broken file may raise anything.
            raise UnreadableInput(
                f"{path} is not a torch state dict that can be read without running code in it "
                f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no detail'}); fetch it again"
            ) from error
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items()
    ):
        raise InvalidInput(f"{path} holds something other than a state dict of tensors; save model.state_dict() alone")
    if unsupported := [
        name
        for name, tensor in state.items()
        if tensor.layout is not torch.strided or str(tensor.dtype) not in _TORCH_DTYPES
    ]:
        raise InvalidInput(
            f"{path} holds sparse or quantised tensors: {', '.join(unsupported)}; save them as plain floats"
        )
    return {name: tensor.detach().contiguous() for name, tensor in state.items()}


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        UnreadableInput: The file is missing or can't be read.
        InvalidInput: It is not a JSON object.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UnreadableInput(f"{path.parent} has no {path.name}; name a whole model folder") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableInput(f"{path} can't be read ({error}); fetch it again") from error
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise InvalidInput(f"{path} is not JSON ({error}); fetch it again") from error
    if not isinstance(value, dict):
        raise InvalidInput(f"{path} does not hold a JSON object; fetch it again")
    return value
