"""The tokens of a Whisper checkpoint: its prompts, its rules, and its text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

from ..config import WhisperConfig
from ..errors import InvalidInput
from ..runtime.compat import whisper_language_codes, whisper_language_names
from .rules import TokenRules

TASKS = ("transcribe", "translate")
MULTILINGUAL_VOCABULARY = 51865  # or larger; English-only checkpoints have one token less
UNSPACED_LANGUAGES = ("zh", "ja", "th", "lo", "my", "yue")


@runtime_checkable
class Tokenizer(Protocol):
    """The methods of transformers' tokenizers that are used here."""

    def convert_tokens_to_ids(self, tokens: str) -> Any:
        """Return the id of a token."""
        ...

    def decode(self, token_ids: Any, skip_special_tokens: bool = ...) -> Any:
        """Return the text of token ids."""
        ...


@dataclass(frozen=True)
class Vocabulary:
    """The token ids of a checkpoint by their meaning.

    Attributes:
        name: The checkpoint's name for messages.
        tokenizer: The checkpoint's tokenizer.
        start: Id of <|startoftranscript|>.
        end: Id of <|endoftext|>. Ids below it are text.
        previous: Id of <|startofprev|>, which precedes earlier text in a prompt.
        no_timestamps: Id of <|notimestamps|>.
        languages: {"es": id of <|es|>}. It is empty for an English-only checkpoint.
        tasks: {"transcribe": id of <|transcribe|>}. It is empty for an English-only checkpoint.
        suppressed: Ids that are never written.
        begin_suppressed: Ids that are not written first.
        latest_start: Largest first timestamp, in steps of 20 ms. None allows any.
        alignment_heads: Pairs (layer, head) of the cross-attention heads that follow the speech.
        default_language: The language if none is asked for: that of generation_config.json, or "en" of an English-only
            checkpoint. None detects it.
    """

    name: str
    tokenizer: Tokenizer = field(repr=False)
    start: int
    end: int
    previous: int
    no_timestamps: int
    languages: Mapping[str, int]
    tasks: Mapping[str, int]
    suppressed: tuple[int, ...]
    begin_suppressed: tuple[int, ...]
    latest_start: int | None
    alignment_heads: tuple[tuple[int, int], ...]
    default_language: str | None = None

    @classmethod
    def read(
        cls,
        name: str,
        tokenizer: Tokenizer,
        config: WhisperConfig,
        settings: Mapping[str, Any],
        generation: Mapping[str, Any] | None,
    ) -> Vocabulary:
        """Read the vocabulary of a checkpoint.

        Checkpoints from before 2023 have no generation_config.json. The suppressed tokens are then those of
        config.json, and the alignment heads are all heads of the upper half of the decoder, as in the original.

        Args:
            name: The checkpoint's name for messages.
            tokenizer: The checkpoint's tokenizer.
            config: The model's configuration.
            settings: The content of config.json.
            generation: The content of generation_config.json, or None.

        Returns:
            The vocabulary.

        Raises:
            InvalidInput: The tokenizer lacks a token of Whisper's, or generation_config.json is broken.
        """
        stated = {**settings, **{key: value for key, value in (generation or {}).items() if value is not None}}

        def token(text: str) -> int | None:
            id = tokenizer.convert_tokens_to_ids(text)  # an unknown token gives the id of <|endoftext|> or None
            known = isinstance(id, int) and tokenizer.decode([id], skip_special_tokens=False) == text
            return id if known and id < config.vocab_size else None

        special = {
            key: token(f"<|{key}|>")
            for key in ("startoftranscript", "endoftext", "startofprev", "notimestamps", *TASKS)
        }
        if missing := [key for key, id in special.items() if id is None]:
            raise InvalidInput(
                f"the tokenizer of {name} has no <|{missing[0]}|>, so it is not Whisper's; fetch the whole folder again"
            )
        multilingual = stated.get("is_multilingual", config.vocab_size >= MULTILINGUAL_VOCABULARY)
        languages = {code: id for code in whisper_language_codes() if (id := token(f"<|{code}|>")) is not None}
        layers, heads_each = config.decoder_layers, config.decoder_attention_heads
        all_heads = [[layer, head] for layer in range(layers) for head in range(heads_each)]
        all_upper = all_heads[layers // 2 * heads_each :]
        try:
            heads = tuple((int(x), int(y)) for x, y in stated.get("alignment_heads") or all_upper)
            if absent := [list(head) for head in heads if list(head) not in all_heads]:
                raise ValueError(f"there is no head {absent[0]}")
            latest = stated.get("max_initial_timestamp_index", 50)
            vocabulary = cls(
                name,
                tokenizer,
                start=special["startoftranscript"] or 0,
                end=special["endoftext"] or 0,
                previous=special["startofprev"] or 0,
                no_timestamps=special["notimestamps"] or 0,
                languages=languages if multilingual else {},
                tasks={task: special[task] or 0 for task in TASKS} if multilingual else {},
                suppressed=_ids(stated.get("suppress_tokens") or ()),
                begin_suppressed=_ids(stated.get("begin_suppress_tokens") or ()),
                latest_start=None if latest is None else int(latest),
                alignment_heads=heads,
            )
            stated_language = (generation or {}).get("language")
            if not vocabulary.languages:
                return replace(vocabulary, default_language="en")
            return replace(
                vocabulary, default_language=stated_language and vocabulary.language_code(str(stated_language))
            )
        except (TypeError, ValueError) as error:
            raise InvalidInput(f"the generation_config.json of {name} is broken ({error}); fetch it again") from error

    @property
    def no_speech(self) -> int:
        """Id of <|nospeech|>. Tokenizers have two names for it, so it is found by its place."""
        return self.no_timestamps - 1

    @property
    def first_timestamp(self) -> int:
        """Id of <|0.00|>."""
        return self.no_timestamps + 1

    def rules(self, *, timestamps: bool) -> TokenRules:
        """Return the rules for the next token.

        Args:
            timestamps: Whether to write timestamps. If not, <|notimestamps|> must be in the prompt.
        """
        never = {*self.suppressed, self.no_timestamps, self.no_speech, self.start, self.previous}
        return TokenRules(
            self.end,
            self.no_speech,
            self.first_timestamp,
            tuple(sorted(never)),
            self.begin_suppressed,
            timestamps,
            self.latest_start,
        )

    def language_code(self, language: str) -> str:
        """Return the code of a language.

        Args:
            language: A code ("es"), a name ("Spanish") or a token ("<|es|>").

        Returns:
            The code.

        Raises:
            InvalidInput: The checkpoint doesn't know the language.
        """
        name = language.strip().lower()
        code = whisper_language_names().get(name, name.removeprefix("<|").removesuffix("|>"))
        if not self.languages and code != "en":
            raise InvalidInput(
                f"{self.name} is an English-only checkpoint and can't transcribe {language!r}; "
                "use a multilingual one (its name has no .en)"
            )
        if self.languages and code not in self.languages:
            raise InvalidInput(
                f"{self.name} doesn't know the language {language!r}; use one of {', '.join(sorted(self.languages))}"
            )
        return code

    def check_task(self, task: str) -> str:
        """Return a task if the checkpoint can do it.

        Args:
            task: "transcribe" or "translate".

        Returns:
            The task.

        Raises:
            InvalidInput: The task is unknown, or the checkpoint can't do it.
        """
        if task not in TASKS:
            raise InvalidInput(f"the task {task!r} is unknown; use transcribe or translate")
        if not self.tasks and task == "translate":
            raise InvalidInput(f"{self.name} is an English-only checkpoint and can't translate; use a multilingual one")
        return task

    def prompt(self, language: str, task: str, *, timestamps: bool) -> tuple[int, ...]:
        """Return the prompt of a window.

        Args:
            language: Language code.
            task: "transcribe" or "translate".
            timestamps: Whether to write timestamps.

        Returns:
            The ids of <|startoftranscript|>, language and task, and without timestamps that of <|notimestamps|>. An
            English-only checkpoint has no tokens of language and task.
        """
        control = (self.languages[language], self.tasks[task]) if self.languages else ()
        return (self.start, *control, *(() if timestamps else (self.no_timestamps,)))

    def text(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens. Special tokens and timestamps are skipped."""
        return str(self.tokenizer.decode([token for token in tokens if token < self.end], skip_special_tokens=True))


def check_language_name(language: str) -> None:
    """Check that a Whisper may know a language, before one is loaded.

    Args:
        language: A code ("es"), a name ("Spanish") or a token ("<|es|>").

    Raises:
        InvalidInput: No Whisper knows it.
    """
    name, codes = language.strip().lower(), whisper_language_codes()
    if whisper_language_names().get(name, name.removeprefix("<|").removesuffix("|>")) not in codes:
        raise InvalidInput(f"Whisper doesn't know the language {language!r}; use one of {', '.join(sorted(codes))}")


def _ids(values: Sequence[Any]) -> tuple[int, ...]:
    return tuple(int(value) for value in values)
