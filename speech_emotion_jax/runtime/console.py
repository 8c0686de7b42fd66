"""What the command line says and reads: results on stdout, messages on stderr, flags."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from ..errors import InvalidInput, SpeechEmotionError

PROGRAM = "speech-emotion-jax"


class PartlyFailed(SpeechEmotionError):
    """Some inputs of many could not be used; the others were."""


class Differing(SpeechEmotionError):
    """A comparison was made, and it failed."""


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        raise InvalidInput(f"{message}; see {self.prog} --help")


def names(value: str) -> tuple[str, ...]:
    """A,B,... as a flag's value."""
    return tuple(label.strip() for label in value.split(","))


def as_json(value: Any) -> str:
    """In plain letters where stdout takes them: é, and not \\u00e9."""
    return json.dumps(value, ensure_ascii=(sys.stdout.encoding or "").lower().replace("-", "") != "utf8")


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """A line a row: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return lines


def show(result: str) -> None:
    """To stdout, in whatever encoding it has."""
    encoding = sys.stdout.encoding or "utf-8"
    print(result.encode(encoding, "replace").decode(encoding))


def say(message: str) -> None:
    """To stderr: a sentence in one line, whatever it quotes; the indented lines of a list in lines of their own."""
    lines = [" ".join(line.split()) for line in message.split("\n  ")]
    print(f"{PROGRAM}: " + "\n  ".join(lines), file=sys.stderr)
