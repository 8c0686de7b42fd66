"""HTML pages, rendered from the template `page.html.jinja` of a wing. A page needs no other file."""

from __future__ import annotations

from importlib.resources import files
from typing import Any


def render_page(wing: str, **content: Any) -> bytes:
    """Render `page.html.jinja` of a wing.

    Args:
        wing: the dotted name of the package that holds the template.
        **content: a value for every name in the template. Values are escaped.

    Returns:
        The page in UTF-8.

    Raises:
        jinja2.UndefinedError: if the template names something that is not given.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    source = files(wing).joinpath("page.html.jinja").read_text(encoding="utf-8")
    html = environment.from_string(source).render(**content)
    return html.encode("utf-8", "replace")  # a file name that is not UTF-8 contains lone surrogates
