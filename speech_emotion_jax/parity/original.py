"""The original emotion models in PyTorch, the reference of every comparison. Needs the extra `torch`.

The encoders are transformers' own classes. The heads are written here from their formulas, because transformers'
Wav2Vec2BertForSequenceClassification has a different classifier and would initialise it randomly.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    RobertaConfig,
    RobertaForSequenceClassification,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertConfig,
    Wav2Vec2BertModel,
)

from ..audio import MAX_FBANK_FRAMES, SAMPLE_RATE
from ..convert import TEXT_ENCODER
from ..registry import FUSION_MODES
from .original_files import fill, load_bert, read_tensors
from .stages import FEATURES, FUSED, LOGITS, POOLED, PREDICTION, PROBABILITIES, TOKENS, WAVEFORM, StageArray, layer
from .tensors import EPSILON, MAX_LEFT_DISTANCE, Constants

MAX_TOKENS = 512
CROSS_ATTENTION_HEADS = 8


class CrossAttentionHead(nn.Module):
    """One of the eight heads. Text attends to audio and audio to text. The values are added to each result."""

    def __init__(self, width: int):
        """Create the projections of one head for vectors of `width`."""
        super().__init__()
        self.Wq, self.Wk, self.Wv = (nn.Linear(width, width) for _ in range(3))
        self.Wq_reverse, self.Wk_reverse, self.Wv_reverse = (nn.Linear(width, width) for _ in range(3))
        self.norm = nn.LayerNorm(width)
        self.linear_out = nn.Linear(2 * width, width)

    def forward(self, audio: Tensor, text: Tensor, batch_coupled: bool) -> Tensor:
        """Map audio and text vectors (batch, width) to (batch, width)."""
        values, values_reverse = self.Wv(audio), self.Wv_reverse(text)
        forward = attention(self.norm(self.Wq(text)), self.norm(self.Wk(audio)), values, batch_coupled)
        reverse = attention(self.Wq_reverse(audio), self.Wk_reverse(text), values_reverse, batch_coupled)
        return self.linear_out(torch.cat([forward + values, reverse + values_reverse], dim=-1))


def attention(queries: Tensor, keys: Tensor, values: Tensor, batch_coupled: bool) -> Tensor:
    """Compute scaled dot-product attention of (batch, width) arrays.

    Args:
        queries: (batch, width).
        keys: (batch, width).
        values: (batch, width).
        batch_coupled: attend over the examples of the batch, as the original does. Otherwise each example attends to
            itself only, and the result is `values`.
    """
    axis = 0 if batch_coupled else 1
    queries, keys, values = queries.unsqueeze(axis), keys.unsqueeze(axis), values.unsqueeze(axis)
    scores = queries @ keys.mT / queries.shape[-1] ** 0.5
    return (scores.softmax(dim=-1) @ values).squeeze(axis)


class CrossAttention(nn.Module):
    """The fusion of mode multihead: eight cross-attention heads and a projection."""

    def __init__(self, width: int):
        """Create the heads for vectors of `width`."""
        super().__init__()
        self.heads = nn.ModuleList(CrossAttentionHead(width) for _ in range(CROSS_ATTENTION_HEADS))
        self.proj = nn.Linear(CROSS_ATTENTION_HEADS * width, width)

    def forward(self, audio: Tensor, text: Tensor, batch_coupled: bool) -> Tensor:
        """Map audio and text vectors (batch, width) to (batch, width)."""
        return self.proj(torch.cat([head(audio, text, batch_coupled) for head in self.heads], dim=-1))


class ClassificationHead(nn.Module):
    """The classifier of the audio and fusion modes: a linear layer, tanh and a linear layer."""

    def __init__(self, width: int, labels: int):
        """Create a head that maps `width` numbers to one logit for each of `labels` labels."""
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, labels)
        self.layernorm = nn.LayerNorm(width)  # stored in the file but not used

    def forward(self, fused: Tensor) -> Tensor:
        """Map the fused vectors (batch, width) to logits (batch, labels)."""
        return self.out_proj(torch.tanh(self.dense(fused)))


class AudioClassifier(nn.Module):
    """The model of an audio or fusion checkpoint. Its attributes have the names of the published tensors."""

    def __init__(self, config: Wav2Vec2BertConfig, mode: str, text_width: int):
        """Create the model.

        Args:
            config: the published configuration.
            mode: "audio", "concat", "mean" or "multihead".
            text_width: the width of the text vector, 0 in mode audio.
        """
        super().__init__()
        self.mode = mode
        projection = config.classifier_proj_size
        self.wav2vec2_bert = Wav2Vec2BertModel(config)
        states = config.output_hidden_size if config.add_adapter else config.hidden_size
        self.projector = nn.Linear(states or config.hidden_size, projection)
        if config.use_weighted_layer_sum:
            self.layer_weights = nn.Parameter(torch.empty(config.num_hidden_layers + 1))
        if mode == "multihead":
            self.mult_attn_model = CrossAttention(projection)
        width = projection + text_width if mode == "concat" else projection
        self.classifier = ClassificationHead(width, len(config.id2label or ()))

    def encode(self, features: Tensor, mask: Tensor) -> Any:
        """Encode features (batch, frames, 160) with a mask (batch, frames).

        Returns:
            transformers' output: `last_hidden_state` (batch, frames, width) and the `hidden_states` of all layers.
        """
        return self.wav2vec2_bert(features, attention_mask=mask, output_hidden_states=True)

    def pool(self, outputs: Any, mask: Tensor) -> Tensor:
        """Project the encoder's states and average them over the unmasked frames.

        Args:
            outputs: the result of `encode`.
            mask: (batch, frames), the mask of the features.

        Returns:
            (batch, projection).
        """
        if self.wav2vec2_bert.config.use_weighted_layer_sum:
            weights = self.layer_weights.softmax(dim=-1)
            states = torch.einsum("l,lbtw->btw", weights, torch.stack(outputs.hidden_states))
        else:
            states = outputs.last_hidden_state
        real = (torch.arange(states.shape[1]) < self.output_lengths(mask)[:, None])[..., None]
        return (self.projector(states) * real).sum(dim=1) / real.sum(dim=1)

    def output_lengths(self, mask: Tensor) -> Tensor:
        """Return how many states each clip has, (batch,). The adapter's convolutions shorten the sequence.

        Args:
            mask: (batch, frames), the mask of the features, which are padded on the right.
        """
        config, lengths = self.wav2vec2_bert.config, mask.sum(dim=1)
        if config.add_adapter:
            kernel, stride = config.adapter_kernel_size, config.adapter_stride
            for _ in range(config.num_adapter_layers):
                lengths = (lengths + 2 * (kernel // 2) - kernel) // stride + 1
        return lengths

    def fuse(self, audio: Tensor, text: Tensor | None, batch_coupled: bool) -> Tensor:
        """Combine the vectors of both modalities into the classifier's input.

        Args:
            audio: (batch, projection).
            text: (batch, text_width), or None in mode audio.
            batch_coupled: whether mode multihead attends across the batch, see `attention`.

        Returns:
            (batch, projection), or (batch, projection + text_width) in mode concat.
        """
        if self.mode == "audio":
            return audio
        if text is None:
            raise ValueError(f"mode {self.mode} needs a text")
        if self.mode == "concat":
            return torch.cat([audio, text], dim=-1)
        if self.mode == "mean":
            return (audio + text) / 2
        return self.mult_attn_model(audio, text, batch_coupled)


class TorchOriginal:
    """A published checkpoint in PyTorch: in eval mode and float32, on the CPU.

    Loading fails unless the tensors of the files and the parameters of the model match one to one. Arrays have a batch
    axis; `features` and `tokens` return a batch of one. To run clips of different lengths, pad them on the right and
    set the mask to 0 there.
    """

    def __init__(self, folder: Path, mode: str, text_encoder: Path | None = None):
        """Load a published folder.

        Args:
            folder: an audio or fusion checkpoint, or in mode text a RoBERTa sequence classifier.
            mode: "text", "audio", "concat", "mean" or "multihead".
            text_encoder: the BERT folder of a fusion mode.
        """
        self.mode = mode
        self.model: Any  # RobertaForSequenceClassification or AudioClassifier
        self.text_encoder: Any = None
        if mode == "text":
            config = RobertaConfig.from_pretrained(folder, attn_implementation="eager")
            self.model = fill(RobertaForSequenceClassification(config), read_tensors(folder))
            self.tokenizer = AutoTokenizer.from_pretrained(folder)
        else:
            text_width = 0
            if text_encoder is not None:
                self.text_encoder = load_bert(text_encoder)
                self.tokenizer = AutoTokenizer.from_pretrained(text_encoder)
                text_width = self.text_encoder.config.hidden_size
            config = Wav2Vec2BertConfig.from_pretrained(folder, attn_implementation="eager")
            with torch.device("meta"):  # initialising 0.6 B parameters would take longer than loading them
                model = AudioClassifier(config, mode, text_width)
            self.model = fill(model, read_tensors(folder))
            self.extractor = SeamlessM4TFeatureExtractor.from_pretrained(folder)

    def features(
        self, waveform: Float[np.ndarray, " samples"]
    ) -> tuple[Float[Tensor, "1 frames 160"], Int[Tensor, "1 frames"]]:
        """Compute the stacked filter-bank features of a 16 kHz waveform, and their mask."""
        inputs = self.extractor(
            waveform, sampling_rate=SAMPLE_RATE, max_length=MAX_FBANK_FRAMES, truncation=True, return_tensors="pt"
        )
        return inputs["input_features"], inputs["attention_mask"]

    def tokens(self, text: str) -> tuple[Int[Tensor, "1 tokens"], Int[Tensor, "1 tokens"]]:
        """Tokenize a text, truncated to 512 tokens and not padded. Return the ids and their mask."""
        inputs = self.tokenizer(text, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        return inputs["input_ids"], inputs["attention_mask"]

    def audio_hidden_states(
        self, features: Float[Tensor, "batch frames 160"], mask: Int[Tensor, "batch frames"]
    ) -> list[Float[Tensor, "batch frames width"]]:
        """Return the input of the first layer (projected, masked frames zeroed) and the output of every layer."""
        return list(self.model.encode(features, mask).hidden_states)

    def text_hidden_states(
        self, ids: Int[Tensor, "batch tokens"], mask: Int[Tensor, "batch tokens"]
    ) -> list[Float[Tensor, "batch tokens text_width"]]:
        """Return the embeddings and the output of every layer."""
        encoder = self.model.roberta if self.mode == "text" else self.text_encoder
        return list(encoder(ids, attention_mask=mask, output_hidden_states=True).hidden_states)

    def audio_embedding(
        self, features: Float[Tensor, "batch frames 160"], mask: Int[Tensor, "batch frames"]
    ) -> Float[Tensor, "batch projection"]:
        """Return the projected states averaged over the unmasked frames."""
        return self.model.pool(self.model.encode(features, mask), mask)

    def text_embedding(
        self, ids: Int[Tensor, "batch tokens"], mask: Int[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch text_width"]:
        """Return the last layer's state of the first token."""
        return self.text_hidden_states(ids, mask)[-1][:, 0]

    def fused(
        self,
        features: Float[Tensor, "batch frames 160"],
        mask: Int[Tensor, "batch frames"],
        ids: Int[Tensor, "batch tokens"] | None = None,
        token_mask: Int[Tensor, "batch tokens"] | None = None,
        batch_coupled: bool = False,
    ) -> Float[Tensor, "batch fused"]:
        """Return the classifier's input.

        Args:
            features: the features of the audio.
            mask: their mask.
            ids: the tokens of the text, in a fusion mode.
            token_mask: their mask.
            batch_coupled: whether mode multihead attends across the batch, as the original does.
        """
        text = None if ids is None or token_mask is None else self.text_embedding(ids, token_mask)
        return self.model.fuse(self.audio_embedding(features, mask), text, batch_coupled)

    def logits(
        self,
        features: Float[Tensor, "batch frames 160"] | None = None,
        mask: Int[Tensor, "batch frames"] | None = None,
        ids: Int[Tensor, "batch tokens"] | None = None,
        token_mask: Int[Tensor, "batch tokens"] | None = None,
        batch_coupled: bool = False,
    ) -> Float[Tensor, "batch labels"]:
        """Return the logits of a batch. Arrays that the mode does not use may be None.

        Args:
            features: the features of the audio.
            mask: their mask.
            ids: the tokens of the text.
            token_mask: their mask.
            batch_coupled: whether mode multihead attends across the batch, as the original does.

        Raises:
            ValueError: if the mode needs an input that is missing.
        """
        if self.mode == "text":
            return self.model(ids, attention_mask=token_mask).logits
        if features is None or mask is None:
            raise ValueError(f"mode {self.mode} needs audio")
        return self.model.classifier(self.fused(features, mask, ids, token_mask, batch_coupled))

    def probabilities(
        self, waveform: Float[np.ndarray, " samples"] | None = None, text: str | None = None
    ) -> Float[np.ndarray, " labels"]:
        """Return the probabilities of one 16 kHz waveform and text. An input that the mode does not use is ignored."""
        audio = (None, None) if waveform is None or self.mode == "text" else self.features(waveform)
        tokens = (None, None) if text is None or self.mode == "audio" else self.tokens(text)
        return self._probabilities(self.logits(*audio, *tokens)[0]).numpy()

    def constants(self) -> Constants:
        """Return the constants of the modules, named as in `tensors.module_constants`."""
        constants = module_constants(self.model)
        if self.text_encoder is not None:
            text = module_constants(self.text_encoder)
            constants |= {f"{TEXT_ENCODER}/{name}": value for name, value in text.items()}
        return constants

    def compute_stages(self, recording: str | None, text: str | None) -> dict[str, StageArray]:
        """Compute every stage from a file and its text to the probabilities.

        Args:
            recording: the path of an audio file, or None in mode text.
            text: the text, or None in mode audio.

        Returns:
            The arrays by stage, without a batch axis and without masked frames.
        """
        stages: dict[str, Any] = {}
        audio_vector = text_vector = None
        text_states: Any = None
        if recording is not None and self.mode != "text":
            waveform = load_waveform(recording)
            features, mask = self.features(waveform)
            outputs, real = self.model.encode(features, mask), mask[0].bool()
            audio_vector = self.model.pool(outputs, mask)
            stages |= {WAVEFORM: waveform, FEATURES: features[0, real]}
            stages |= {layer("audio", index): states[0, real] for index, states in enumerate(outputs.hidden_states)}
            stages[POOLED] = audio_vector[0]
        if text is not None and self.mode != "audio":
            ids, mask = self.tokens(text)
            text_states = self.text_hidden_states(ids, mask)
            text_vector = text_states[-1][:, 0]
            stages |= {TOKENS: ids[0]} | {layer("text", index): each[0] for index, each in enumerate(text_states)}
        if self.mode == "text":
            logits = self.model.classifier(text_states[-1])
        else:
            fused = self.model.fuse(audio_vector, text_vector, batch_coupled=False)
            stages |= {FUSED: fused[0]} if self.mode in FUSION_MODES else {}
            logits = self.model.classifier(fused)
        probabilities = self._probabilities(logits[0])
        stages |= {LOGITS: logits[0], PROBABILITIES: probabilities, PREDICTION: probabilities}
        return {name: np.asarray(array) for name, array in stages.items()}

    def _probabilities(self, logits: Float[Tensor, " labels"]) -> Float[Tensor, " labels"]:
        multi_label = self.mode == "text" and self.model.config.problem_type == "multi_label_classification"
        return logits.sigmoid() if multi_label else logits.softmax(dim=-1)


def load_waveform(recording: str) -> Float[np.ndarray, " samples"]:
    """Load a file as the toolkit does: mono, 16 kHz."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # raised by packages that librosa imports
        return librosa.load(recording, sr=SAMPLE_RATE)[0]


def module_constants(model: nn.Module) -> Constants:
    """Return the epsilon of each norm and the largest distance that attention looks back, by the modules' names."""
    constants: Constants = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.LayerNorm):
            constants[f"{name}.{EPSILON}"] = module.eps
        elif hasattr(module, MAX_LEFT_DISTANCE) and hasattr(module, "distance_embedding"):
            constants[f"{name}.{MAX_LEFT_DISTANCE}"] = getattr(module, MAX_LEFT_DISTANCE)
    return constants
