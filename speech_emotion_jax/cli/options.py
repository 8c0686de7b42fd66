"""The parser of all verbs, and the flags that several verbs share.

Each group of flags is an argparse parent, so a flag has one name, one type and one help text wherever it appears.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, NoReturn

from ..errors import InvalidInput, SpeechEmotionError
from ..registry import LANGUAGES, MODES
from ..runtime.addresses import check_address, disk_path
from ..runtime.console import as_json, show
from ..runtime.paths import find_path
from .help import GROUP_OF

if TYPE_CHECKING:
    from ..checkpoints import Request


class PartlyFailed(SpeechEmotionError):
    """Some of many inputs could not be used. The results of the others are complete."""


class ComparisonFailed(SpeechEmotionError):
    """The comparison was made, and the two sides differ by more than the tolerance."""


class Parser(argparse.ArgumentParser):
    """An argument parser that sorts flags into groups and reports a mistake in one line, without the usage."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        """Make a parser with all groups, in the order in which --help shows those that have a flag."""
        self._groups: dict[str | None, Any] = {}
        super().__init__(*args, **{"formatter_class": argparse.RawDescriptionHelpFormatter, **settings})
        for title in dict.fromkeys(GROUP_OF.values()):
            self.add_argument_group(title)

    def add_argument_group(self, title: str | None = None, *args: Any, **settings: Any) -> Any:
        """Add a group, or return the one of that title."""
        if title not in self._groups:
            self._groups[title] = super().add_argument_group(title, *args, **settings)
        return self._groups[title]

    def add_argument(self, *names: Any, **settings: Any) -> argparse.Action:
        """Add a flag to its group, or anything else where argparse puts it."""
        title = GROUP_OF.get(names[0]) if names else None
        if title is None:
            return super().add_argument(*names, **settings)
        return self.add_argument_group(title).add_argument(*names, **settings)

    def error(self, message: str) -> NoReturn:
        """Raise InvalidInput with the message and where to read more."""
        raise InvalidInput(f"{message}; see {self.prog} --help")


def parse_names(value: str) -> tuple[str, ...]:
    """Parse the value of a flag that takes names: "A,B"."""
    return tuple(name.strip() for name in value.split(","))


def parse_numbers(value: str) -> tuple[float, ...]:
    """Parse the value of a flag that takes numbers: "5,10".

    Raises:
        argparse.ArgumentTypeError: if a part is not a number.
    """
    try:
        return tuple(float(number) for number in value.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{value!r} is no list of numbers") from error


def disk_place(value: str) -> str:
    """Parse the value of a flag for a file or folder that has to be on a disk.

    Raises:
        argparse.ArgumentTypeError: if it is an address.
    """
    try:
        return find_path(disk_path(value))
    except SpeechEmotionError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def any_place(value: str) -> str:
    """Parse the value of a flag for a file, folder or hub id, which may be an address such as gs://bucket/folder.

    Raises:
        argparse.ArgumentTypeError: if no installed package serves the address, or it is half of one.
    """
    try:
        return find_path(check_address(value))
    except SpeechEmotionError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


COMMON = Parser(add_help=False)
COMMON.add_argument("--verbose", action="store_true", help="log every step, including each compilation")

JSON = Parser(add_help=False)
JSON.add_argument("--json", action="store_true", help="print the result as JSON")

CHECKPOINT_NAME = Parser(add_help=False)
CHECKPOINT_NAME.add_argument("--mode", help=f"{', '.join(MODES)} (default: that of a converted folder, else text)")
CHECKPOINT_NAME.add_argument(
    "--language", help=f"{' or '.join(LANGUAGES)} (default: that of a converted folder, else es)"
)
CHECKPOINT_NAME.add_argument(
    "--model-id",
    type=any_place,
    metavar="ID",
    help="hub id, published or converted folder, or bucket (default: by mode and language)",
)
CHECKPOINT_NAME.add_argument(
    "--model-config", type=disk_place, metavar="FILE", help="model.json with a checkpoint for each mode"
)

CHECKPOINT_FILES = Parser(add_help=False)
CHECKPOINT_FILES.add_argument(
    "--text-encoder", type=any_place, metavar="ID", help="frozen text encoder of the fusion modes (hub id or folder)"
)
CHECKPOINT_FILES.add_argument("--revision", help="branch, tag or commit of a hub id")
CHECKPOINT_FILES.add_argument("--weights", metavar="KIND", help="safetensors or bin, if a folder has both")
CHECKPOINT_FILES.add_argument(
    "--labels", type=parse_names, metavar="A,B,...", help="names of the outputs, instead of those in config.json"
)

AUDIO_ROOT = Parser(add_help=False)
AUDIO_ROOT.add_argument(
    "--audio-root",
    type=any_place,
    metavar="DIR",
    help="folder that file names are relative to (default: the manifest's folder)",
)
AUDIO_ROOT.add_argument("--time-unit", default="s", metavar="UNIT", help="unit of start and end: s (default) or ms")

CHANNEL = Parser(add_help=False)
CHANNEL.add_argument(
    "--channel", type=int, metavar="N", help="channel of the recordings, 0 for the first (default: the mean of all)"
)

COLUMNS = Parser(add_help=False)
COLUMNS.add_argument("--columns", metavar="FIELD=NAME,...", help="the manifest's column for a field: label=emotion,...")

LABEL_MAP = Parser(add_help=False)
LABEL_MAP.add_argument(
    "--label-map", type=any_place, metavar="FROM=TO,...", help="labels to rename (calm=neutral), or a JSON file"
)

HOSTS = Parser(add_help=False)
HOSTS.add_argument("--distributed", action="store_true", help="join the other hosts of a TPU pod or cluster")
HOSTS.add_argument("--coordinator", metavar="ADDRESS:PORT", help="address of host 0, if the cluster does not tell it")
HOSTS.add_argument("--hosts", type=int, metavar="N", help="number of hosts")
HOSTS.add_argument("--host", type=int, metavar="K", help="index of this host, from 0")

BOOTSTRAP = Parser(add_help=False)
BOOTSTRAP.add_argument(
    "--group-by", metavar="COLUMN", help="resample whole groups of clips: the column of speaker or video"
)
BOOTSTRAP.add_argument("--resamples", type=int, default=1000, metavar="N", help="bootstrap resamples (default: 1000)")
BOOTSTRAP.add_argument("--seed", type=int, default=0, help="seed of the bootstrap (default: 0)")

RECORDINGS_AND_TEXTS = Parser(add_help=False)
RECORDINGS_AND_TEXTS.add_argument("--audio", type=disk_place, nargs="+", default=(), metavar="FILE", help="recordings")
RECORDINGS_AND_TEXTS.add_argument(
    "--text", nargs="+", default=(), metavar="WORDS", help="the words said: a quoted text for each recording, or one"
)


def checkpoint_request(options: argparse.Namespace) -> Request:
    """Return the checkpoint that the flags name: --model-id, or the one of the mode and the language."""
    from ..checkpoints import Request
    from ..registry import read_registry

    registry = read_registry(options.model_config)
    model_id, mode, language = options.model_id, options.mode, options.language
    if model_id is None:
        mode, language = mode or "text", language or "es"
        model_id = registry.model_id(language, mode)
    return Request(
        model_id,
        mode=mode,
        language=language,
        text_encoder=options.text_encoder,
        revision=options.revision,
        weights=options.weights,
        labels=options.labels,
        registry=registry,
    )


def columns(options: argparse.Namespace) -> dict[str, str]:
    """Return {field: column} of --columns."""
    from ..corpus import parse_columns

    return dict(parse_columns(options.columns)) if options.columns else {}


def label_map(options: argparse.Namespace) -> dict[str, str]:
    """Return {label: new label} of --label-map."""
    from ..corpus import load_label_map

    return dict(load_label_map(options.label_map)) if options.label_map else {}


def connect_hosts(options: argparse.Namespace) -> None:
    """Join the other hosts if the flags name them.

    Raises:
        InvalidInput: if --hosts or --host is given without --coordinator.
    """
    from ..runtime.hosts import connect

    if options.distributed or options.coordinator is not None:
        connect(options.coordinator, options.hosts, options.host)
    elif options.hosts is not None or options.host is not None:
        raise InvalidInput("--hosts and --host need --coordinator, which names the address and port of host 0")


def show_result(options: argparse.Namespace, data: Any, text: str, *outputs: str | None) -> None:
    """Print a result as JSON or text, and with the text the files and folders it was written to.

    Args:
        options: the parsed command line; --json chooses the form.
        data: the result as JSON values.
        text: the result for a person.
        *outputs: paths that were written; None if a flag was not given.
    """
    show(as_json(data) if options.json else "\n".join([text, *(f"wrote {path}" for path in outputs if path)]))
