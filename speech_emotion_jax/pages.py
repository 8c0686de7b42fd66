"""Pages that stand alone: one HTML file each, made from a template beside the modules."""

from __future__ import annotations

from importlib.resources import files
from typing import Any


def page(template: str, **content: Any) -> bytes:
    """The page of a template in this package; what is put into it is escaped, and all that it names must be given."""
    from jinja2 import Environment, StrictUndefined

    world = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    source = files("speech_emotion_jax").joinpath(template).read_text(encoding="utf-8")
    return world.from_string(source).render(**content).encode("utf-8", "replace")  # an argument may be no text
