"""The command `speech-emotion-jax`: parse the line, run one verb, return an exit code.

Each verb imports what it needs when it runs, so --help answers at once.
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import Interrupted, InvalidInput, SpeechEmotionError
from ..runtime.console import PROGRAM, say
from ..runtime.versions import require_tested_versions
from . import chips, convert, corpora, evaluate, parity, predict, timeline, train, transcribe
from .help import example_of
from .interrupt import reraise_swallowed_interrupts
from .options import ComparisonFailed, Parser, PartlyFailed

GROUPS = (predict, timeline, transcribe, evaluate, train, corpora, convert, chips, parity)
SHELLS = ("bash", "zsh", "tcsh")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: the words after the program's name; None: those of this process.

    Returns:
        0: done. 1: a comparison failed. 2: the input can't be used. 3: part of the input can't be used, the rest is
        done. 130: interrupted by Ctrl-C. 143: ended by SIGTERM after the finished work was saved.
    """
    # A stream is None if the shell closed it.
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    try:
        with reraise_swallowed_interrupts():
            _run(arguments)
    except PartlyFailed as error:
        return _fail(error, 3)
    except ComparisonFailed as error:
        return _fail(error, 1)
    except Interrupted as error:
        return _fail(error, 128 + signal.SIGTERM)
    except SpeechEmotionError as error:
        return _fail(error, 2)
    except BrokenPipeError:  # the reader of our output, such as `head`, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        reason = f"{error.filename or 'the output'}: {error.strerror}"
        return _fail(f"{reason}; make room, give access or choose another", 2)
    except KeyboardInterrupt:
        return 130
    return 0


def _fail(message: object, code: int) -> int:
    say(str(message))
    return code


def _run(arguments: list[str] | None) -> None:
    parser = _parser()
    options, unknown = parser.parse_known_args(arguments)
    if unknown:  # parse_args would refer to the help of the program instead of the verb's
        raise InvalidInput(f"unrecognized arguments: {' '.join(unknown)}; see {PROGRAM} {options.name} --help")
    with _messages_on_stderr(verbose=options.verbose):
        require_tested_versions()
        if options.compile_cache:
            from ..runtime.compile_cache import enable_compile_cache

            enable_compile_cache()
        options.run(options)
    sys.stdout.flush()


def _parser() -> Parser:
    parser = Parser(
        prog=PROGRAM,
        description="Emotion of Spanish and English speech and text, in JAX.",
        epilog=f"`{PROGRAM} VERB --help` explains a verb. Tab completion: install the extra completion, then\n"
        f'`eval "$({PROGRAM} --print-completion bash)"` (or {", ".join(SHELLS[1:])}).',
    )
    parser.add_argument("--version", action=_PrintVersion, help="print the version")
    parser.add_argument(
        "--print-completion", action=_PrintCompletion, metavar="SHELL", help=f"print a script for {', '.join(SHELLS)}"
    )
    parser.set_defaults(compile_cache=False)
    verbs = parser.add_subparsers(required=True, metavar="VERB", dest="name")
    for group in GROUPS:
        group.add_verbs(verbs)
    for name, verb in verbs.choices.items():
        verb.epilog = example_of(name)
    return parser


class _PrintVersion(argparse.Action):
    """Print the version of the installed package. Its lookup takes time, so it is done on demand."""

    def __init__(self, option_strings: list[str], dest: str, help: str) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import version

        print(f"{PROGRAM} {version('speech_emotion_jax')}")
        parser.exit()


class _PrintCompletion(argparse.Action):
    """Print a shell's completion script, made from the parser by shtab."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, shell: Any, option: Any = None) -> None:
        if shell not in SHELLS:
            raise InvalidInput(f"there is no completion for {shell!r}; choose {', '.join(SHELLS)}")
        try:
            import shtab  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise InvalidInput(
                "completion scripts are made by shtab; pip install 'speech_emotion_jax[completion]'"
            ) from error
        print(shtab.complete(parser, shell))
        parser.exit()


@contextmanager
def _messages_on_stderr(*, verbose: bool) -> Iterator[None]:
    """Print logs and warnings as plain lines on stderr while a verb runs; stdout is for results."""
    logger = logging.getLogger("speech_emotion_jax")
    level, handler = logger.level, logging.StreamHandler(sys.stderr)
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
    logger.addHandler(handler)
    logger.propagate = False  # the root handler of absl, which Orbax imports, would print each line again
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = lambda message, *_: say(f"note: {message}")
            yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = True


if __name__ == "__main__":
    sys.exit(main())
