"""Rules that assign a checkpoint's tensors to a model's parameters, and a strict account of both.

A rule is a row of a table: the name of a tensor, the path of a parameter, and how the array is laid out on each side. A
name with "{i}" stands for a tensor of each layer (or head), which are stacked on a leading axis. `match` compares the
table with the tensors of a file and the parameters of a model. Every tensor must be used once, or be on the explicit
list of those that this task does not use. Every parameter must be filled, with a tensor of its own shape.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np

from ..errors import InvalidInput


@dataclass(frozen=True)
class Transform:
    """The layout of an array: `forward` turns that of the file into that of the model, `inverse` turns it back."""

    forward: Callable[[np.ndarray], np.ndarray]
    inverse: Callable[[np.ndarray], np.ndarray]


KEEP = Transform(lambda x: x, lambda x: x)
TRANSPOSE = Transform(lambda x: x.T, lambda x: x.T)  # torch Linear (out, in), ours (in, out)
POINTWISE = Transform(lambda x: x[:, :, 0].T, lambda x: x.T[:, :, None])  # Conv1d with kernel size 1, (out, in, 1)
DEPTHWISE = Transform(
    lambda x: x[:, 0].T, lambda x: x.T[:, None]
)  # Conv1d with one group per channel, (width, 1, taps)
CONVOLUTION = Transform(lambda x: x.transpose(2, 1, 0), lambda x: x.transpose(2, 1, 0))  # (out, in, taps)


@dataclass(frozen=True)
class Rule:
    """One tensor, or one per layer or head, and the parameter that it fills.

    Attributes:
        source: Name of the tensor in the file, with "{i}" for the number of a layer or head.
        target: Path of the parameter in the model, without the number.
        transform: How the layouts differ.
    """

    source: str
    target: str
    transform: Transform = KEEP

    @property
    def stacked(self) -> bool:
        """Whether the tensors of all layers or heads are stacked in one parameter."""
        return "{i}" in self.source


@dataclass(frozen=True)
class UnusedTensors:
    """Tensors that may be in the file and take no part in the computation. They are copied with the others.

    Attributes:
        source: Their name, where "*" stands for any rest of it.
        reason: Why they are not used.
    """

    source: str
    reason: str


@dataclass(frozen=True)
class Layout:
    """The table of one kind of file.

    Attributes:
        rules: The tensors that are used.
        unused: The tensors that are not.
        optional_prefix: A prefix that all names in some files have, and none in others.
        renamed: Last parts of names in old files, and what they are today: {"gamma": "weight"}.
    """

    rules: tuple[Rule, ...]
    unused: tuple[UnusedTensors, ...] = ()
    optional_prefix: str = ""
    renamed: Mapping[str, str] | None = None

    def canonical(self, name: str) -> str:
        """Return the name that a tensor of a file has in the table."""
        name = name.removeprefix(self.optional_prefix)
        stem, dot, last = name.rpartition(".")
        return stem + dot + (self.renamed or {}).get(last, last)

    def tensors(self, parameters: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the tensors of a file that holds these parameters, under their canonical names."""
        out: dict[str, np.ndarray] = {}
        for rule in self.rules:
            if rule.target not in parameters:
                continue
            stack = parameters[rule.target] if rule.stacked else parameters[rule.target][None]
            for index, item in enumerate(stack):
                out[rule.source.replace("{i}", str(index))] = np.ascontiguousarray(rule.transform.inverse(item))
        return out


def with_prefix(rules: tuple[Rule, ...], source: str, target: str) -> tuple[Rule, ...]:
    """Return the rules with a prefix before each source and each target."""
    return tuple(replace(rule, source=source + rule.source, target=target + rule.target) for rule in rules)


@dataclass(frozen=True)
class TensorInfo:
    """What is known of a tensor before it is read. `dtype` is the name in safetensors: F32, F16, BF16, I64, ..."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Assignment:
    """One parameter and the tensors that fill it: one, or one per layer in the order of the stack."""

    target: str
    shape: tuple[int, ...]
    transform: Transform
    names: tuple[str, ...]
    stacked: bool


@dataclass(frozen=True)
class Matching:
    """The account of all tensors of a file.

    Attributes:
        assignments: The parameters with their tensors.
        unused: {name: reason} of the tensors that are not used.
    """

    assignments: tuple[Assignment, ...]
    unused: Mapping[str, str]


FLOATS = ("F32", "F16", "BF16")
READABLE = (*FLOATS, "F64", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL")


WRAPPERS = ("module.", "_orig_mod.")  # which torch's DataParallel and compile put before every name
_SHOWN = 10  # problems of a kind that a message names at most


def wrapper_prefix(names: Collection[str]) -> str:
    """Return what torch's wrappers have put before every one of the names, which may be nested, or ""."""
    prefix = ""
    while wrapper := next((w for w in WRAPPERS if names and all(n.startswith(prefix + w) for n in names)), ""):
        prefix += wrapper
    return prefix


def unwrapped(tensors: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """Return the tensors under their names without `wrapper_prefix`."""
    prefix = wrapper_prefix(tensors.keys())
    return {name.removeprefix(prefix): info for name, info in tensors.items()}


def match(
    layout: Layout, tensors: Mapping[str, TensorInfo], parameters: Mapping[str, tuple[int, ...]]
) -> tuple[Matching, list[str]]:
    """Compare a layout with the tensors of a file and the shapes of a model's parameters.

    Args:
        layout: The rules.
        tensors: The tensors of the file.
        parameters: {path: shape} of the model.

    Returns:
        The matching, and a phrase for each problem. The matching is complete only if there are no problems. The caller
        names the file in the message, and may add problems that it finds while reading.
    """
    problems: list[str] = []
    rules = [rule for rule in layout.rules if rule.target in parameters]
    patterns = [(re.compile(_regex(rule.source)), rule) for rule in rules]
    unused_patterns = [(re.compile(re.escape(each.source).replace(r"\*", ".*")), each) for each in layout.unused]
    names: dict[str, dict[int | None, str]] = {rule.target: {} for rule in rules}
    unused: dict[str, str] = {}
    seen: dict[str, str] = {}
    prefix = wrapper_prefix(tensors.keys())

    for name in tensors:
        canonical = layout.canonical(name.removeprefix(prefix))
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
            names[rule.target][index] = name
            continue
        reasons = [each.reason for pattern, each in unused_patterns if pattern.fullmatch(canonical)]
        if reasons and tensors[name].dtype not in READABLE:
            problems.append(f"{name} has dtype {tensors[name].dtype}, which can't be read")
        elif reasons:
            unused[name] = reasons[0]
        else:
            problems.append(f"{name} is unknown")

    assignments: list[Assignment] = []
    for rule in rules:
        shape = parameters[rule.target]
        indices = range(shape[0]) if rule.stacked else [None]
        have = names[rule.target]
        problems += [f"{rule.source.replace('{i}', str(index))} is missing" for index in indices if index not in have]
        problems += [f"{have[index]} is beyond the model's {shape[0]} layers" for index in have if index not in indices]
        item_shape = shape[1:] if rule.stacked else shape
        for index in indices:
            if index in have and (wrong := _wrong(tensors[have[index]], rule.transform, item_shape)):
                problems.append(f"{have[index]} {wrong}")
        assignments.append(
            Assignment(rule.target, shape, rule.transform, tuple(have.get(i, "") for i in indices), rule.stacked)
        )
    for target in parameters.keys() - {rule.target for rule in rules}:
        problems.append(f"the model's {target} has no rule")
    return Matching(tuple(assignments), unused), problems


def _regex(source: str) -> str:
    return re.escape(source).replace(r"\{i\}", r"(?P<i>0|[1-9][0-9]*)")


def _wrong(info: TensorInfo, transform: Transform, shape: tuple[int, ...]) -> str | None:
    if info.dtype not in FLOATS:
        return f"has dtype {info.dtype} in place of one of {', '.join(FLOATS)}"
    expected = transform.inverse(np.broadcast_to(np.float32(0), shape)).shape
    return None if info.shape == expected else f"has shape {info.shape} in place of {expected}"


def tensors_error(where: str, problems: list[str]) -> InvalidInput:
    """Return an error that lists the first problems with the tensors of a file, and the number of the others."""
    return InvalidInput(f"the tensors of {where} do not fit the model: {listed_problems(problems)}")


def listed_problems(problems: list[str]) -> str:
    """List the first problems of each kind in alphabetical order, and the number of the others."""
    kinds: dict[str, list[str]] = {}
    for problem in sorted(problems):
        kinds.setdefault(next((end for end in (" missing", " unknown") if problem.endswith(end)), ""), []).append(
            problem
        )
    shown = sorted(problem for kind in kinds.values() for problem in kind[:_SHOWN])
    more = f"; and {len(problems) - len(shown):,} more" if len(shown) < len(problems) else ""
    return "; ".join(shown) + more
