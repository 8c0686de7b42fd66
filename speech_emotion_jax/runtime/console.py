"""Output of the command line: results on stdout, messages on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

PROGRAM = "speech-emotion-jax"


def as_json(value: Any) -> str:
    r"""Encode a value as JSON, with é as it is if stdout is UTF-8, and as \u00e9 if it is not."""
    return json.dumps(value, ensure_ascii=(sys.stdout.encoding or "").lower().replace("-", "") != "utf8")


def align_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Align a table for a terminal.

    Args:
        rows: the cells, the same number in each row.

    Returns:
        A line for each row. The first column is aligned to the left, the others to the right. Nothing wraps, whatever
        the terminal's width, so that a line of a log or a pipe is a row.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return lines


def show(result: str) -> None:
    """Print a result to stdout, with ? for letters that its encoding lacks."""
    encoding = sys.stdout.encoding or "utf-8"
    print(result.encode(encoding, "replace").decode(encoding))


def say(message: str) -> None:
    """Print a message to stderr as one line.

    Line breaks in the message, such as those of a file name, become spaces. Only a line break before an indented line
    stays: it begins an entry of a list.
    """
    lines = [" ".join(line.split()) for line in message.split("\n  ")]
    print(f"{PROGRAM}: " + "\n  ".join(lines), file=sys.stderr)
