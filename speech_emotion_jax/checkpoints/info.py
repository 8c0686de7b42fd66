"""Describe what is installed here, and what a checkpoint folder holds."""

from __future__ import annotations

import platform
from math import prod
from pathlib import Path
from typing import Any

from ..config import WHISPER_SIZES, Architecture, WhisperConfig
from ..convert import (
    CONFIG,
    GENERATION,
    TensorSource,
    compatible_modes,
    is_converted,
    is_whisper,
    open_as_transformers,
    open_source,
    read_json,
    read_record,
)
from ..errors import InvalidInput, UnreadableInput
from ..models import abstract_model, parameter_shapes, parameters_of, table
from ..models.kernels.pallas import SWITCH, kernels_enabled
from ..runtime.cache_folder import cache_folder
from ..runtime.compile_cache import cached_programs, compile_cache_folder
from ..runtime.devices import present_devices
from ..runtime.parameter_tree import nest
from ..runtime.versions import versions

Report = dict[str, str | list[str]]

PACKAGES = ("speech_emotion_jax", "jax", "jaxlib", "flax", "orbax-checkpoint", "transformers", "safetensors")


def describe_installation() -> Report:
    """Describe versions, devices and caches.

    Returns:
        {title: text, or a list of texts}, in the order in which they are printed.
    """
    from huggingface_hub.constants import HF_HUB_CACHE

    converted = cache_folder()
    conversions = sorted(str(path.parent.relative_to(converted)) for path in converted.glob("*/*/record.json"))
    return {
        "python": platform.python_version(),
        "versions": [f"{name} {number}" for name, number in versions(*PACKAGES).items()],
        "devices": [f"{device.platform}:{device.id} {device.device_kind}" for device in present_devices()],
        "kernels": "where they fit" if kernels_enabled() else f"none, as {SWITCH} is off",
        "downloads": str(HF_HUB_CACHE),
        "converted": str(converted),
        "kept there": conversions,
        "compiled": _programs(),
    }


def _programs() -> str:
    folder = compile_cache_folder()
    if folder is None:
        return "not kept, as JAX_ENABLE_COMPILATION_CACHE is false"
    sizes = cached_programs(folder)
    return f"{folder} ({len(sizes)} program{'s' * (len(sizes) != 1)}, {sum(sizes.values()) / 1e6:.1f} MB)"


def describe_checkpoint(folder: Path, depth: int | None = None) -> Report:
    """Describe a published or converted folder and where it came from.

    Args:
        folder: The folder.
        depth: Add a table of the parameters of a converted folder, in which all that share the first `depth` names of
            their path are one row. None adds no table.

    Returns:
        {title: text, or a list of texts}, in the order in which they are printed.

    Raises:
        InvalidInput: A table is asked for a folder that is not converted, or a file can't be used.
        UnreadableInput: The folder is missing or broken.
    """
    if not folder.is_dir():
        raise UnreadableInput(f"{folder} is not a folder; name a published or a converted checkpoint")
    if not is_converted(folder):
        if depth is not None:
            raise InvalidInput(f"{folder} is not converted, and a table of its parameters needs its mode; convert it")
        return _published(folder)
    if depth is None:
        return _converted(folder)
    tree = nest(parameters_of(abstract_model(read_record(folder).config)))
    return _converted(folder) | {"table": table(tree, depth).splitlines()}


def _converted(folder: Path) -> Report:
    record = read_record(folder)
    config = record.config
    report: Report = {"folder": f"{folder} (converted, schema {record.schema})"}
    if isinstance(config, WhisperConfig):
        report |= _whisper(folder, config)
    else:
        report |= {"mode": config.mode, "language": str(record.language), "labels": ", ".join(config.labels)}
    report["parameters"] = f"{_count(config):,}"
    for name, part in record.parts.items():
        report[name.replace("_", " ")] = [
            f"{part.id}, revision {part.revision or 'unknown (a local folder)'}, {len(part.tensors)} tensors",
            *(f"{file} sha256 {digest}" for file, digest in part.sha256.items()),
        ]
    return report


def _published(folder: Path) -> Report:
    settings = read_json(folder / CONFIG)
    report: Report = {"folder": f"{folder} (published layout)"}
    if is_whisper(settings):
        config = WhisperConfig.from_json(settings)
        source = open_as_transformers(folder)
        report |= _whisper(folder, config)
        report["parameters"] = f"{_count(config):,}"
    else:
        source = open_source(folder)
        report |= _emotion(settings, source)
    return report | {"tensors": str(len(source.tensors)), "files": [path.name for path in source.files]}


def _emotion(settings: dict[str, Any], source: TensorSource) -> Report:
    modes = compatible_modes(source.tensors)
    description = " or ".join(modes) if modes else "none: no emotion checkpoint"
    if len(modes) > 1:
        description += " (their tensors are the same; only its author can say which)"
    return {
        "mode": description,
        "labels": ", ".join(_named_labels(settings.get("id2label"))) or "not named",
        "parameters": f"{sum(prod(info.shape) for info in source.tensors.values()):,}",
    }


def _whisper(folder: Path, config: WhisperConfig) -> Report:
    sizes = [name for name, size in WHISPER_SIZES.items() if size == config]
    layers = f"{config.encoder_layers} + {config.decoder_layers} layers, {config.d_model} wide"
    return {
        "kind": "Whisper, a transcriber",
        "size": f"{' or '.join(sizes) or 'none of the published ones'} ({layers})",
        "languages": _languages(folder),
        "mel bins": str(config.num_mel_bins),
    }


def _languages(folder: Path) -> str:
    """Return how many languages generation_config.json names."""
    settings = read_json(folder / GENERATION) if (folder / GENERATION).is_file() else {}
    if isinstance(languages := settings.get("lang_to_id"), dict):
        return str(len(languages))
    return "1, English" if settings.get("is_multilingual") is False else f"not named in {GENERATION}"


def _count(config: Architecture) -> int:
    return sum(map(prod, parameter_shapes(config).values()))


def _named_labels(table: object) -> list[str]:
    """Return the labels of config.json's id2label in the order of the outputs, or none if it does not number them."""
    try:
        return [str(table[key]) for key in sorted(table, key=int)] if isinstance(table, dict) else []
    except ValueError:
        return []
