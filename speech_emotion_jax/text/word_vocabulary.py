"""Make a tokenizer of whole words, for training from scratch without a pretrained tokenizer."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def write_word_tokenizer(texts: Iterable[str], folder: Path, max_words: int = 30_000) -> int:
    """Write a tokenizer of the most frequent words of some texts.

    Words are lower-cased and keep their accents. The special tokens come first, [PAD] with id 0, then the words in
    alphabetical order. The same texts give the same files.

    Args:
        texts: The texts whose words are counted.
        folder: Folder to write the tokenizer's files to.
        max_words: Words in the vocabulary at most. All others become [UNK].

    Returns:
        The size of the vocabulary, special tokens included.
    """
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from transformers import BertTokenizer  # takes a second

    def tokenizer(vocabulary: Iterable[str]) -> BertTokenizer:
        ids = {token: index for index, token in enumerate(vocabulary)}
        return BertTokenizer(vocab=ids, do_lower_case=True, strip_accents=False, model_max_length=512)

    splitter = tokenizer(SPECIAL_TOKENS).backend_tokenizer
    counts: Counter[str] = Counter()
    for text in texts:
        words = splitter.pre_tokenizer.pre_tokenize_str(splitter.normalizer.normalize_str(text))
        counts.update(word for word, _ in words)
    frequent = sorted(counts, key=lambda word: (-counts[word], word))[:max_words]
    vocabulary = [*SPECIAL_TOKENS, *sorted(frequent)]
    tokenizer(vocabulary).save_pretrained(folder)
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in vocabulary), encoding="utf-8")
    return len(vocabulary)
