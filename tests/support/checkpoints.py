"""Random checkpoints in the published layout, at any size.

The folders hold what the published ones hold, file by file: weights under the published names and shapes, config.json
and preprocessor_config.json as transformers writes them, and a working tokenizer beside a text encoder.

The weights have unit gain: kernels are N(0, 1/fan_in), norms 1 + N(0, 0.1²), biases N(0, 0.1²), embeddings N(0, 1).
Activations then stay of order one through any depth and no layer is idle, so that a mapping that mixes up two tensors
moves the logits visibly. The usual initialisation (standard deviation 0.02) would hide it.
"""

import json
import math
import string
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    BertConfig,
    BertForPreTraining,
    BertTokenizer,
    GenerationConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
    RobertaTokenizer,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertConfig,
    Wav2Vec2BertModel,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)

Shapes = dict[str, tuple[int, ...]]

LABELS = {
    "es": ("anger", "disgust", "fear", "joy", "neutral", "sadness"),
    "en": ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"),
}
ARCHITECTURES = {
    "audio": "CustomAudioClassification",
    "concat": "CustomAudioClassificationConcat",
    "mean": "CustomAudioClassificationMean",
    "multihead": "CustomAudioClassificationAttn",
}
PADDING_VALUE = {"es": 1, "en": 0.0}  # both occur; what pads an odd last frame is the checkpoint's to say
CROSS_ATTENTION_HEADS = 8


@dataclass(frozen=True)
class Size:
    """Dimensions of an audio encoder with its projection, and of the text encoders that go with it."""

    layers: int
    width: int
    heads: int
    ffn: int
    projection: int
    text_layers: int
    text_width: int
    text_heads: int
    text_ffn: int
    bert_vocabulary: int
    roberta_vocabulary: int


# No two widths of a small size agree unless the architecture makes them, so that most transposed kernels do not fit.
TINY = Size(2, 32, 4, 80, 24, 2, 24, 3, 56, bert_vocabulary=300, roberta_vocabulary=500)
SMALL = Size(4, 128, 8, 320, 96, 3, 96, 6, 288, bert_vocabulary=400, roberta_vocabulary=600)
FULL = Size(24, 1024, 16, 4096, 768, 12, 768, 12, 3072, bert_vocabulary=31002, roberta_vocabulary=50262)


def write_audio_checkpoint(
    folder: Path,
    mode: str,
    language: str,
    *,
    size: Size = TINY,
    seed: int = 0,
    dtype: str = "float32",
    shards: int = 1,
    labels: Iterable[str] | None = None,
    config_overrides: dict[str, Any] | None = None,
    text_width: int | None = None,
) -> Path:
    """Writes an audio or fusion checkpoint (mode audio, concat, mean or multihead) and returns its folder.

    A seed stands for one audio encoder: it is the same in every mode. `labels` replaces the language's published
    names, `config_overrides` single values of the Wav2Vec2-BERT configuration, and `text_width` the size's (only
    concat can fuse a text encoder whose width isn't the projection's).
    """
    config = audio_config(mode, language, size, labels=labels, dtype=dtype, **(config_overrides or {}))
    shapes = audio_shapes(config, mode, size.text_width if text_width is None else text_width)
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    SeamlessM4TFeatureExtractor(padding_value=PADDING_VALUE[language]).save_pretrained(folder)
    save_weights(folder, random_tensors(shapes, seed, dtype), shards)
    return folder


def write_bert(
    folder: Path,
    language: str,
    *,
    size: Size = TINY,
    seed: int = 0,
    prefix: str = "",
    old_names: bool = False,
    extra_heads: bool = False,
    dtype: str = "float32",
) -> Path:
    """Writes a BERT text encoder with its tokenizer and returns its folder.

    `prefix` ("" or "bert."), `old_names` (LayerNorm's gamma and beta) and `extra_heads` (pooler, `cls.*` and an integer
    `position_ids`, none of which makes a sentence embedding) are the forms published files come in; a seed stands for
    the same encoder in all of them.
    """
    vocabulary = bert_vocabulary(language, size.bert_vocabulary)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=size.text_width,
        num_hidden_layers=size.text_layers,
        num_attention_heads=size.text_heads,
        intermediate_size=size.text_ffn,
        pad_token_id=vocabulary.index("[PAD]"),
        architectures=["BertForPreTraining" if extra_heads else "BertModel"],
        dtype=dtype,
    )
    with torch.device("meta"):
        published = shapes_of(BertForPreTraining(config))
    encoder = {name: shape for name, shape in published.items() if extra_heads or is_encoder(name)}
    tensors = {
        published_bert_name(name, prefix, old_names): tensor
        for name, tensor in random_tensors(encoder, seed, dtype).items()
    }
    if extra_heads:
        tensors[f"{prefix}embeddings.position_ids"] = torch.arange(config.max_position_embeddings)[None]
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    tokenizer = BertTokenizer(
        vocab={token: index for index, token in enumerate(vocabulary)},
        do_lower_case=True,
        # Silence means that accents are stripped, which is right for the English encoder and wrong for the Spanish one.
        strip_accents=False if language == "es" else None,
        model_max_length=512,
    )
    save_tokenizer(folder, tokenizer)
    save_weights(folder, tensors, shards=1)
    return folder


def write_roberta(
    folder: Path,
    language: str,
    *,
    size: Size = TINY,
    seed: int = 0,
    dtype: str = "float32",
    problem_type: Literal["multi_label_classification"] | None = None,
) -> Path:
    """Writes a RoBERTa sequence classifier (mode text) with its tokenizer and returns its folder.

    `problem_type` multi_label_classification asks for a sigmoid instead of the softmax.
    """
    vocabulary, merges = roberta_vocabulary(size.roberta_vocabulary)
    config = RobertaConfig(
        vocab_size=len(vocabulary),
        hidden_size=size.text_width,
        num_hidden_layers=size.text_layers,
        num_attention_heads=size.text_heads,
        intermediate_size=size.text_ffn,
        max_position_embeddings=514,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        architectures=["RobertaForSequenceClassification"],
        problem_type=problem_type,
        dtype=dtype,
        **label_maps(LABELS[language]),
    )
    with torch.device("meta"):
        shapes = shapes_of(RobertaForSequenceClassification(config))
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    tokenizer = RobertaTokenizer(
        vocab={token: index for index, token in enumerate(vocabulary)},
        merges=merges,  # pyright: ignore[reportArgumentType]  (pairs, whatever the annotation says)
        model_max_length=512,
    )
    save_tokenizer(folder, tokenizer)
    save_weights(folder, random_tensors(shapes, seed, dtype), shards=1)
    return folder


def write_golden_checkpoint(folder: Path) -> Path:
    """The tiny RANDOM checkpoint of mode multihead that tests/goldens/tiny-random.safetensors was recorded from."""
    write_audio_checkpoint(folder, "multihead", "es", seed=11)
    write_bert(folder / "text_encoder", "es", seed=12)
    return folder


WHISPER_LANGUAGES = ("en", "es", "fr")
WHISPER_TIMESTAMPS = 1501  # 0.00 to 30.00 s; the tokenizer does not hold them


def write_whisper(
    folder: Path,
    *,
    seed: int = 0,
    dtype: str = "float32",
    prefix: str = "model.",
    shards: int = 1,
    config_overrides: dict[str, Any] | None = None,
) -> Path:
    """Writes a multilingual Whisper of three languages with all its files and returns its folder.

    Without the `prefix` the names are those of transformers' bare WhisperModel; a seed stands for the same weights.
    """
    vocabulary, merges = byte_level_vocabulary()
    special = ["endoftext", "startoftranscript", *WHISPER_LANGUAGES, "translate", "transcribe"]
    special += ["startoflm", "startofprev", "nospeech", "notimestamps"]
    ids = {f"<|{name}|>": len(vocabulary) + index for index, name in enumerate(special)}
    end, start = ids["<|endoftext|>"], ids["<|startoftranscript|>"]
    ends = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end, "decoder_start_token_id": start}
    # The widths of encoder and decoder differ where they can.
    values = {
        "vocab_size": len(vocabulary) + len(ids) + WHISPER_TIMESTAMPS,
        "d_model": 32,
        "encoder_layers": 2,
        "encoder_attention_heads": 4,
        "encoder_ffn_dim": 72,
        "decoder_layers": 3,
        "decoder_attention_heads": 2,
        "decoder_ffn_dim": 56,
        "suppress_tokens": [],
        "begin_suppress_tokens": [],
        "architectures": ["WhisperForConditionalGeneration"],
        "dtype": dtype,
    }
    config = WhisperConfig(**(values | ends | (config_overrides or {})))
    with torch.device("meta"):
        shapes = shapes_of(WhisperForConditionalGeneration(config))
    del shapes["proj_out.weight"]  # tied to the token embedding, and not in the published files
    tensors = {
        prefix + name.removeprefix("model."): tensor for name, tensor in random_tensors(shapes, seed, dtype).items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=config.num_mel_bins).save_pretrained(folder)
    GenerationConfig(
        is_multilingual=True,
        lang_to_id={f"<|{language}|>": ids[f"<|{language}|>"] for language in WHISPER_LANGUAGES},
        task_to_id={task: ids[f"<|{task}|>"] for task in ("transcribe", "translate")},
        no_timestamps_token_id=ids["<|notimestamps|>"],
        prev_sot_token_id=ids["<|startofprev|>"],
        alignment_heads=[[1, 0], [2, 1]],
        max_length=448,
        **ends,
    ).save_pretrained(folder)
    tokenizer = WhisperTokenizer(
        vocab={token: index for index, token in enumerate([*vocabulary, *ids])},
        merges=merges,
        additional_special_tokens=list(ids),
        **dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), "<|endoftext|>"),
    )
    save_tokenizer(folder, tokenizer)
    save_weights(folder, tensors, shards)
    return folder


# Configurations and shapes


def audio_config(
    mode: str, language: str, size: Size, *, labels: Iterable[str] | None = None, **overrides: Any
) -> Wav2Vec2BertConfig:
    """The Wav2Vec2-BERT configuration of a checkpoint."""
    values = {
        "hidden_size": size.width,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "intermediate_size": size.ffn,
        "classifier_proj_size": size.projection,
        "architectures": [ARCHITECTURES[mode]],
        **label_maps(LABELS[language] if labels is None else labels),
    }
    return Wav2Vec2BertConfig(**(values | overrides))


def audio_shapes(config: Wav2Vec2BertConfig, mode: str, text_width: int) -> Shapes:
    """Published name → shape of every tensor of an audio or fusion checkpoint, the encoder's first."""
    projection = config.classifier_proj_size
    if mode in ("mean", "multihead") and text_width != projection:
        raise ValueError(f"mode {mode} fuses equal widths: the text's is {text_width}, the projection's {projection}")
    with torch.device("meta"):
        encoder = shapes_of(Wav2Vec2BertModel(config))
    shapes = {f"wav2vec2_bert.{name}": shape for name, shape in encoder.items()}
    states = config.output_hidden_size if config.add_adapter else config.hidden_size
    shapes |= linear("projector", states or config.hidden_size, projection)
    if config.use_weighted_layer_sum:
        shapes["layer_weights"] = (config.num_hidden_layers + 1,)
    if mode == "multihead":
        for head in (f"mult_attn_model.heads.{i}" for i in range(CROSS_ATTENTION_HEADS)):
            for name in ("Wq", "Wk", "Wv", "Wq_reverse", "Wk_reverse", "Wv_reverse"):
                shapes |= linear(f"{head}.{name}", projection, projection)
            shapes |= layer_norm(f"{head}.norm", projection) | linear(f"{head}.linear_out", 2 * projection, projection)
        shapes |= linear("mult_attn_model.proj", CROSS_ATTENTION_HEADS * projection, projection)
    fused = projection + text_width if mode == "concat" else projection
    shapes |= linear("classifier.dense", fused, fused) | linear(
        "classifier.out_proj", fused, len(config.id2label or ())
    )
    return shapes | layer_norm("classifier.layernorm", fused)


def linear(name: str, inputs: int, outputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def layer_norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def shapes_of(model: torch.nn.Module) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def label_maps(labels: Iterable[str]) -> dict[str, Any]:
    id2label = dict(enumerate(labels))
    return {"id2label": id2label, "label2id": {label: index for index, label in id2label.items()}}


def is_encoder(name: str) -> bool:
    return name.startswith(("bert.embeddings.", "bert.encoder."))


def published_bert_name(name: str, prefix: str, old_names: bool) -> str:
    if name.startswith("bert."):
        name = prefix + name.removeprefix("bert.")
    if old_names:
        name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    return name


# Weights


def random_tensors(shapes: Shapes, seed: int, dtype: str) -> dict[str, torch.Tensor]:
    """Unit-gain weights, drawn one after the other: shapes that begin alike give tensors that begin alike."""
    generator = torch.Generator().manual_seed(seed)
    return {name: random_tensor(name, shape, generator).to(getattr(torch, dtype)) for name, shape in shapes.items()}


def random_tensor(name: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    noise = torch.randn(shape, generator=generator)
    if name.endswith("distance_embedding.weight"):
        return noise.mul_(2)  # the position bias then outweighs the scores it is added to
    if name == "layer_weights" or "embedding" in name.split(".")[-2]:
        return noise
    if len(shape) == 1:
        noise *= 0.1
        return noise.add_(1) if name.endswith(".weight") else noise  # a vector called weight is a norm's
    # The classifier's input is a mean over time through a tanh, well below one: a gain of 1.5 spreads the logits.
    gain = 1.5 if name == "classifier.out_proj.weight" else 1
    return noise.mul_(gain / math.sqrt(math.prod(shape[1:])))


def save_weights(folder: Path, tensors: dict[str, torch.Tensor], shards: int) -> None:
    """Writes model.safetensors, or `shards` files and their index."""
    metadata = {"format": "pt"}
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata)
        return
    names = list(tensors)
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        members = names[shard * len(names) // shards : (shard + 1) * len(names) // shards]
        save_file({name: tensors[name] for name in members}, folder / file, metadata)
        weight_map |= dict.fromkeys(members, file)
    size = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


# Tokenizers

SPANISH = "el la los que no me te estoy está muy qué alegría miedo triste rabia enfadado asco feliz día mañana corazón"
ENGLISH = "the and you not am is very what happy fear sad angry disgust surprise today heart never"
WORDS = [*SPANISH.split(), *ENGLISH.split()]


def bert_vocabulary(language: str, size: int) -> list[str]:
    """A WordPiece vocabulary that spells every Spanish and English text; special tokens stand where BETO has them, or
    in front as in English BERT."""
    special = {
        "es": ["[MASK]", "[PAD]", "[EOS]", "[UNK]", "[CLS]", "[SEP]"],
        "en": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
    }[language]
    letters = string.ascii_lowercase + string.digits + "áéíóúüñ"
    pieces = [*letters, *(f"##{letter}" for letter in letters), *string.punctuation, *"¿¡«»…—", *WORDS]
    pieces += ["##ción", "##mente", "##ado", "##ing", "##ed", "##s"]
    return filled(special + list(dict.fromkeys(p for p in pieces if p not in special)), size, "[unused{}]")


def roberta_vocabulary(size: int) -> tuple[list[str], list[tuple[str, str]]]:
    """A byte-level BPE vocabulary with RoBERTa's special tokens, and its merges."""
    tokens, merges = byte_level_vocabulary()
    return [*filled(["<s>", "<pad>", "</s>", "<unk>", *tokens], size - 1, "madeupword{:04d}"), "<mask>"], merges


def byte_level_vocabulary() -> tuple[list[str], list[tuple[str, str]]]:
    """All bytes and their merges, which spell the words above from left to right."""
    byte_level = ByteLevel(add_prefix_space=True)
    spelt = [byte_level.pre_tokenize_str(word)[0][0] for word in WORDS]
    merges = list(dict.fromkeys((word[:i], word[i]) for word in spelt for i in range(1, len(word))))
    return [*sorted(ByteLevel.alphabet()), *("".join(pair) for pair in merges)], merges


def filled(tokens: list[str], size: int, filler: str) -> list[str]:
    if len(tokens) > size:
        raise ValueError(f"{len(tokens)} tokens don't fit into a vocabulary of {size}")
    return tokens + [filler.format(index) for index in range(size - len(tokens))]


def save_tokenizer(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """Writes tokenizer.json and tokenizer_config.json, and the vocabulary files that published folders hold as well."""
    tokenizer.save_pretrained(folder)
    tokenizer.backend_tokenizer.model.save(str(folder))
