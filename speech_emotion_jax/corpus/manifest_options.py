"""Parse the options that name the columns of a manifest and map its labels."""

from __future__ import annotations

import json

from ..errors import InvalidInput, UnreadableInput
from .manifest import FIELDS
from .manifest_formats import open_bytes


def parse_columns(text: str) -> dict[str, str]:
    """Parse an option such as "filename=path,label=emotion".

    Args:
        text: FIELD=COLUMN, separated by commas.

    Returns:
        {field: column}.

    Raises:
        InvalidInput: A field is unknown or named twice, or a column is missing.
    """
    columns = _pairs(text, "columns", "filename=path,label=emotion")
    unknown = [field for field in columns if field not in FIELDS]
    empty = [field for field, column in columns.items() if not column]
    if unknown or empty:
        raise InvalidInput(
            f"the columns {text!r} don't say which column is {', '.join(unknown + empty)};"
            f" give FIELD=COLUMN, where a field is one of {', '.join(FIELDS)}"
        )
    return columns


def load_label_map(text: str) -> dict[str, str]:
    """Load a label map from an option such as "calm=neutral,happy=joy", or from a JSON file.

    Args:
        text: FROM=TO, separated by commas, or the path of a .json file that holds one object.

    Returns:
        {label in the manifest: label to use}, "" for no label.

    Raises:
        InvalidInput: The text or the file is not a label map.
        UnreadableInput: The file cannot be read.
    """
    if not text.endswith(".json"):
        return _pairs(text, "label map", "calm=neutral,happy=joy")
    try:
        with open_bytes(text) as file:
            label_map = json.loads(file.read().decode("utf-8-sig"))
    except ValueError as error:
        raise UnreadableInput(
            f'{text} is not JSON ({error}); give an object of labels like {{"calm": "neutral"}}'
        ) from error
    if not isinstance(label_map, dict) or not all(isinstance(to, str | None) for to in label_map.values()):
        raise InvalidInput(f'{text} is not a label map; give an object of labels like {{"calm": "neutral"}}')
    return {label: to or "" for label, to in label_map.items()}


def _pairs(text: str, what: str, example: str) -> dict[str, str]:
    """Parse NAME=VALUE, separated by commas."""
    pairs = [part.partition("=") for part in text.split(",")]
    names = [name.strip() for name, _, _ in pairs]
    if not all(sign for _, sign, _ in pairs) or not all(names) or len(set(names)) < len(names):
        raise InvalidInput(f"the {what} {text!r} can't be used; give each name once, like {example}")
    return {name: value.strip() for name, (_, _, value) in zip(names, pairs, strict=True)}
