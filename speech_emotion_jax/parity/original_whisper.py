"""The original of a Whisper checkpoint: transformers' own classes in PyTorch. Needs the extra `torch`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

from ..audio import SAMPLE_RATE, WINDOW_SAMPLES
from .original import load_waveform, module_constants
from .stages import ENCODED, LOG_MEL, WAVEFORM, WORD_LOGITS, WORDS, StageArray, layer
from .tensors import Constants


class WhisperOriginal:
    """A published Whisper checkpoint in PyTorch: in eval mode and float32, on the CPU."""

    def __init__(self, folder: Path, language: str):
        """Load a published folder.

        Args:
            folder: the folder of the checkpoint.
            language: the code of the language that is transcribed, such as "es".
        """
        self._language = language
        self._model: Any = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
        self._extractor = WhisperFeatureExtractor.from_pretrained(folder)

    def constants(self) -> Constants:
        """Return the constants of the modules, named as in `tensors.module_constants`."""
        return module_constants(self._model.model)

    def compute_stages(self, recording: str | None, text: str | None = None) -> dict[str, StageArray]:
        """Compute every stage of the first 30 s of a file.

        The stage "words" holds the prompt and the greedily decoded tokens, without the end token. The stage "logits of
        the words" holds, for each of them, the logits of the next token.

        Args:
            recording: the path of an audio file, never None.
            text: ignored, because Whisper takes no text.

        Returns:
            The arrays by stage, without a batch axis.
        """
        assert recording is not None
        waveform = load_waveform(recording)[:WINDOW_SAMPLES]
        with torch.inference_mode():
            log_mel = self._extractor(waveform, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features
            states = self._encoder_states(log_mel)
            words = self._model.generate(
                log_mel,
                language=self._language,
                task="transcribe",
                num_beams=1,
                do_sample=False,
                force_unique_generate_call=True,
            )
            if (ends := (words[0] == self._model.generation_config.eos_token_id).nonzero()).numel():
                words = words[:, : int(ends[0])]
            logits = self._model(log_mel, decoder_input_ids=words).logits
        stages = {WAVEFORM: waveform, LOG_MEL: log_mel[0].T}
        stages |= {layer("encoder", index): each[0] for index, each in enumerate(states[:-1])}
        stages |= {ENCODED: states[-1][0], WORD_LOGITS: logits[0], WORDS: words[0]}
        return {stage: np.asarray(array) for stage, array in stages.items()}

    def _encoder_states(self, log_mel: torch.Tensor) -> list[torch.Tensor]:
        """Return the input of the first layer, the output of every layer, and the normalised last output."""
        encoder, states = self._model.get_encoder(), []
        hooks = [encoder.layers[0].register_forward_pre_hook(lambda _, inputs: states.append(inputs[0]))]
        for each in encoder.layers:
            hooks.append(each.register_forward_hook(lambda _, __, output: states.append(_tensor(output))))
        last = encoder(log_mel).last_hidden_state
        for hook in hooks:
            hook.remove()
        return [*states, last]


def _tensor(output: Any) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output
