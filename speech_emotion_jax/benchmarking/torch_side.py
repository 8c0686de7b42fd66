"""PyTorch's side of the benchmarks. It runs in a process of its own.

There are three ways to run PyTorch. "careful" is optimised PyTorch: transformers' own encoder classes, loaded once, in
inference mode, with unpadded texts and no mask if nothing is padded; in bfloat16 it uses autocast with matrices that
are cast in advance. "direct" calls the same class as its documentation does. "toolkit" predicts like the original
toolkit, which loads the audio model for every call and pads every text to 512 tokens.

No other module of the benchmarks imports PyTorch.
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

from ..audio import MAX_FBANK_FRAMES, SAMPLE_RATE, load
from ..errors import InvalidInput
from .clips import MAX_TOKENS, random_features
from .machine import MATRIX_WIDTH, count_cores, measure_matmul_rate
from .serving import Question, serve
from .steps import BATCHES, CLIP_NORM, LABELS, LEARNING_RATE, WEIGHT_DECAY, encoder_size, random_batches

# The toolkit imports these besides torch, transformers and librosa. It also downloads metrics at that moment, which is
# left out here.
TOOLKIT_IMPORTS = (
    "datasets",
    "evaluate",
    "pandas",
    "sklearn.metrics",
    "sklearn.model_selection",
    "transformers.trainer",
)


def pytorch() -> Any:
    """Import torch and let it use all cores.

    Raises:
        InvalidInput: if torch or transformers cannot be imported.
    """
    try:
        import torch
        from transformers import BertModel, Wav2Vec2BertModel, logging  # noqa: F401
    except ImportError as error:
        raise _not_installed(error) from error
    logging.set_verbosity_error()  # every load would warn that the encoder's class ignores the head
    logging.disable_progress_bar()
    torch.set_num_threads(count_cores())
    return torch


def check_installed() -> None:
    """Check that PyTorch is installed, without importing it.

    Raises:
        InvalidInput: if it is not.
    """
    if find_spec("torch") is None:
        raise _not_installed("there is no module torch")


def _not_installed(why: object) -> InvalidInput:
    return InvalidInput(
        f"PyTorch is not installed ({why}), so there is nothing to compare with: "
        "pip install -e '.[torch]', or leave --against out"
    )


class Encoder:
    """Run transformers' Wav2Vec2BertModel alone, on features."""

    def __init__(self, settings: Question):
        """Load the published checkpoint."""
        self._torch = pytorch()
        from transformers import Wav2Vec2BertModel

        self._precision = settings["precision"]
        self._direct = settings["way"] == "direct"
        self._model: Any = Wav2Vec2BertModel.from_pretrained(settings["published"])
        if not self._direct:
            cast_matrices(self._torch, self._model, self._precision)

    def prepare(self, workload: Question) -> Callable[[], np.ndarray]:
        """Return a function that runs the workload once. Everything that is not timed is done here."""
        torch, frames = self._torch, workload["frames"]
        features = torch.tensor(random_features(frames))
        mask = {"attention_mask": torch.ones(1, frames, dtype=torch.long)} if self._direct else {}
        mode = torch.no_grad if self._direct else torch.inference_mode

        def run() -> np.ndarray:
            with mode(), autocast(torch, self._precision):
                return self._model(features, **mask).last_hidden_state[0, frames // 2].float().numpy()

        return run


class CarefulConcat:
    """Predict with a concat checkpoint that stays loaded, one clip at a time."""

    def __init__(self, settings: Question):
        """Load the published checkpoint."""
        self._torch = pytorch()
        from transformers import AutoTokenizer, BertModel, SeamlessM4TFeatureExtractor

        self._precision = settings["precision"]
        folder, text_folder = Path(settings["published"]), Path(settings["text_encoder"])
        self._model: Any = define_concat_class(self._torch).from_pretrained(folder)
        self._text: Any = BertModel.from_pretrained(text_folder)
        for model in (self._model, self._text):
            cast_matrices(self._torch, model, self._precision)
        self._extractor = SeamlessM4TFeatureExtractor.from_pretrained(folder)
        self._tokenizer = AutoTokenizer.from_pretrained(text_folder)

    def prepare(self, workload: Question) -> Callable[[], np.ndarray]:
        """Return a function that runs the workload once. Everything that is not timed is done here."""
        return one_by_one(self._score, workload)

    def _score(self, recording: str, text: str) -> np.ndarray:
        torch = self._torch
        features = load_features(self._extractor, recording)
        mask = features["attention_mask"]
        tokens = self._tokenizer(text, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        with torch.inference_mode(), autocast(torch, self._precision):
            text_vector = self._text(input_ids=tokens["input_ids"]).last_hidden_state[:, 0]
            # If the number of filter-bank frames is odd, the last frame is masked.
            attention_mask = None if bool(mask.all()) else mask
            states = self._model.wav2vec2_bert(
                features["input_features"], attention_mask=attention_mask
            ).last_hidden_state
            return probabilities(torch, self._model, states, mask, text_vector)


class ToolkitConcat:
    """Predict like the toolkit: load the audio model for each clip, and pad its text to 512 tokens.

    BERT stays loaded.
    """

    def __init__(self, settings: Question):
        """Load the text encoder of the published checkpoint."""
        self._torch = pytorch()
        from transformers import AutoTokenizer, BertModel

        self._precision = settings["precision"]
        self._folder = Path(settings["published"])
        self._class = define_concat_class(self._torch)
        self._text: Any = BertModel.from_pretrained(settings["text_encoder"])
        self._tokenizer = AutoTokenizer.from_pretrained(settings["text_encoder"])

    def prepare(self, workload: Question) -> Callable[[], np.ndarray]:
        """Return a function that runs the workload once. Everything that is not timed is done here."""
        return one_by_one(self.score, workload)

    def score(self, recording: str, text: str) -> np.ndarray:
        """Return the probabilities of one recording and its text."""
        from transformers import AutoFeatureExtractor

        torch = self._torch
        tokens = self._tokenizer(
            text, padding="max_length", truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
        )
        features = load_features(AutoFeatureExtractor.from_pretrained(self._folder), recording)
        model = self._class.from_pretrained(self._folder)
        with torch.no_grad(), autocast(torch, self._precision):
            text_vector = self._text(**tokens).last_hidden_state[:, 0]
            states = model.wav2vec2_bert(**features).last_hidden_state
            return probabilities(torch, model, states, features["attention_mask"], text_vector)


def define_concat_class(torch: Any) -> Any:
    """Define a class like the toolkit's, which transformers' from_pretrained can load from a published folder.

    Like the toolkit's it inherits from Wav2Vec2BertForSequenceClassification and then replaces the encoder that this
    class has just made, so that loading costs the same.
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


def one_by_one(score: Callable[[str, str], np.ndarray], workload: Question) -> Callable[[], np.ndarray]:
    """Return a function that scores the clips of a workload one by one, or its only clip."""
    if "clips" in workload:
        return lambda: np.stack([score(recording, text) for recording, text in workload["clips"]])
    return lambda: score(workload["audio"], workload["text"])


def load_features(extractor: Any, recording: str) -> Any:
    """Read a recording as the toolkit does, and extract its features.

    Raises:
        InvalidInput: if librosa is not installed.
    """
    try:
        import librosa
    except ImportError as error:
        raise InvalidInput(f"PyTorch's side needs librosa to read recordings ({error}): pip install librosa") from error
    waveform, _ = librosa.load(recording, sr=SAMPLE_RATE)
    return extractor(
        waveform, sampling_rate=SAMPLE_RATE, max_length=MAX_FBANK_FRAMES, truncation=True, return_tensors="pt"
    )


def probabilities(torch: Any, model: Any, states: Any, mask: Any, text_vector: Any) -> np.ndarray:
    """Compute the head of mode concat: project and average the states, append the text vector, and classify."""
    real = mask[..., None]
    audio_vector = (model.projector(states) * real).sum(dim=1) / real.sum(dim=1)
    fused = torch.cat([audio_vector, text_vector], dim=-1)
    logits = model.classifier["out_proj"](torch.tanh(model.classifier["dense"](fused)))
    return logits[0].float().softmax(dim=-1).numpy()


class Transcription:
    """Transcribe with transformers' Whisper from samples to text, greedily."""

    def __init__(self, settings: Question):
        """Load the recordings and the model that `settings` names."""
        self._torch = pytorch()
        from transformers import WhisperForConditionalGeneration, WhisperProcessor

        self._clips = [load(path) for path in settings["recordings"]]
        self._language = settings["language"]
        self._model: Any = WhisperForConditionalGeneration.from_pretrained(settings["folder"]).eval()
        self._processor: Any = WhisperProcessor.from_pretrained(settings["folder"])

    def prepare(self, workload: Question) -> Callable[[], list[str]]:
        """Return a function that runs the workload once. Everything that is not timed is done here."""
        clips = [self._clips[number] for number in workload["clips"]]

        def run() -> list[str]:
            with self._torch.inference_mode():
                features = self._processor(clips, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features
                ids = self._model.generate(
                    features, language=self._language, task="transcribe", num_beams=1, do_sample=False
                )
            return [text.strip() for text in self._processor.batch_decode(ids, skip_special_tokens=True)]

        return run


class Training:
    """Run steps of a plain training loop with transformers' encoder, the head and fused AdamW."""

    def __init__(self, settings: Question):
        """Initialise a model of the size that `settings` gives, and its optimizer."""
        torch = self._torch = pytorch()
        from transformers import Wav2Vec2BertConfig, Wav2Vec2BertModel

        torch.manual_seed(0)
        nn, width = torch.nn, settings["width"]
        config = Wav2Vec2BertConfig(
            **encoder_size(settings["layers"], width),
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
        self._steps_done = 0

    def prepare(self, workload: Question) -> Callable[[], list[float]]:
        """Return a function that runs the workload once. Everything that is not timed is done here."""

        def run() -> list[float]:
            losses = [self._step() for _ in range(workload["steps"])]
            return [float(losses[-1])]

        return run

    def _step(self) -> Any:
        torch = self._torch
        features, mask, labels = self._batches[self._steps_done % BATCHES]
        self._steps_done += 1
        self._optimizer.zero_grad(set_to_none=True)
        states = self._encoder(features, attention_mask=mask).last_hidden_state
        real = mask[..., None]
        pooled = (self._projector(states) * real).sum(dim=1) / real.sum(dim=1)
        loss = torch.nn.functional.cross_entropy(self._classifier(pooled), labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), CLIP_NORM)
        self._optimizer.step()
        return loss.detach()


def cast_matrices(torch: Any, model: Any, precision: str) -> None:
    """Cast in advance what autocast would cast in every call: the matrices and the distance embeddings."""
    if precision == "bfloat16":
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Linear | torch.nn.Conv1d) or name.endswith("distance_embedding"):
                module.to(torch.bfloat16)


def autocast(torch: Any, precision: str) -> AbstractContextManager[Any]:
    """Return the context of autocast in bfloat16, and an empty context in float32."""
    return torch.autocast("cpu", dtype=torch.bfloat16) if precision == "bfloat16" else nullcontext()


def rate(precision: str) -> float:
    """Return the FLOP/s of torch.mm in a precision."""
    torch = pytorch()
    matrix = torch.ones(MATRIX_WIDTH, MATRIX_WIDTH, dtype=getattr(torch, precision))
    with torch.inference_mode():
        return measure_matmul_rate(lambda: torch.mm(matrix, matrix))


def predict_once(published: str, text_encoder: str, precision: str, recording: str, text: str) -> None:
    """Predict like the toolkit in a process of its own, and print the probabilities as JSON."""
    for name in TOOLKIT_IMPORTS:
        with suppress(ImportError):
            import_module(name)
    toolkit = ToolkitConcat({"published": published, "text_encoder": text_encoder, "precision": precision})
    print(json.dumps(toolkit.score(recording, text).tolist()), flush=True)


def load_concat(settings: Question) -> CarefulConcat | ToolkitConcat:
    """Load the concat checkpoint for the way that `settings` names."""
    return (ToolkitConcat if settings["way"] == "toolkit" else CarefulConcat)(settings)


if __name__ == "__main__":
    if sys.argv[1:]:
        predict_once(*sys.argv[1:])
    else:
        serve(
            {
                "encoder": Encoder,
                "prediction": load_concat,
                "bulk": load_concat,
                "transcription": Transcription,
                "training": Training,
            },
            rate,
        )
