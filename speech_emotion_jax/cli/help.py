"""Put the flags of each verb into groups in --help, with an example below them.

A flag belongs to one group, whichever verb has it. One that is not listed stands under "options".
"""

from __future__ import annotations

from collections.abc import Mapping

from ..runtime.console import PROGRAM

_FLAGS: Mapping[str, str] = {
    "input": "--audio --channel --text --manifest --audio-root --time-unit --columns --label-map --split --limit"
    " --transcripts --predictions --train --test --fit-split --apply-split --turns --units --window --hop --smooth"
    " --topology --tokens --clips --strict",
    "model": "--mode --language --model-id --model-config --text-encoder --whisper-model --revision --weights --labels"
    " --reference --layers --width --weights-folder",
    "transcription": "--task --timestamps --beams --fallback --sequential --condition-on-previous",
    "recipe": "--set --init --seed --folds",
    "measuring": "--group-by --resamples --test-size --minutes --short --against --pairs --largest-batch --per-chip"
    " --faster-whisper",
    "devices and speed": "--device --precision --batch-size --seconds --platforms",
    "several hosts": "--distributed --coordinator --hosts --host",
    "output": "--output --json --format --to --embeddings --save-every --record --parameters --shard-mb --verbose",
}
GROUP_OF: Mapping[str, str] = {flag: title for title, flags in _FLAGS.items() for flag in flags.split()}

_CLIPS = "--manifest clips.csv --audio-root audio"
_EXAMPLES: Mapping[str, str] = {
    "audit": "--manifest clips.csv --group-by speaker --output disjoint.csv",
    "benchmark": "encoder bulk --output benchmarks",
    "calibrate": "run --fit-split dev --apply-split test --output calibrated",
    "compare": "run-audio run-concat --group-by speaker",
    "convert": "UMUTeam/w2v-bert-emotion-es DEST --mode audio --language es",
    "demo": "--device cpu",
    "evaluate": f"{_CLIPS} --mode concat --language es --group-by speaker --output run",
    "export": "--mode concat --language es --seconds 5,10 --output exported",
    "info": "DEST",
    "manifest": "ravdess RAVDESS_FOLDER --output ravdess.csv",
    "pack": f"{_CLIPS} --output packed",
    "parity": "--mode audio --language es --audio clip.wav --output parity",
    "plan": "--topology v5e:2x4 --mode concat --batch-size 256 --seconds 15",
    "precision": "--mode audio --language es --audio a.wav b.wav",
    "predict": '--mode concat --language es --audio clip.wav --text "No me lo puedo creer"',
    "selfcheck": "--output selfcheck",
    "timeline": "talk.flac --mode concat --language es --output talk.json talk.srt",
    "train": f"es-concat {_CLIPS} --group-by speaker --output run",
    "transcribe": "talk.flac --language es --format srt --timestamps word --output subtitles",
    "warmup": "--mode concat --language es --seconds 30",
}


def example_of(verb: str) -> str | None:
    """Return the end of a verb's help: one command to copy. None for a verb without an example."""
    return f"example:\n  {PROGRAM} {verb} {_EXAMPLES[verb]}" if verb in _EXAMPLES else None
