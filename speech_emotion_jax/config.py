"""Architectures as frozen dataclasses, read from config.json, and a preset for each published checkpoint.

A configuration holds what changes the computation and nothing else. config.json does not state the widths of the head
and the number of fusion heads. They come from the shapes of the checkpoint's tensors; see `convert.emotion`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

from .errors import InvalidInput
from .registry import LABELS, check_language, check_mode

ACTIVATIONS = ("gelu", "gelu_new", "relu", "silu", "swish")


def _known_fields(cls: type, source: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of `cls` that a config.json states. Each must have the type of its default."""
    known = {field.name: source[field.name] for field in fields(cls) if field.name in source}
    for name, value in known.items():
        expected = type(getattr(cls, name))
        fits = isinstance(value, (int, float)) if expected is float else isinstance(value, expected)
        if not fits or (isinstance(value, bool) and expected is not bool):
            raise InvalidInput(
                f"config.json has {name} {value!r} where a value of type {expected.__name__} is needed; fetch it again"
            )
        least = 0 if name.startswith(("pad_", "left_", "right_")) or name.endswith("_min_masks") else 1
        if expected is int and value < least:
            raise InvalidInput(f"config.json has {name} {value}, which is too small; fetch it again")
        if ("drop" in name or name.endswith("_prob")) and not 0 <= value < 1:
            raise InvalidInput(f"config.json has {name} {value}, which is not a rate from 0 to below 1; fetch it again")
    return known


def _check_layers(width: int, heads: int, *activations: str) -> None:
    if width % heads:
        raise InvalidInput(f"config.json has width {width}, which {heads} attention heads can't share; fetch it again")
    for activation in activations:
        if activation not in ACTIVATIONS:
            raise InvalidInput(f"the activation {activation!r} is not implemented; there are {', '.join(ACTIVATIONS)}")


@dataclass(frozen=True)
class Wav2Vec2BertConfig:
    """The conformer encoder of facebook/w2v-bert-2.0. Fields and defaults are those of its config.json."""

    num_hidden_layers: int = 24
    hidden_size: int = 1024
    num_attention_heads: int = 16
    intermediate_size: int = 4096
    feature_projection_input_dim: int = 160
    conv_depthwise_kernel_size: int = 31
    left_max_position_embeddings: int = 64
    right_max_position_embeddings: int = 8
    layer_norm_eps: float = 1e-5
    hidden_act: str = "swish"
    position_embeddings_type: str = "relative_key"
    use_weighted_layer_sum: bool = False
    add_adapter: bool = False
    adapter_act: str = "relu"
    adapter_kernel_size: int = 3
    adapter_stride: int = 2
    num_adapter_layers: int = 1
    output_hidden_size: int = 1024
    use_intermediate_ffn_before_adapter: bool = False
    mask_embedding: bool = True  # Whether the model has the vector that SpecAugment puts in place of masked frames.
    # Used in training only: the rates of dropout and LayerDrop, and SpecAugment's spans.
    feat_proj_dropout: float = 0.0
    hidden_dropout: float = 0.0
    activation_dropout: float = 0.0
    attention_dropout: float = 0.0
    conformer_conv_dropout: float = 0.1
    final_dropout: float = 0.1
    layerdrop: float = 0.1
    apply_spec_augment: bool = True
    mask_time_prob: float = 0.05
    mask_time_length: int = 10
    mask_time_min_masks: int = 2
    mask_feature_prob: float = 0.0
    mask_feature_length: int = 10
    mask_feature_min_masks: int = 0

    def __post_init__(self) -> None:
        """Raise InvalidInput if the architecture is not implemented or no model can be made of it."""
        if self.position_embeddings_type != "relative_key":
            raise InvalidInput(
                f"config.json asks for position_embeddings_type {self.position_embeddings_type!r}; "
                "only 'relative_key', which the published checkpoints use, is implemented"
            )
        _check_layers(self.hidden_size, self.num_attention_heads, self.hidden_act, self.adapter_act)
        if self.add_adapter and self.use_weighted_layer_sum:
            raise InvalidInput(
                "config.json asks for add_adapter and use_weighted_layer_sum together: the weighted sum is taken "
                "before the adapter, whose output would go unused; set one of them to false"
            )

    @property
    def output_width(self) -> int:
        """Width of the encoder's output, which an adapter may change."""
        return self.output_hidden_size if self.add_adapter else self.hidden_size

    @property
    def positions(self) -> int:
        """Number of learned distance vectors: 73 in the published checkpoints."""
        return self.left_max_position_embeddings + self.right_max_position_embeddings + 1

    @classmethod
    def from_json(cls, source: Mapping[str, Any]) -> Wav2Vec2BertConfig:
        """Read the fields of a published config.json. A missing field gets the default of transformers.

        Raises:
            InvalidInput: A value can't be used.
        """
        stated = {name: value for name, value in source.items() if value is not None}
        stated.setdefault("output_hidden_size", stated.get("hidden_size", cls.hidden_size))
        stated["position_embeddings_type"] = str(source.get("position_embeddings_type", cls.position_embeddings_type))
        known = _known_fields(cls, stated)
        return cls(**known)


@dataclass(frozen=True)
class BertConfig:
    """BERT or RoBERTa, which have the same layers and other positions. Fields are those of config.json."""

    vocab_size: int = 31002
    num_hidden_layers: int = 12
    hidden_size: int = 768
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    hidden_act: str = "gelu"
    pad_token_id: int = 0
    model_type: str = "bert"
    # Rates of dropout, used in training only.
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    classifier_dropout: float = 0.1

    def __post_init__(self) -> None:
        """Raise InvalidInput if the architecture is not implemented or no model can be made of it."""
        if self.model_type not in ("bert", "roberta"):
            raise InvalidInput(
                f"the text encoder's config.json says model_type {self.model_type!r}; "
                "'bert' and 'roberta' are implemented"
            )
        _check_layers(self.hidden_size, self.num_attention_heads, self.hidden_act)

    @property
    def position_offset(self) -> int:
        """Position of the first token: RoBERTa counts from padding_idx + 1, BERT from 0."""
        return self.pad_token_id + 1 if self.model_type == "roberta" else 0

    @property
    def max_tokens(self) -> int:
        """The most tokens in one text: 512 as in the original, or fewer if the encoder has fewer positions."""
        return min(512, self.max_position_embeddings - self.position_offset)

    @classmethod
    def from_json(cls, source: Mapping[str, Any]) -> BertConfig:
        """Read the fields of a published config.json. A missing field gets the default of transformers.

        Raises:
            InvalidInput: A value can't be used.
        """
        if source.get("position_embedding_type", "absolute") != "absolute":
            raise InvalidInput(
                f"config.json asks for position_embedding_type {source['position_embedding_type']!r}; "
                "only 'absolute' is implemented"
            )
        stated = {name: value for name, value in source.items() if value is not None}
        if source.get("model_type") == "roberta":
            stated.setdefault("pad_token_id", 1)
        stated.setdefault("classifier_dropout", stated.get("hidden_dropout_prob", cls.hidden_dropout_prob))
        return cls(**_known_fields(cls, stated))


@dataclass(frozen=True)
class EmotionConfig:
    """A whole emotion model.

    Attributes:
        mode: "text", "audio", "concat", "mean" or "multihead".
        labels: Names of the outputs, in order.
        audio: The audio encoder; None in mode text.
        text: The text encoder; None in mode audio.
        projection_width: Width of the pooled audio vector; None in mode text.
        head_width: Input width and inner width of the classification head.
        fusion_heads: Number of cross-attention heads; mode multihead only.
        multi_label: Whether each label has a sigmoid, in place of a softmax over the labels. Set by problem_type
            multi_label_classification in mode text.
    """

    kind: ClassVar[str] = "emotion"

    mode: str
    labels: tuple[str, ...]
    audio: Wav2Vec2BertConfig | None
    text: BertConfig | None
    projection_width: int | None = 768
    head_width: int = 768
    fusion_heads: int | None = None
    multi_label: bool = False

    @property
    def head_dropout(self) -> float:
        """Rate of dropout before each layer of the classification head."""
        if self.audio is not None:
            return self.audio.final_dropout
        return 0.0 if self.text is None else self.text.classifier_dropout

    @classmethod
    def published(cls, language: str, mode: str) -> EmotionConfig:
        """Return the architecture of the published checkpoint of a language ("es" or "en") and a mode.

        Raises:
            InvalidInput: The language or the mode is unknown.
        """
        language, mode = check_language(language), check_mode(mode)
        labels = LABELS[language]
        bert = BertConfig(vocab_size=31002 if language == "es" else 30522)
        if mode == "text":
            roberta = BertConfig(
                vocab_size=50262 if language == "es" else 50265,
                max_position_embeddings=514,
                type_vocab_size=1,
                layer_norm_eps=1e-5,
                pad_token_id=1,
                model_type="roberta",
            )
            return cls(mode, labels, audio=None, text=roberta, projection_width=None)
        model = cls(mode, labels, audio=Wav2Vec2BertConfig(), text=None if mode == "audio" else bert)
        if mode == "concat":
            return replace(model, head_width=2 * 768)
        return replace(model, fusion_heads=8) if mode == "multihead" else model

    @classmethod
    def of(
        cls,
        mode: str,
        labels: tuple[str, ...],
        audio: Wav2Vec2BertConfig | None,
        text: BertConfig | None,
        projection_width: int | None = None,
    ) -> EmotionConfig:
        """Return the architecture of a mode on given encoders. An encoder that the mode does not use is ignored.

        Args:
            mode: "text", "audio", "concat", "mean" or "multihead".
            labels: Names of the outputs, in order.
            audio: The audio encoder.
            text: The text encoder.
            projection_width: Width of the pooled audio vector. None selects the width of the text vector, or 768
                without one.

        Raises:
            InvalidInput: Modes mean and multihead were given vectors of two widths.
        """
        audio, text = (None if mode == "text" else audio), (None if mode == "audio" else text)
        if audio is None:
            assert text is not None, "every mode has an encoder"
            return cls(mode, labels, None, text, None, head_width=text.hidden_size)
        width = projection_width or (768 if text is None else text.hidden_size)
        if text is None:
            return cls(mode, labels, audio, None, width, head_width=width)
        if mode == "concat":
            return cls(mode, labels, audio, text, width, head_width=width + text.hidden_size)
        if width != text.hidden_size:
            raise InvalidInput(
                f"mode {mode} fuses vectors of one width; the text encoder's is {text.hidden_size}, the projection's "
                f"{width}; leave model.projection_width out"
            )
        return cls(mode, labels, audio, text, width, width, fusion_heads=8 if mode == "multihead" else None)

    @classmethod
    def tiny(cls, language: str, mode: str) -> EmotionConfig:
        """Return the published architecture with a width of 32 and 2 layers, for tests and first experiments."""
        model = cls.published(language, mode)
        audio = model.audio and replace(
            model.audio,
            num_hidden_layers=2,
            hidden_size=32,
            num_attention_heads=4,
            intermediate_size=64,
            output_hidden_size=32,
        )
        text = model.text and replace(
            model.text, num_hidden_layers=2, hidden_size=24, num_attention_heads=4, intermediate_size=48, vocab_size=300
        )
        width = 24
        return replace(
            model,
            audio=audio,
            text=text,
            projection_width=None if audio is None else width,
            head_width=2 * width if mode == "concat" else width,
        )

    @classmethod
    def from_record(cls, fields: Mapping[str, Any]) -> EmotionConfig:
        """Build a configuration from its fields, as `dataclasses.asdict` and JSON leave them."""
        audio, text = fields["audio"], fields["text"]
        parts = {"audio": audio and Wav2Vec2BertConfig(**audio), "text": text and BertConfig(**text)}
        return cls(**{**fields, **parts, "labels": tuple(fields["labels"])})


@dataclass(frozen=True)
class WhisperConfig:
    """Whisper, the transcriber. Fields are those of its config.json, defaults those of whisper-base."""

    kind: ClassVar[str] = "whisper"

    vocab_size: int = 51865
    num_mel_bins: int = 80
    d_model: int = 512
    encoder_layers: int = 6
    encoder_attention_heads: int = 8
    encoder_ffn_dim: int = 2048
    decoder_layers: int = 6
    decoder_attention_heads: int = 8
    decoder_ffn_dim: int = 2048
    max_source_positions: int = 1500
    max_target_positions: int = 448
    activation_function: str = "gelu"

    def __post_init__(self) -> None:
        """Raise InvalidInput if no model can be made of the architecture."""
        _check_layers(self.d_model, self.encoder_attention_heads, self.activation_function)
        _check_layers(self.d_model, self.decoder_attention_heads)

    @classmethod
    def openai(cls, size: str) -> WhisperConfig:
        """Return the architecture of one of OpenAI's checkpoints: "tiny", "base.en", ..., "large-v3-turbo".

        Raises:
            InvalidInput: The size is unknown.
        """
        if size not in WHISPER_SIZES:
            raise InvalidInput(f"the Whisper size {size!r} is unknown; choose {', '.join(WHISPER_SIZES)}")
        return WHISPER_SIZES[size]

    @classmethod
    def from_json(cls, source: Mapping[str, Any]) -> WhisperConfig:
        """Read the fields of a published config.json.

        Raises:
            InvalidInput: It is not a Whisper checkpoint, or a value can't be used.
        """
        if source.get("model_type") != "whisper":
            raise InvalidInput(f"config.json is of model_type {source.get('model_type')!r} where 'whisper' is needed")
        if not source.get("tie_word_embeddings", True):
            raise InvalidInput(
                "config.json unties the output from the token embedding; only tied checkpoints, as OpenAI's are, "
                "are implemented"
            )
        return cls(**_known_fields(cls, source))

    @classmethod
    def from_record(cls, fields: Mapping[str, Any]) -> WhisperConfig:
        """Build a configuration from its fields, as `dataclasses.asdict` and JSON leave them."""
        return cls(**fields)


def _whisper(
    width: int, layers: int, *, decoder_layers: int | None = None, mels: int = 80, vocabulary: int = 51865
) -> WhisperConfig:
    return WhisperConfig(
        vocab_size=vocabulary,
        num_mel_bins=mels,
        d_model=width,
        encoder_layers=layers,
        encoder_attention_heads=width // 64,
        encoder_ffn_dim=4 * width,
        decoder_layers=decoder_layers or layers,
        decoder_attention_heads=width // 64,
        decoder_ffn_dim=4 * width,
    )


# Radford et al. 2022, table 1. The English-only vocabulary has one token less; that of large-v3 has one more language.
WHISPER_SIZES: Mapping[str, WhisperConfig] = {
    "tiny": _whisper(384, 4),
    "tiny.en": _whisper(384, 4, vocabulary=51864),
    "base": _whisper(512, 6),
    "base.en": _whisper(512, 6, vocabulary=51864),
    "small": _whisper(768, 12),
    "small.en": _whisper(768, 12, vocabulary=51864),
    "medium": _whisper(1024, 24),
    "medium.en": _whisper(1024, 24, vocabulary=51864),
    "large": _whisper(1280, 32),
    "large-v2": _whisper(1280, 32),
    "large-v3": _whisper(1280, 32, mels=128, vocabulary=51866),
    "large-v3-turbo": _whisper(1280, 32, decoder_layers=4, mels=128, vocabulary=51866),
}

Architecture = EmotionConfig | WhisperConfig
