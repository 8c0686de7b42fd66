"""What this package raises for input that a person can mend.

The command line prints the message of these and exits with 2; every other exception is a bug and keeps its traceback.
A message is one sentence that names the input and says what to do.
"""


class SpeechEmotionError(Exception):
    """Base of all errors that speak to the user."""


class InvalidInput(SpeechEmotionError, ValueError):
    """The value given can't be used: an unknown mode, a silent clip, weights that don't fit."""


class UnreadableInput(SpeechEmotionError, OSError):
    """A file, folder or download that is missing or broken."""


class Interrupted(SpeechEmotionError):
    """A signal asked for the end; what was done is saved, and the same command goes on from there."""
