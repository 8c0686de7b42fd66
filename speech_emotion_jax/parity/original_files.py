"""Read published folders into PyTorch's modules, without this package's converter. Needs the extra `torch`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import BertConfig, BertModel

Model = TypeVar("Model", bound=nn.Module)


def load_bert(folder: Path) -> BertModel:
    """Load a BERT encoder.

    The published files name the tensors with or without the prefix "bert.", and the parameters of the norms as weight
    and bias or as gamma and beta.
    """
    tensors = {}
    for name, tensor in read_tensors(folder).items():
        if name.startswith("cls.") or name.endswith("embeddings.position_ids"):
            continue  # the heads of pretraining, and the constant positions 0 to 511
        name = name.removeprefix("bert.")
        tensors[name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")] = (
            tensor
        )
    config = BertConfig.from_pretrained(folder, attn_implementation="eager")
    return fill(BertModel(config, add_pooling_layer="pooler.dense.weight" in tensors), tensors)


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Read all tensors of a folder, from one safetensors file, from shards or from a PyTorch file."""
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
    assert tensors.keys() == weight_map.keys(), "the shards do not hold the tensors that their index lists"
    return tensors


def fill(model: Model, tensors: dict[str, Tensor]) -> Model:
    """Fill a model with exactly these tensors, in float32, and set it to eval mode."""
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, strict=True, assign=True)
    return model.eval().requires_grad_(False)
