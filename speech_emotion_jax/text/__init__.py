"""Check texts and turn them into token ids."""

from .checks import Tokens, check_text
from .tokenizer import TextTokenizer, load_cached_tokenizer, load_fast_tokenizer, load_tokenizer
from .word_vocabulary import write_word_tokenizer

__all__ = [
    "TextTokenizer",
    "Tokens",
    "check_text",
    "load_cached_tokenizer",
    "load_fast_tokenizer",
    "load_tokenizer",
    "write_word_tokenizer",
]
