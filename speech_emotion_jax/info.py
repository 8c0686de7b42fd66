"""What is installed here, and what a checkpoint folder holds."""

from __future__ import annotations

import platform
from importlib.metadata import version
from math import prod
from pathlib import Path

from .checkpoints import cache_folder
from .convert.published import CONFIG, fitting_modes
from .convert.sources import open_source, read_json
from .errors import UnreadableInput
from .models.parameters import parameter_shapes
from .runtime.checkpoint import is_converted, read_record
from .runtime.devices import present_devices

Report = dict[str, str | list[str]]

PACKAGES = ("speech_emotion_jax", "jax", "jaxlib", "flax", "orbax-checkpoint", "transformers", "safetensors")


def describe_installation() -> Report:
    """Versions, devices and caches."""
    from huggingface_hub.constants import HF_HUB_CACHE

    converted = cache_folder()
    kept = sorted(str(path.parent.relative_to(converted)) for path in converted.glob("*/*/record.json"))
    return {
        "python": platform.python_version(),
        "versions": [f"{name} {version(name)}" for name in PACKAGES],
        "devices": [f"{device.platform}:{device.id} {device.device_kind}" for device in present_devices()],
        "downloads": str(HF_HUB_CACHE),
        "converted": str(converted),
        "kept there": kept,
    }


def describe_checkpoint(folder: Path) -> Report:
    """What a published or a converted folder is, and where it came from."""
    if not folder.is_dir():
        raise UnreadableInput(f"{folder} is no folder; name a published or a converted checkpoint")
    return _converted(folder) if is_converted(folder) else _published(folder)


def _converted(folder: Path) -> Report:
    record = read_record(folder)
    count = sum(prod(shape) for shape in parameter_shapes(record.config).values())
    report: Report = {
        "folder": f"{folder} (converted, schema {record.schema})",
        "mode": record.config.mode,
        "language": record.language,
        "labels": ", ".join(record.config.labels),
        "parameters": f"{count:,}",
    }
    for name, part in record.parts.items():
        report[name.replace("_", " ")] = [
            f"{part.id}, revision {part.revision or 'unknown (a local folder)'}, {len(part.tensors)} tensors",
            *(f"{file} sha256 {digest}" for file, digest in part.sha256.items()),
        ]
    return report


def _published(folder: Path) -> Report:
    source = open_source(folder)
    settings = read_json(folder / CONFIG)
    modes = fitting_modes(source.tensors)
    named = " or ".join(modes) if modes else "none: no emotion checkpoint"
    if len(modes) > 1:
        named += " (their tensors are the same; only its author can say which)"
    return {
        "folder": f"{folder} (published layout)",
        "mode": named,
        "labels": ", ".join(_named_labels(settings.get("id2label"))) or "not named",
        "parameters": f"{sum(prod(info.shape) for info in source.tensors.values()):,}",
        "tensors": str(len(source.tensors)),
        "files": [path.name for path in source.files],
    }


def _named_labels(table: object) -> list[str]:
    """The labels of config.json's id2label in the order of the outputs; none where it numbers no labels."""
    try:
        return [str(table[key]) for key in sorted(table, key=int)] if isinstance(table, dict) else []
    except ValueError:
        return []
