"""A program whose float32 matrix products are multiplied in another way than it was written with.

The models multiply float32 in full float32. What another of JAX's settings would make of them is found by changing the
products in the traced program, those inside of loops and branches too; the model's code knows nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Var, jaxpr_as_fun, new_jaxpr_eqn
from jax.extend.core.primitives import dot_general_p, reduce_precision_p

# JAX's settings: full float32; bfloat16 in three passes on TPUs, TF32 on GPUs; bfloat16 once on TPUs, TF32 on GPUs.
JAX_PRECISIONS = {name: getattr(jax.lax.Precision, name.upper()) for name in ("highest", "high", "default")}
# What TPUs and GPUs do by default, on any device: both operands are rounded to so many bits after the leading one.
ROUNDED_BITS = {"rounded to TF32": 10, "rounded to bfloat16": 7}
EXPONENT_BITS = 8  # of all three


def change_products(function: Callable[..., Any], how: str) -> Callable[..., Any]:
    """The function with its float32 products multiplied as one of JAX_PRECISIONS or ROUNDED_BITS says.

    Its arguments and results are pytrees of arrays; it may be jitted.
    """

    def changed(*arguments: Any) -> Any:
        program, result = jax.make_jaxpr(function, return_shape=True)(*arguments)
        leaves = jaxpr_as_fun(_changed(program, how))(*jax.tree.leaves(arguments))
        return jax.tree.unflatten(jax.tree.structure(result), leaves)

    return changed


def _changed(program: Any, how: str) -> Any:
    """A jaxpr, with or without constants, or what isn't one, as it is; containers are gone through."""
    if isinstance(program, ClosedJaxpr):
        return program.replace(jaxpr=_changed(program.jaxpr, how))
    if isinstance(program, Jaxpr):
        return program.replace(eqns=[each for equation in program.eqns for each in _equations(equation, how)])
    if type(program) in (tuple, list):  # a named one is a setting
        return type(program)(_changed(each, how) for each in program)
    return program


def _equations(equation: JaxprEqn, how: str) -> list[JaxprEqn]:
    if equation.primitive is not dot_general_p:
        return [equation.replace(params={name: _changed(value, how) for name, value in equation.params.items()})]
    if any(getattr(operand.aval, "dtype", None) != jnp.float32 for operand in equation.invars):
        return [equation]
    if how in JAX_PRECISIONS:
        setting = JAX_PRECISIONS[how]
        return [equation.replace(params={**equation.params, "precision": (setting, setting)})]
    rounding, operands = [], []
    for operand in equation.invars:
        operands.append(Var(operand.aval))
        bits = {"exponent_bits": EXPONENT_BITS, "mantissa_bits": ROUNDED_BITS[how]}
        rounding.append(
            new_jaxpr_eqn([operand], [operands[-1]], reduce_precision_p, bits, equation.effects, equation.source_info)
        )
    return [*rounding, equation.replace(invars=operands)]
