"""Published folder to converted checkpoint, and back."""

from __future__ import annotations

import shutil
from pathlib import Path

import jax
import numpy as np
from jax.sharding import SingleDeviceSharding
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..errors import UnreadableInput
from ..runtime.atomic import ask_for_room, umask, whole_folder
from ..runtime.orbax_arrays import load_parameters, save_parameters
from ..runtime.progress import progress
from .published import Published, Table, common_dtype, tables_of
from .record import MODEL, RECORD, TEXT_ENCODER, UNUSED, Part, Record, file_sizes, read_record
from .rules import Matching, TensorInfo, match
from .sources import SINGLE

OVERHEAD = 2**15  # bytes on disk besides an array's own: its folders, its description, whole blocks
METADATA = {"format": "pt"}  # as torch's users write it; transformers refuses files without


def convert(published: Published, destination: Path) -> None:
    """Write a published checkpoint as one converted folder.

    Raises InvalidInput where the destination exists or a tensor is not finite and UnreadableInput where it can't be
    written; nothing is left behind then.
    """
    with whole_folder(destination) as folder:
        total = sum(len(part.source.tensors) for part in published.parts.values())
        with progress("Reading tensors", total) as advance:
            parameters = dict(published.parameters(advance))
        with progress("Writing the checkpoint"):
            ask_for_room(folder, sum(array.nbytes + OVERHEAD for array in parameters.values()))
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
                parts[name] = Part(part.origin.id, part.origin.revision, part.source.sha256(), tensors)
        # Last, since it is what makes a folder load.
        record = Record(published.language, published.config, parts, file_sizes(folder))
        (folder / RECORD).write_text(record.to_json(), encoding="utf-8")


def write_safetensors(folder: Path, destination: Path) -> None:
    """Write a converted checkpoint back in the published layout, every tensor bit for bit as it came.

    DEST/model.safetensors with its configuration, and the frozen text encoder with its tokenizer in DEST/text_encoder/.
    """
    record = read_record(folder)
    matchings = {name: _matching(record, name, table) for name, table in tables_of(record.config).items()}
    on_host = SingleDeviceSharding(jax.devices("cpu")[0])
    wanted = {}
    for name, matching in matchings.items():
        for filled in matching.filled:
            dtype = common_dtype([_info(record, name, tensor) for tensor in filled.names])
            wanted[filled.target] = jax.ShapeDtypeStruct(filled.shape, dtype, sharding=on_host)
    with whole_folder(destination) as out:
        with progress("Reading the checkpoint"):
            parameters = load_parameters(folder, wanted)
        for name, matching in matchings.items():
            place = _place(out, name)
            place.mkdir(exist_ok=True)
            for asset in _place(folder, name).iterdir():
                if asset.is_file() and asset.name not in (RECORD, UNUSED):
                    shutil.copyfile(asset, place / asset.name)
            with progress(f"Writing {_place(destination, name) / SINGLE}"):
                save_tensors(_tensors(record, name, matching, parameters, _place(folder, name)), place / SINGLE)


def save_tensors(tensors: dict[str, np.ndarray], path: Path) -> None:
    """Write a safetensors file. Raises OSError where it can't be written."""
    try:
        save_file(tensors, path, METADATA)
        path.chmod(0o666 & ~umask())  # safetensors makes private files
    except SafetensorError as error:  # which a full disk is, too
        raise OSError(str(error)) from error


def _place(folder: Path, part: str) -> Path:
    return folder if part == MODEL else folder / TEXT_ENCODER


def _info(record: Record, part: str, tensor: str) -> TensorInfo:
    return TensorInfo(*record.parts[part].tensors[tensor])


def _matching(record: Record, part: str, table: Table) -> Matching:
    tensors = {name: _info(record, part, name) for name in record.parts[part].tensors}
    matching, problems = match(table.layout, tensors, table.shapes)
    if problems:
        raise UnreadableInput(f"the record lists other tensors than the model has: {'; '.join(problems)}")
    return matching


def _tensors(
    record: Record, part: str, matching: Matching, parameters: dict[str, jax.Array], folder: Path
) -> dict[str, np.ndarray]:
    tensors: dict[str, np.ndarray] = {}
    for filled in matching.filled:
        parameter = np.asarray(parameters.pop(filled.target))
        for name, item in zip(filled.names, parameter if filled.stacked else parameter[None], strict=True):
            dtype = common_dtype([_info(record, part, name)])
            tensors[name] = np.ascontiguousarray(filled.transform.inverse(item).astype(dtype, copy=False))
    with safe_open(folder / UNUSED, framework="np") as file:
        tensors |= {name: file.get_tensor(name) for name in matching.unused}
    return tensors
