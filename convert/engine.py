"""Convert a published checkpoint to a converted folder, and write a converted folder back as a published one."""

from __future__ import annotations

import shutil
from pathlib import Path

import jax
import numpy as np
from jax.sharding import SingleDeviceSharding
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..errors import UnreadableInput
from ..runtime.atomic import atomic_folder, check_disk_space
from ..runtime.orbax_arrays import load_parameters, save_parameters
from ..runtime.progress import progress
from .published import PublishedCheckpoint, Table, common_dtype, tables_of
from .record import MODEL, RECORD, TEXT_ENCODER, UNUSED, Record, RecordPart, file_sizes, read_record
from .rules import Matching, TensorInfo, listed_problems, match
from .sources import SINGLE

OVERHEAD = 2**15  # Bytes on disk per array besides its values: folders, metadata, partly used blocks.
METADATA = {"format": "pt"}  # transformers refuses files without it.


def convert(published: PublishedCheckpoint, destination: Path) -> None:
    """Write a published checkpoint as one converted folder. Nothing is left behind if it fails.

    Raises:
        InvalidInput: The destination exists, or a tensor is not finite.
        UnreadableInput: The destination can't be written.
    """
    with atomic_folder(destination) as folder:
        total = sum(len(part.source.tensors) for part in published.parts.values())
        with progress("Reading tensors", total) as advance:
            parameters = dict(published.parameters(advance))
        with progress("Writing the checkpoint"):
            check_disk_space(folder, sum(array.nbytes + OVERHEAD for array in parameters.values()))
            save_parameters(folder, parameters)
        del parameters
        parts = {}
        for name, part in published.parts.items():
            place = _place(folder, name)
            place.mkdir(exist_ok=True)
            for asset in part.assets:
                shutil.copyfile(part.origin.folder / asset, place / asset)
            save_tensors({key: np.array(tensor) for key, tensor in part.unused()}, place / UNUSED)
            tensors = {key: (info.dtype, info.shape) for key, info in part.source.tensors.items()}
            with progress(f"Taking checksums of {part.origin.id}"):
                parts[name] = RecordPart(part.origin.id, part.origin.revision, part.source.sha256(), tensors)
        # The record is written last, because a folder with a record counts as complete.
        record = Record(published.language, published.config, parts, file_sizes(folder))
        (folder / RECORD).write_text(record.to_json(), encoding="utf-8")


def write_safetensors(folder: Path, destination: Path) -> None:
    """Write a converted checkpoint in the published layout, every tensor bit for bit as it was in the source.

    The destination gets model.safetensors with its configuration, and in the fusion modes text_encoder/ with the frozen
    text encoder and its tokenizer.

    Raises:
        InvalidInput: The destination exists.
        UnreadableInput: The folder is not a complete converted checkpoint, or the destination can't be written.
    """
    record = read_record(folder)
    matchings = {name: _matching(record, name, table) for name, table in tables_of(record.config).items()}
    on_host = SingleDeviceSharding(jax.devices("cpu")[0])
    structs = {}
    for name, matching in matchings.items():
        for assignment in matching.assignments:
            dtype = common_dtype([_info(record, name, tensor) for tensor in assignment.names])
            structs[assignment.target] = jax.ShapeDtypeStruct(assignment.shape, dtype, sharding=on_host)
    with atomic_folder(destination) as out:
        with progress("Reading the checkpoint"):
            parameters = load_parameters(folder, structs)
        for name, matching in matchings.items():
            place = _place(out, name)
            place.mkdir(exist_ok=True)
            for asset in _place(folder, name).iterdir():
                if asset.is_file() and asset.name not in (RECORD, UNUSED):
                    shutil.copyfile(asset, place / asset.name)
            with progress(f"Writing {_place(destination, name) / SINGLE}"):
                save_tensors(_tensors(record, name, matching, parameters, _place(folder, name)), place / SINGLE)


def save_tensors(tensors: dict[str, np.ndarray], path: Path) -> None:
    """Write a safetensors file with the permissions of a new file.

    Raises:
        OSError: The file can't be written.
    """
    try:
        path.touch()
        permissions = path.stat().st_mode
        save_file(tensors, path, METADATA)
        path.chmod(permissions)  # safetensors creates a file that only its owner can read.
    except SafetensorError as error:  # Raised for a full disk, among others.
        raise OSError(str(error)) from error


def _place(folder: Path, part: str) -> Path:
    return folder if part == MODEL else folder / TEXT_ENCODER


def _info(record: Record, part: str, tensor: str) -> TensorInfo:
    return TensorInfo(*record.parts[part].tensors[tensor])


def _matching(record: Record, part: str, table: Table) -> Matching:
    tensors = {name: _info(record, part, name) for name in record.parts[part].tensors}
    matching, problems = match(table.layout, tensors, table.shapes)
    if problems:
        raise UnreadableInput(f"the record lists other tensors than the model has: {listed_problems(problems)}")
    return matching


def _tensors(
    record: Record, part: str, matching: Matching, parameters: dict[str, jax.Array], folder: Path
) -> dict[str, np.ndarray]:
    tensors: dict[str, np.ndarray] = {}
    for assignment in matching.assignments:
        parameter = np.asarray(parameters.pop(assignment.target))
        for name, item in zip(assignment.names, parameter if assignment.stacked else parameter[None], strict=True):
            dtype = common_dtype([_info(record, part, name)])
            tensors[name] = np.ascontiguousarray(assignment.transform.inverse(item).astype(dtype, copy=False))
    with safe_open(folder / UNUSED, framework="np") as file:
        tensors |= {name: file.get_tensor(name) for name in matching.unused}
    return tensors
