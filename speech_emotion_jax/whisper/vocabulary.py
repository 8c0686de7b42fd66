"""A Whisper checkpoint's tokens: what a prompt is made of, what may not be written, and tokens back to text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from ..config import WhisperConfig
from ..errors import InvalidInput
from .rules import TokenRules

TASKS = ("transcribe", "translate")
MULTILINGUAL_VOCABULARY = 51865  # and larger; English-only checkpoints have one token less
UNSPACED_LANGUAGES = ("zh", "ja", "th", "lo", "my", "yue")


@runtime_checkable
class Tokenizer(Protocol):
    """What is used of transformers' tokenizers."""

    def convert_tokens_to_ids(self, tokens: str) -> Any: ...
    def decode(self, token_ids: Any, skip_special_tokens: bool = ...) -> Any: ...


@dataclass(frozen=True)
class Vocabulary:
    """Token ids by their meaning. `languages` and `tasks` are empty for an English-only checkpoint."""

    name: str  # the checkpoint's, for messages
    tokenizer: Tokenizer = field(repr=False)
    start: int  # <|startoftranscript|>
    end: int  # <|endoftext|>
    previous: int  # <|startofprev|>
    no_timestamps: int
    languages: Mapping[str, int]  # {"es": id of <|es|>}
    tasks: Mapping[str, int]
    suppressed: tuple[int, ...]
    begin_suppressed: tuple[int, ...]
    latest_start: int | None
    alignment_heads: tuple[tuple[int, int], ...]  # (layer, head) of those that follow the speech

    @classmethod
    def read(
        cls,
        name: str,
        tokenizer: Tokenizer,
        config: WhisperConfig,
        settings: Mapping[str, Any],
        generation: Mapping[str, Any] | None,
    ) -> Vocabulary:
        """From the tokenizer, config.json (`settings`) and generation_config.json, where there is one.

        Checkpoints of before 2023 have none: suppressed tokens are then config.json's, and without alignment heads all
        heads of the upper half of the decoder are taken, as by the original. Raises InvalidInput for a tokenizer that
        lacks Whisper's tokens.
        """
        stated = {**settings, **{key: value for key, value in (generation or {}).items() if value is not None}}

        def token(text: str) -> int | None:
            found = tokenizer.convert_tokens_to_ids(text)  # for an unknown token, that of <|endoftext|> or none
            known = isinstance(found, int) and tokenizer.decode([found], skip_special_tokens=False) == text
            return found if known and found < config.vocab_size else None

        special = {
            key: token(f"<|{key}|>")
            for key in ("startoftranscript", "endoftext", "startofprev", "notimestamps", *TASKS)
        }
        if missing := [key for key, found in special.items() if found is None]:
            raise InvalidInput(
                f"the tokenizer of {name} has no <|{missing[0]}|>, so it is not Whisper's; fetch the whole folder again"
            )
        multilingual = stated.get("is_multilingual", config.vocab_size >= MULTILINGUAL_VOCABULARY)
        languages = {code: found for code in _language_codes() if (found := token(f"<|{code}|>")) is not None}
        layers, heads_each = config.decoder_layers, config.decoder_attention_heads
        all_heads = [[layer, head] for layer in range(layers) for head in range(heads_each)]
        all_upper = all_heads[layers // 2 * heads_each :]
        try:
            heads = tuple((int(x), int(y)) for x, y in stated.get("alignment_heads") or all_upper)
            if absent := [list(head) for head in heads if list(head) not in all_heads]:
                raise ValueError(f"there is no head {absent[0]}")
            latest = stated.get("max_initial_timestamp_index", 50)
            return cls(
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
        except (TypeError, ValueError) as error:
            raise InvalidInput(f"the generation_config.json of {name} is broken ({error}); fetch it again") from error

    @property
    def no_speech(self) -> int:
        """<|nospeech|>, which the tokenizers of large-v3 and the others call by two names."""
        return self.no_timestamps - 1

    @property
    def first_timestamp(self) -> int:
        """<|0.00|>."""
        return self.no_timestamps + 1

    def rules(self, *, timestamps: bool) -> TokenRules:
        """What may be written. Without timestamps <|notimestamps|> is in the prompt."""
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
        """The code of a language that is called "es", "Spanish" or "<|es|>".

        Raises InvalidInput for one that the checkpoint doesn't know.
        """
        from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

        asked = language.strip().lower()
        code = TO_LANGUAGE_CODE.get(asked, asked.removeprefix("<|").removesuffix("|>"))
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
        """The task. Raises InvalidInput for an unknown one, or one that the checkpoint can't do."""
        if task not in TASKS:
            raise InvalidInput(f"the task {task!r} is unknown; use transcribe or translate")
        if not self.tasks and task == "translate":
            raise InvalidInput(f"{self.name} is an English-only checkpoint and can't translate; use a multilingual one")
        return task

    def prompt(self, language: str, task: str, *, timestamps: bool) -> tuple[int, ...]:
        """<|startoftranscript|> and what follows it, for a language code and a task."""
        steering = (self.languages[language], self.tasks[task]) if self.languages else ()
        return (self.start, *steering, *(() if timestamps else (self.no_timestamps,)))

    def text(self, tokens: Sequence[int]) -> str:
        """The text of tokens; special tokens and timestamps have none."""
        return str(self.tokenizer.decode([token for token in tokens if token < self.end], skip_special_tokens=True))


def _language_codes() -> tuple[str, ...]:
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    return tuple(LANGUAGES)


def _ids(values: Sequence[Any]) -> tuple[int, ...]:
    return tuple(int(value) for value in values)
