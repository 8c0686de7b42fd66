"""Rules that map a checkpoint's tensors to a model's parameters, and the strict accounting of both sides.

A rule is a row of a table: the tensor's name, the parameter's path, and how the array is laid out on each side. A
name with "{i}" stands for a tensor of each layer (or head); they are stacked on a leading axis. `match` holds the
table against the tensors of a file and the parameters of a model. It finds a fault unless every tensor is used once,
or is on the written list of those this task does not use, and every parameter is filled with its own shape.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from ..errors import InvalidInput


@dataclass(frozen=True)
class Transform:
    """How an array is laid out in the file (`inverse`) and in the model (`forward`)."""

    forward: Callable[[np.ndarray], np.ndarray]
    inverse: Callable[[np.ndarray], np.ndarray]


KEEP = Transform(lambda x: x, lambda x: x)
TRANSPOSE = Transform(lambda x: x.T, lambda x: x.T)  # torch Linear (out, in), ours (in, out)
POINTWISE = Transform(lambda x: x[:, :, 0].T, lambda x: x.T[:, :, None])  # Conv1d of kernel 1, (out, in, 1)
DEPTHWISE = Transform(lambda x: x[:, 0].T, lambda x: x.T[:, None])  # Conv1d with a group a channel, (width, 1, taps)
CONVOLUTION = Transform(lambda x: x.transpose(2, 1, 0), lambda x: x.transpose(2, 1, 0))  # (out, in, taps)


@dataclass(frozen=True)
class Rule:
    source: str  # the tensor's name in the file, "{i}" for the number of a layer or head
    target: str  # the parameter's path in the model, without the number: stacked
    transform: Transform = KEEP

    @property
    def stacked(self) -> bool:
        return "{i}" in self.source


@dataclass(frozen=True)
class Unused:
    """Tensors that may be in the file, are carried along, and take no part in the computation."""

    source: str  # "*" stands for any rest of the name
    reason: str


@dataclass(frozen=True)
class Layout:
    """The table of one kind of file."""

    rules: tuple[Rule, ...]
    unused: tuple[Unused, ...] = ()
    optional_prefix: str = ""  # stands before some files' names and not before others'
    renamed: Mapping[str, str] | None = None  # old last parts of names: {"gamma": "weight"}

    def canonical(self, name: str) -> str:
        """The name under which the table has this tensor."""
        name = name.removeprefix(self.optional_prefix)
        stem, dot, last = name.rpartition(".")
        return stem + dot + (self.renamed or {}).get(last, last)

    def tensors(self, parameters: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The tensors of a file that holds these parameters, under their canonical names."""
        out: dict[str, np.ndarray] = {}
        for rule in self.rules:
            if rule.target not in parameters:
                continue
            stack = parameters[rule.target] if rule.stacked else parameters[rule.target][None]
            for index, item in enumerate(stack):
                out[rule.source.replace("{i}", str(index))] = np.ascontiguousarray(rule.transform.inverse(item))
        return out


def under(rules: tuple[Rule, ...], source: str, target: str) -> tuple[Rule, ...]:
    """The same rules with both sides moved below a prefix."""
    return tuple(replace(rule, source=source + rule.source, target=target + rule.target) for rule in rules)


@dataclass(frozen=True)
class TensorInfo:
    """What is known of a tensor before it is read. `dtype` is safetensors' name of it: F32, F16, BF16, I64, ..."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Filled:
    """One parameter and the tensors that fill it: one, or one for each index of the stack, in order."""

    target: str
    shape: tuple[int, ...]
    transform: Transform
    names: tuple[str, ...]
    stacked: bool


@dataclass(frozen=True)
class Matching:
    """Every tensor of a file accounted for."""

    filled: tuple[Filled, ...]
    unused: Mapping[str, str]  # name: why it is not used


FLOATS = ("F32", "F16", "BF16")
READABLE = (*FLOATS, "F64", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL")


def match(
    layout: Layout, tensors: Mapping[str, TensorInfo], parameters: Mapping[str, tuple[int, ...]]
) -> tuple[Matching, list[str]]:
    """Hold a layout against the tensors of a file and the shapes of a model's parameters.

    Returns the matching and what is wrong, one phrase a tensor: the caller names the file and may add what it finds
    while reading. The matching is complete only where nothing is wrong.
    """
    problems: list[str] = []
    rules = [rule for rule in layout.rules if rule.target in parameters]
    patterns = [(re.compile(_regex(rule.source)), rule) for rule in rules]
    unused_patterns = [(re.compile(re.escape(each.source).replace(r"\*", ".*")), each) for each in layout.unused]
    found: dict[str, dict[int | None, str]] = {rule.target: {} for rule in rules}
    unused: dict[str, str] = {}
    seen: dict[str, str] = {}

    for name in tensors:
        canonical = layout.canonical(name)
        if canonical in seen:
            problems.append(f"{name} and {seen[canonical]} are the same tensor")
            continue
        seen[canonical] = name
        hits = [(rule, hit) for pattern, rule in patterns if (hit := pattern.fullmatch(canonical))]
        if len(hits) > 1:
            problems.append(f"{name} fits {len(hits)} rules")
            continue
        if hits:
            rule, hit = hits[0]
            index = int(hit["i"]) if "i" in hit.groupdict() else None
            found[rule.target][index] = name
            continue
        reasons = [each.reason for pattern, each in unused_patterns if pattern.fullmatch(canonical)]
        if reasons and tensors[name].dtype not in READABLE:
            problems.append(f"{name} has dtype {tensors[name].dtype}, which can't be read")
        elif reasons:
            unused[name] = reasons[0]
        else:
            problems.append(f"{name} is unknown")

    filled: list[Filled] = []
    for rule in rules:
        shape = parameters[rule.target]
        wanted = range(shape[0]) if rule.stacked else [None]
        have = found[rule.target]
        problems += [f"{rule.source.replace('{i}', str(index))} is missing" for index in wanted if index not in have]
        problems += [f"{have[index]} is beyond the model's {shape[0]} layers" for index in have if index not in wanted]
        item_shape = shape[1:] if rule.stacked else shape
        for index in wanted:
            if index in have and (wrong := _wrong(tensors[have[index]], rule.transform, item_shape)):
                problems.append(f"{have[index]} {wrong}")
        filled.append(Filled(rule.target, shape, rule.transform, tuple(have.get(i, "") for i in wanted), rule.stacked))
    for target in parameters.keys() - {rule.target for rule in rules}:
        problems.append(f"the model's {target} has no rule")
    return Matching(tuple(filled), unused), problems


def _regex(source: str) -> str:
    return re.escape(source).replace(r"\{i\}", r"(?P<i>0|[1-9][0-9]*)")


def _wrong(info: TensorInfo, transform: Transform, shape: tuple[int, ...]) -> str | None:
    if info.dtype not in FLOATS:
        return f"has dtype {info.dtype} in place of one of {', '.join(FLOATS)}"
    expected = transform.inverse(np.broadcast_to(np.float32(0), shape)).shape
    return None if info.shape == expected else f"has shape {info.shape} in place of {expected}"


def complain(where: str, problems: list[str]) -> InvalidInput:
    """All that is wrong with a file, in one sentence."""
    return InvalidInput(f"the tensors of {where} do not fit the model: {'; '.join(sorted(problems))}")
