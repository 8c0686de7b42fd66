"""Sphinx configuration of the documentation site."""

import importlib.metadata
import re

project = "speech_emotion_jax"
author = "The speech_emotion_jax authors"
release = importlib.metadata.version("speech_emotion_jax")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton", "sphinxarg.ext"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3
myst_links_external_new_tab = True
nb_execution_mode = "force"
nb_execution_raise_on_error = True
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


def setup(app):
    app.connect("autodoc-process-docstring", escape_shapes, priority=1000)
