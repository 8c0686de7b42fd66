"""The original in PyTorch: what every number of the port is compared with. It needs the extra `torch`.

The encoders are transformers' own classes. The heads are written here from their formulas, because transformers'
Wav2Vec2BertForSequenceClassification has another classifier and loads the published files with a random one.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any, TypeVar

import librosa
import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    RobertaConfig,
    RobertaForSequenceClassification,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertConfig,
    Wav2Vec2BertModel,
)

from ..convert import TEXT_ENCODER
from ..registry import FUSION_MODES
from .stages import FEATURES, FUSED, LOGITS, POOLED, PREDICTION, PROBABILITIES, TOKENS, WAVEFORM, StageArray, layer
from .tensors import EPSILON, MAX_LEFT_DISTANCE, Constants

SAMPLE_RATE = 16_000
MAX_FBANK_FRAMES = 16_000
MAX_TOKENS = 512
CROSS_ATTENTION_HEADS = 8

Model = TypeVar("Model", bound=nn.Module)


class CrossAttentionHead(nn.Module):
    """One of the eight heads: text attends to audio, audio attends to text, each with its values added once more."""

    def __init__(self, width: int):
        super().__init__()
        self.Wq, self.Wk, self.Wv = (nn.Linear(width, width) for _ in range(3))
        self.Wq_reverse, self.Wk_reverse, self.Wv_reverse = (nn.Linear(width, width) for _ in range(3))
        self.norm = nn.LayerNorm(width)
        self.linear_out = nn.Linear(2 * width, width)

    def forward(self, audio: Tensor, text: Tensor, batch_coupled: bool) -> Tensor:
        values, values_reverse = self.Wv(audio), self.Wv_reverse(text)
        forward = attention(self.norm(self.Wq(text)), self.norm(self.Wk(audio)), values, batch_coupled)
        reverse = attention(self.Wq_reverse(audio), self.Wk_reverse(text), values_reverse, batch_coupled)
        return self.linear_out(torch.cat([forward + values, reverse + values_reverse], dim=-1))


def attention(queries: Tensor, keys: Tensor, values: Tensor, batch_coupled: bool) -> Tensor:
    """Scaled dot-product attention of (batch, width) arrays: over the batch, or of each example over itself alone."""
    axis = 0 if batch_coupled else 1
    queries, keys, values = queries.unsqueeze(axis), keys.unsqueeze(axis), values.unsqueeze(axis)
    scores = queries @ keys.mT / queries.shape[-1] ** 0.5
    return (scores.softmax(dim=-1) @ values).squeeze(axis)


class CrossAttention(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.heads = nn.ModuleList(CrossAttentionHead(width) for _ in range(CROSS_ATTENTION_HEADS))
        self.proj = nn.Linear(CROSS_ATTENTION_HEADS * width, width)

    def forward(self, audio: Tensor, text: Tensor, batch_coupled: bool) -> Tensor:
        return self.proj(torch.cat([head(audio, text, batch_coupled) for head in self.heads], dim=-1))


class ClassificationHead(nn.Module):
    def __init__(self, width: int, labels: int):
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, labels)
        self.layernorm = nn.LayerNorm(width)  # in the file, but no part of the computation

    def forward(self, fused: Tensor) -> Tensor:
        return self.out_proj(torch.tanh(self.dense(fused)))


class AudioClassifier(nn.Module):
    """An audio or fusion checkpoint; the attributes have the names of the published tensors."""

    def __init__(self, config: Wav2Vec2BertConfig, mode: str, text_width: int):
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

    def hear(self, features: Tensor, mask: Tensor) -> Any:
        """(batch, T, 160) → last_hidden_state (batch, T, width), and the hidden_states of all layers."""
        return self.wav2vec2_bert(features, attention_mask=mask, output_hidden_states=True)

    def pool(self, outputs: Any, mask: Tensor) -> Tensor:
        """What `hear` returned → (batch, projection): the projected states, averaged over the unmasked frames."""
        if self.wav2vec2_bert.config.use_weighted_layer_sum:
            weights = self.layer_weights.softmax(dim=-1)
            states = torch.einsum("l,lbtw->btw", weights, torch.stack(outputs.hidden_states))
        else:
            states = outputs.last_hidden_state
        # An adapter shortens the sequence, and its mask with it; without one this is the mask itself.
        kept = self.wav2vec2_bert._get_feature_vector_attention_mask(states.shape[1], mask)  # pyright: ignore
        kept = kept[..., None]
        return (self.projector(states) * kept).sum(dim=1) / kept.sum(dim=1)

    def fuse(self, audio: Tensor, text: Tensor | None, batch_coupled: bool) -> Tensor:
        """The classifier's input, (batch, projection), or (batch, projection + text_width) in concat."""
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
    """A published folder in PyTorch: eval mode, float32 whatever the file stores, on the CPU.

    Every tensor of the files has to fit a parameter and every parameter has to be in the files; loading fails
    otherwise. Arrays carry a batch axis; `features` and `tokens` give a batch of one. Batches of unequal clips are
    padded on the right by the caller, with a mask of zeros there.

    Args:
        folder: an audio or fusion checkpoint, or in mode text a RoBERTa sequence classifier.
        mode: text, audio, concat, mean or multihead.
        text_encoder: the BERT folder of a fusion mode.
    """

    def __init__(self, folder: Path, mode: str, text_encoder: Path | None = None):
        self.mode = mode
        self.model: Any  # RobertaForSequenceClassification or AudioClassifier
        self.text_encoder: Any = None
        if mode == "text":
            config = RobertaConfig.from_pretrained(folder, attn_implementation="eager")
            self.model = loaded(RobertaForSequenceClassification(config), read_tensors(folder))
            self.tokenizer = AutoTokenizer.from_pretrained(folder)
        else:
            text_width = 0
            if text_encoder is not None:
                self.text_encoder = load_bert(text_encoder)
                self.tokenizer = AutoTokenizer.from_pretrained(text_encoder)
                text_width = self.text_encoder.config.hidden_size
            config = Wav2Vec2BertConfig.from_pretrained(folder, attn_implementation="eager")
            with torch.device("meta"):  # at full size random values would take longer than everything else
                model = AudioClassifier(config, mode, text_width)
            self.model = loaded(model, read_tensors(folder))
            self.extractor = SeamlessM4TFeatureExtractor.from_pretrained(folder)

    def features(
        self, waveform: Float[np.ndarray, " samples"]
    ) -> tuple[Float[Tensor, "1 frames 160"], Int[Tensor, "1 frames"]]:
        """Stacked filter banks of a 16 kHz waveform and their mask."""
        inputs = self.extractor(
            waveform, sampling_rate=SAMPLE_RATE, max_length=MAX_FBANK_FRAMES, truncation=True, return_tensors="pt"
        )
        return inputs["input_features"], inputs["attention_mask"]

    def tokens(self, text: str) -> tuple[Int[Tensor, "1 tokens"], Int[Tensor, "1 tokens"]]:
        """Token ids of a text and their mask, truncated to 512 and not padded."""
        inputs = self.tokenizer(text, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        return inputs["input_ids"], inputs["attention_mask"]

    def audio_hidden_states(
        self, features: Float[Tensor, "batch frames 160"], mask: Int[Tensor, "batch frames"]
    ) -> list[Float[Tensor, "batch frames width"]]:
        """layers + 1 states: the projected features with masked frames zeroed, then every layer's output."""
        return list(self.model.hear(features, mask).hidden_states)

    def text_hidden_states(
        self, ids: Int[Tensor, "batch tokens"], mask: Int[Tensor, "batch tokens"]
    ) -> list[Float[Tensor, "batch tokens text_width"]]:
        """layers + 1 states: the embeddings, then every layer's output."""
        encoder = self.model.roberta if self.mode == "text" else self.text_encoder
        return list(encoder(ids, attention_mask=mask, output_hidden_states=True).hidden_states)

    def audio_embedding(
        self, features: Float[Tensor, "batch frames 160"], mask: Int[Tensor, "batch frames"]
    ) -> Float[Tensor, "batch projection"]:
        """The projector's mean over the unmasked frames."""
        return self.model.pool(self.model.hear(features, mask), mask)

    def text_embedding(
        self, ids: Int[Tensor, "batch tokens"], mask: Int[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch text_width"]:
        """The last layer's state of the first token."""
        return self.text_hidden_states(ids, mask)[-1][:, 0]

    def fused(
        self,
        features: Float[Tensor, "batch frames 160"],
        mask: Int[Tensor, "batch frames"],
        ids: Int[Tensor, "batch tokens"] | None = None,
        token_mask: Int[Tensor, "batch tokens"] | None = None,
        batch_coupled: bool = False,
    ) -> Float[Tensor, "batch fused"]:
        """The classifier's input. `batch_coupled` lets multihead attend across the batch, as the original does."""
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
        """Logits of a batch, from the arrays that the mode uses."""
        if self.mode == "text":
            return self.model(ids, attention_mask=token_mask).logits
        if features is None or mask is None:
            raise ValueError(f"mode {self.mode} needs audio")
        return self.model.classifier(self.fused(features, mask, ids, token_mask, batch_coupled))

    def probabilities(
        self, waveform: Float[np.ndarray, " samples"] | None = None, text: str | None = None
    ) -> Float[np.ndarray, " labels"]:
        """Probabilities of one example; what the mode doesn't use is ignored."""
        audio = (None, None) if waveform is None or self.mode == "text" else self.features(waveform)
        tokens = (None, None) if text is None or self.mode == "audio" else self.tokens(text)
        return self._probabilities(self.logits(*audio, *tokens)[0]).numpy()

    def constants(self) -> Constants:
        """The constants of the modules, as `tensors.module_constants` names them."""
        found = module_constants(self.model)
        if self.text_encoder is not None:
            found |= {f"{TEXT_ENCODER}/{name}": value for name, value in module_constants(self.text_encoder).items()}
        return found

    def compute_stages(self, recording: str | None, text: str | None) -> dict[str, StageArray]:
        """All that is computed on the way from a file and its text to probabilities, by the names of `stages`.

        Arrays have no batch axis, and no frames that the mask leaves out.
        """
        found: dict[str, Any] = {}
        heard = read = None
        states: Any = None  # of the text
        if recording is not None and self.mode != "text":
            waveform = listen(recording)
            features, mask = self.features(waveform)
            outputs, real = self.model.hear(features, mask), mask[0].bool()
            heard = self.model.pool(outputs, mask)
            found |= {WAVEFORM: waveform, FEATURES: features[0, real]}
            found |= {layer("audio", index): states[0, real] for index, states in enumerate(outputs.hidden_states)}
            found[POOLED] = heard[0]
        if text is not None and self.mode != "audio":
            ids, mask = self.tokens(text)
            states = self.text_hidden_states(ids, mask)
            read = states[-1][:, 0]
            found |= {TOKENS: ids[0]} | {layer("text", index): each[0] for index, each in enumerate(states)}
        if self.mode == "text":
            logits = self.model.classifier(states[-1])
        else:
            fused = self.model.fuse(heard, read, batch_coupled=False)
            found |= {FUSED: fused[0]} if self.mode in FUSION_MODES else {}
            logits = self.model.classifier(fused)
        probabilities = self._probabilities(logits[0])
        found |= {LOGITS: logits[0], PROBABILITIES: probabilities, PREDICTION: probabilities}
        return {name: np.asarray(array) for name, array in found.items()}

    def _probabilities(self, logits: Float[Tensor, " labels"]) -> Float[Tensor, " labels"]:
        multi_label = self.mode == "text" and self.model.config.problem_type == "multi_label_classification"
        return logits.sigmoid() if multi_label else logits.softmax(dim=-1)


def listen(recording: str) -> Float[np.ndarray, " samples"]:
    """A file as the toolkit reads it: mono, 16 kHz."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of what librosa imports
        return librosa.load(recording, sr=SAMPLE_RATE)[0]


def module_constants(model: nn.Module) -> Constants:
    """The epsilon of each norm and the largest distance before a frame, by the modules' names."""
    found: Constants = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.LayerNorm):
            found[f"{name}.{EPSILON}"] = module.eps
        elif hasattr(module, MAX_LEFT_DISTANCE) and hasattr(module, "distance_embedding"):
            found[f"{name}.{MAX_LEFT_DISTANCE}"] = getattr(module, MAX_LEFT_DISTANCE)
    return found


def load_bert(folder: Path) -> BertModel:
    """A BERT encoder from any of the published forms: with or without the prefix, with old or new norm names."""
    tensors = {}
    for name, tensor in read_tensors(folder).items():
        if name.startswith("cls.") or name.endswith("embeddings.position_ids"):
            continue  # heads of the pretraining tasks, and 0…511
        name = name.removeprefix("bert.")
        tensors[name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")] = (
            tensor
        )
    config = BertConfig.from_pretrained(folder, attn_implementation="eager")
    return loaded(BertModel(config, add_pooling_layer="pooler.dense.weight" in tensors), tensors)


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder's safetensors file, shards, or torch's file, by their names in the file."""
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if single.exists():
        return load_file(single)
    for name in ("model.bin", "pytorch_model.bin"):
        if (folder / name).exists():
            return torch.load(folder / name, map_location="cpu", weights_only=True)
    weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    tensors = {}
    for file in sorted(set(weight_map.values())):
        tensors |= load_file(folder / file)
    assert tensors.keys() == weight_map.keys(), "the shards hold other tensors than their index says"
    return tensors


def loaded(model: Model, tensors: dict[str, Tensor]) -> Model:
    """The model with exactly these tensors, in float32 and eval mode."""
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, strict=True, assign=True)
    return model.eval().requires_grad_(False)
