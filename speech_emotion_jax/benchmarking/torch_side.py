"""PyTorch's side of the benchmarks: what is timed, in a process of its own.

"careful" is PyTorch as somebody who minds its speed would write it: transformers' own encoder classes, loaded once, in
inference mode, with the text at its true length and no mask where nothing is padded; in bfloat16 under autocast, with
matrices that are bfloat16 beforehand. "direct" calls the same class as its documentation does. "toolkit" is how the
original toolkit goes about a prediction: its audio model is loaded for each call, and each text padded to 512 tokens.

This is the one module of the benchmarks that imports PyTorch.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..audio import SAMPLE_RATE, load
from ..errors import InvalidInput
from .clips import random_features
from .machine import SIDE, cores, matmul_rate
from .serving import Request, serve
from .steps import BATCHES, CLIP_NORM, LABELS, LEARNING_RATE, WEIGHT_DECAY, random_batches

MAX_FBANK_FRAMES = 16_000
MAX_TOKENS = 512
# What the toolkit imports beside torch, transformers and librosa, where it is installed. The metrics that it fetches
# from the network while it is imported are left out.
IMPORTED = ("datasets", "evaluate", "pandas", "sklearn.metrics", "sklearn.model_selection", "transformers.trainer")


def pytorch() -> Any:
    """The module torch, on all cores. Raises InvalidInput where it, or what transformers needs with it, is missing."""
    try:
        import torch
        from transformers import BertModel, Wav2Vec2BertModel, logging  # noqa: F401
    except ImportError as error:
        raise _not_installed(error) from error
    logging.set_verbosity_error()  # each load would say that the encoder's class leaves the head aside
    logging.disable_progress_bar()
    torch.set_num_threads(cores())
    return torch


def check_installed() -> None:
    """Raises InvalidInput where there is no PyTorch, without loading it."""
    if find_spec("torch") is None:
        raise _not_installed("there is no module torch")


def _not_installed(why: object) -> InvalidInput:
    return InvalidInput(
        f"PyTorch is not installed ({why}), and so there is nothing to compare with: "
        "pip install -e '.[torch]', or leave --against out"
    )


class Encoder:
    """transformers' Wav2Vec2BertModel, on features that are there."""

    def __init__(self, settings: Request):
        self._torch = pytorch()
        from transformers import Wav2Vec2BertModel

        self._precision = settings["precision"]
        self._direct = settings["way"] == "direct"
        self._model: Any = Wav2Vec2BertModel.from_pretrained(settings["published"])
        if not self._direct:
            hold_matrices(self._torch, self._model, self._precision)

    def prepare(self, request: Request) -> Callable[[], np.ndarray]:
        torch, frames = self._torch, request["frames"]
        features = torch.tensor(random_features(frames))
        mask = {"attention_mask": torch.ones(1, frames, dtype=torch.long)} if self._direct else {}
        mode = torch.no_grad if self._direct else torch.inference_mode

        def run() -> np.ndarray:
            with mode(), autocast(torch, self._precision):
                return self._model(features, **mask).last_hidden_state[0, frames // 2].float().numpy()

        return run


class Careful:
    """A concat checkpoint that stays loaded, on recordings and their texts one by one."""

    def __init__(self, settings: Request):
        self._torch = pytorch()
        from transformers import AutoTokenizer, BertModel, SeamlessM4TFeatureExtractor

        self._precision = settings["precision"]
        folder, text_folder = Path(settings["published"]), Path(settings["text_encoder"])
        self._model: Any = concat_class(self._torch).from_pretrained(folder)
        self._text: Any = BertModel.from_pretrained(text_folder)
        for model in (self._model, self._text):
            hold_matrices(self._torch, model, self._precision)
        self._extractor = SeamlessM4TFeatureExtractor.from_pretrained(folder)
        self._tokenizer = AutoTokenizer.from_pretrained(text_folder)

    def prepare(self, request: Request) -> Callable[[], np.ndarray]:
        return one_by_one(self._score, request)

    def _score(self, recording: str, text: str) -> np.ndarray:
        torch = self._torch
        heard = features_of(self._extractor, recording)
        mask = heard["attention_mask"]
        read = self._tokenizer(text, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        with torch.inference_mode(), autocast(torch, self._precision):
            spoken = self._text(input_ids=read["input_ids"]).last_hidden_state[:, 0]
            # Where the number of filter-bank frames is odd, the last one of the clip is masked.
            given = None if bool(mask.all()) else mask
            states = self._model.wav2vec2_bert(heard["input_features"], attention_mask=given).last_hidden_state
            return probabilities(torch, self._model, states, mask, spoken)


class Toolkit:
    """The same, with the audio model loaded for each clip and its text padded to 512 tokens. BERT stays loaded."""

    def __init__(self, settings: Request):
        self._torch = pytorch()
        from transformers import AutoTokenizer, BertModel

        self._precision = settings["precision"]
        self._folder = Path(settings["published"])
        self._class = concat_class(self._torch)
        self._text: Any = BertModel.from_pretrained(settings["text_encoder"])
        self._tokenizer = AutoTokenizer.from_pretrained(settings["text_encoder"])

    def prepare(self, request: Request) -> Callable[[], np.ndarray]:
        return one_by_one(self.score, request)

    def score(self, recording: str, text: str) -> np.ndarray:
        """Probabilities of one recording and its text."""
        from transformers import AutoFeatureExtractor

        torch = self._torch
        read = self._tokenizer(text, padding="max_length", truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        heard = features_of(AutoFeatureExtractor.from_pretrained(self._folder), recording)
        model = self._class.from_pretrained(self._folder)
        with torch.no_grad(), autocast(torch, self._precision):
            spoken = self._text(**read).last_hidden_state[:, 0]
            states = model.wav2vec2_bert(**heard).last_hidden_state
            return probabilities(torch, model, states, heard["attention_mask"], spoken)


def concat_class(torch: Any) -> Any:
    """A class like the toolkit's, which transformers' from_pretrained fills from a published folder.

    Like that one it is a Wav2Vec2BertForSequenceClassification, which makes an encoder, and then makes one of its own.
    """
    from transformers import Wav2Vec2BertForSequenceClassification, Wav2Vec2BertModel

    class Concat(Wav2Vec2BertForSequenceClassification):
        def __init__(self, config: Any):
            super().__init__(config)
            nn, width = torch.nn, config.classifier_proj_size
            self.wav2vec2_bert = Wav2Vec2BertModel(config)
            self.projector = nn.Linear(config.hidden_size, width)
            head = {"dense": nn.Linear(2 * width, 2 * width), "layernorm": nn.LayerNorm(2 * width)}
            self.classifier: Any = nn.ModuleDict(head | {"out_proj": nn.Linear(2 * width, config.num_labels)})
            self.post_init()

    return Concat


def one_by_one(score: Callable[[str, str], np.ndarray], request: Request) -> Callable[[], np.ndarray]:
    """What scores a request's clips, or its one clip."""
    if "clips" in request:
        return lambda: np.stack([score(recording, text) for recording, text in request["clips"]])
    return lambda: score(request["audio"], request["text"])


def features_of(extractor: Any, recording: str) -> Any:
    """A recording read as the toolkit reads it, and its features. Raises InvalidInput where librosa is missing."""
    try:
        import librosa
    except ImportError as error:
        raise InvalidInput(f"PyTorch's side reads recordings by librosa ({error}): pip install librosa") from error
    waveform, _ = librosa.load(recording, sr=SAMPLE_RATE)
    return extractor(
        waveform, sampling_rate=SAMPLE_RATE, max_length=MAX_FBANK_FRAMES, truncation=True, return_tensors="pt"
    )


def probabilities(torch: Any, model: Any, states: Any, mask: Any, spoken: Any) -> np.ndarray:
    """The head of mode concat: projection, mean over what is no padding, [CLS] beside it, dense, tanh, out_proj."""
    kept = mask[..., None]
    heard = (model.projector(states) * kept).sum(dim=1) / kept.sum(dim=1)
    fused = torch.cat([heard, spoken], dim=-1)
    logits = model.classifier["out_proj"](torch.tanh(model.classifier["dense"](fused)))
    return logits[0].float().softmax(dim=-1).numpy()


class Transcription:
    """transformers' Whisper, greedily, from samples to text."""

    def __init__(self, settings: Request):
        self._torch = pytorch()
        from transformers import WhisperForConditionalGeneration, WhisperProcessor

        self._clips = [load(path) for path in settings["recordings"]]
        self._language = settings["language"]
        self._model: Any = WhisperForConditionalGeneration.from_pretrained(settings["folder"]).eval()
        self._processor: Any = WhisperProcessor.from_pretrained(settings["folder"])

    def prepare(self, request: Request) -> Callable[[], list[str]]:
        clips = [self._clips[number] for number in request["clips"]]

        def run() -> list[str]:
            with self._torch.inference_mode():
                features = self._processor(clips, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features
                ids = self._model.generate(
                    features, language=self._language, task="transcribe", num_beams=1, do_sample=False
                )
            return [text.strip() for text in self._processor.batch_decode(ids, skip_special_tokens=True)]

        return run


class Training:
    """Steps of a plain loop: transformers' encoder as it trains, the head by its formulas, fused AdamW."""

    def __init__(self, settings: Request):
        torch = self._torch = pytorch()
        from transformers import Wav2Vec2BertConfig, Wav2Vec2BertModel

        torch.manual_seed(0)
        nn, width = torch.nn, settings["width"]
        config = Wav2Vec2BertConfig(
            num_hidden_layers=settings["layers"],
            hidden_size=width,
            num_attention_heads=width // 64,
            intermediate_size=4 * width,
            output_hidden_size=width,
            layerdrop=0.0,
            conformer_conv_dropout=0.1,
            apply_spec_augment=True,
        )
        self._encoder = Wav2Vec2BertModel(config)
        self._projector = nn.Linear(width, width)
        drop = nn.Dropout(0.1)
        self._classifier = nn.Sequential(drop, nn.Linear(width, width), nn.Tanh(), drop, nn.Linear(width, LABELS))
        self._model = nn.ModuleList([self._encoder, self._projector, self._classifier]).train()
        self._optimizer = torch.optim.AdamW(
            self._model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True
        )
        self._batches = [
            (torch.tensor(features), torch.tensor(mask).long(), torch.tensor(labels))
            for features, mask, labels in random_batches()
        ]
        self._taken = 0

    def prepare(self, request: Request) -> Callable[[], list[float]]:
        def run() -> list[float]:
            losses = [self._step() for _ in range(request["steps"])]
            return [float(losses[-1])]

        return run

    def _step(self) -> Any:
        torch = self._torch
        features, mask, labels = self._batches[self._taken % BATCHES]
        self._taken += 1
        self._optimizer.zero_grad(set_to_none=True)
        states = self._encoder(features, attention_mask=mask).last_hidden_state
        kept = mask[..., None]
        pooled = (self._projector(states) * kept).sum(dim=1) / kept.sum(dim=1)
        loss = torch.nn.functional.cross_entropy(self._classifier(pooled), labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), CLIP_NORM)
        self._optimizer.step()
        return loss.detach()


def hold_matrices(torch: Any, model: Any, precision: str) -> None:
    """Cast once what autocast would cast in each call: the matrices, and the vectors of distances."""
    if precision == "bfloat16":
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Linear | torch.nn.Conv1d) or name.endswith("distance_embedding"):
                module.to(torch.bfloat16)


def autocast(torch: Any, precision: str) -> AbstractContextManager[Any]:
    return torch.autocast("cpu", dtype=torch.bfloat16) if precision == "bfloat16" else nullcontext()


def rate(precision: str) -> float:
    """FLOP/s of torch.mm."""
    torch = pytorch()
    matrix = torch.ones(SIDE, SIDE, dtype=getattr(torch, precision))
    with torch.inference_mode():
        return matmul_rate(lambda: torch.mm(matrix, matrix))


def predict_once(published: str, text_encoder: str, precision: str, recording: str, text: str) -> None:
    """The toolkit's way in a process that does nothing else: prints the probabilities as JSON."""
    for name in IMPORTED:
        with suppress(ImportError):
            import_module(name)
    toolkit = Toolkit({"published": published, "text_encoder": text_encoder, "precision": precision})
    print(json.dumps(toolkit.score(recording, text).tolist()), flush=True)


def concat(settings: Request) -> Careful | Toolkit:
    return (Toolkit if settings["way"] == "toolkit" else Careful)(settings)


if __name__ == "__main__":
    if sys.argv[1:]:
        predict_once(*sys.argv[1:])
    else:
        serve(
            {
                "encoder": Encoder,
                "prediction": concat,
                "bulk": concat,
                "transcription": Transcription,
                "training": Training,
            },
            rate,
        )
