"""Text to tokens, and the checks on what a user passes as text."""

from .checks import Tokens, check_text
from .tokenizer import TextTokenizer, load_tokenizer, start_tokenizer, tokenizer_rules
from .word_vocabulary import word_tokenizer

__all__ = [
    "TextTokenizer",
    "Tokens",
    "check_text",
    "load_tokenizer",
    "start_tokenizer",
    "tokenizer_rules",
    "word_tokenizer",
]
