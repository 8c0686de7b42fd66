"""The errors that this package raises for input that a user can correct.

The command line prints the message of such an error and exits with 2. Every other exception is a bug and keeps its
traceback. A message is one sentence that names the input and says what to do.
"""


class SpeechEmotionError(Exception):
    """Base class of all errors with a message for the user."""


class InvalidInput(SpeechEmotionError, ValueError):
    """A value that can't be used: an unknown mode, a silent clip, weights that do not fit."""


class UnreadableInput(SpeechEmotionError, OSError):
    """A file, folder or download that is missing or broken."""


class UnsupportedVersion(SpeechEmotionError, ImportError):
    """The installed Python, JAX or Flax is outside the range that this package is tested with."""


class Interrupted(SpeechEmotionError):
    """A signal ended the program. Finished work is saved, and the same command continues from there."""
