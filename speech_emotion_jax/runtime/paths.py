"""Find files whose names have letters in another form. macOS writes n and a tilde where Linux and Windows write ñ."""

from __future__ import annotations

import os
import unicodedata


def find_path(path: str) -> str:
    """Return the path of a file whose name looks like the given one, or the path itself if there is none.

    Args:
        path: A path. Its folders' names may be in another form, too.
    """
    if path.isascii() or "\0" in path or os.path.lexists(path):
        return path
    for form in ("NFC", "NFD"):
        if os.path.lexists(other := unicodedata.normalize(form, path)):
            return other
    folder, name = os.path.split(path)
    if folder == path:
        return path
    folder = find_path(folder) if folder else folder
    try:
        names = os.listdir(folder or ".")
    except OSError:
        return path
    alike = [each for each in names if unicodedata.normalize("NFC", each) == unicodedata.normalize("NFC", name)]
    return os.path.join(folder, alike[0]) if alike else path
