"""The recipes of this package, by name."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from ..errors import InvalidInput


def find_recipe(name: str) -> Path:
    """Return the file of a recipe.

    Args:
        name: a path, or the name of a recipe in this package's folder `configs`, such as "es-concat". A file of that
            name in the working directory is preferred.

    Returns:
        The path of a TOML file. A path that ends in .toml need not exist.

    Raises:
        InvalidInput: if there is no such file and no such recipe. The message lists the known names.
    """
    path = Path(name)
    if path.exists() and not path.is_dir():
        return path
    configs = Path(str(files("speech_emotion_jax") / "configs"))
    known = {file.relative_to(configs).with_suffix("").as_posix(): file for file in sorted(configs.rglob("*.toml"))}
    if recipe := known.get(name.removesuffix(".toml")):
        return recipe
    if path.suffix == ".toml":
        return path
    raise InvalidInput(f"there is no recipe {name!r}; name a TOML file or one of {', '.join(known)}")
