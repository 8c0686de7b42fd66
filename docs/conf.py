"""Sphinx configuration of the documentation site."""

import importlib.metadata
import re
from pathlib import Path

project = "speech_emotion_jax"
author = "The speech_emotion_jax authors"
release = importlib.metadata.version("speech_emotion_jax")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton", "sphinxarg.ext"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3
myst_links_external_new_tab = True
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_in_temp = True  # what a notebook writes does not stay
nb_execution_timeout = 120
nb_output_stderr = "remove"  # progress
autodoc_typehints = "description"
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = "sphinx_book_theme"
html_title = "speech_emotion_jax"
html_theme_options = {"show_toc_level": 2}
copybutton_prompt_text = r">>> |\$ "
copybutton_prompt_is_regexp = True


def escape_shapes(app, what, name, obj, options, lines):
    """Keep the star of a shape such as (*batch, frames) from starting emphasis."""
    lines[:] = [re.sub(r"(?<![*\\`])\*(?=\w)", r"\\*", line) for line in lines]


def body(path):
    """Return a page without the front matter of a notebook."""
    return re.sub(r"\A---\n.*?\n---\n\s*", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)


def llms_text(folder):
    """Return the site's llms.txt (llmstxt.org): each page with its title and whom it is for."""
    lines = ["# speech_emotion_jax", "", "> Emotion recognition from Spanish and English speech and text, in JAX.", ""]
    for path in sorted(folder.rglob("*.md"), key=lambda path: (len(path.relative_to(folder).parts), path)):
        name = path.relative_to(folder).with_suffix("")
        if name.parts[0] in ("benchmarks", "site"):
            continue
        title, *paragraphs = [part.strip() for part in body(path).split("\n\n")]
        first = " ".join(paragraphs[0].split()) if paragraphs and not paragraphs[0].startswith("```") else ""
        lines.append(f"- [{title.splitlines()[-1].lstrip('# ')}]({name}.html): {first}".rstrip(": "))
    return "\n".join(lines) + "\n"


def write_llms_text(app, error):
    if error is None and app.builder.name == "html":
        (Path(app.outdir) / "llms.txt").write_text(llms_text(Path(app.srcdir)), encoding="utf-8")


def setup(app):
    app.connect("autodoc-process-docstring", escape_shapes, priority=1000)
    app.connect("build-finished", write_llms_text)
