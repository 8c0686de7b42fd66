"""A tokenizer of whole words, for training from scratch where no pretrained tokenizer is at hand."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def write_word_tokenizer(texts: Iterable[str], folder: Path, max_words: int = 30_000) -> int:
    """Write the tokenizer of the texts' most frequent words into a folder; returns the size of its vocabulary.

    Words are lower-cased and keep their accents; all others become [UNK]. The same texts give the same files: the
    special tokens come first, [PAD] with id 0, then the words in their order.
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
