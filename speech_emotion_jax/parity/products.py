"""Change the precision of the float32 matrix products of a traced program.

The models always multiply float32 in full float32. To measure what another setting would cost, this module rewrites
the products in the traced program, including those inside loops and branches. The models' code is not changed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ..runtime.compat import (
    ClosedJaxpr,
    Jaxpr,
    JaxprEqn,
    Var,
    dot_general_p,
    jaxpr_as_fun,
    new_jaxpr_eqn,
    reduce_precision_p,
)

# JAX's settings for float32 products. "highest" is full float32. "high" is three bfloat16 passes on TPUs and TF32 on
# GPUs. "default" is one bfloat16 pass on TPUs and TF32 on GPUs.
JAX_PRECISIONS = {name: getattr(jax.lax.Precision, name.upper()) for name in ("highest", "high", "default")}
# Emulations of the defaults of GPUs (TF32) and TPUs (bfloat16) on any device: the mantissa bits that both operands are
# rounded to.
ROUNDED_BITS = {"rounded to TF32": 10, "rounded to bfloat16": 7}
EXPONENT_BITS = 8  # the same in float32, TF32 and bfloat16


def change_products(function: Callable[..., Any], setting: str) -> Callable[..., Any]:
    """Return a function that computes the same with another precision of its float32 products.

    Args:
        function: takes and returns pytrees of arrays. It may be jitted.
        setting: a key of JAX_PRECISIONS or ROUNDED_BITS.
    """

    def rewritten(*arguments: Any) -> Any:
        program, result = jax.make_jaxpr(function, return_shape=True)(*arguments)
        leaves = jaxpr_as_fun(_rewrite(program, setting))(*jax.tree.leaves(arguments))
        return jax.tree.unflatten(jax.tree.structure(result), leaves)

    return rewritten


def _rewrite(program: Any, setting: str) -> Any:
    """Rewrite a jaxpr, closed or not, or every jaxpr inside a list or tuple. Return anything else unchanged."""
    if isinstance(program, Jaxpr):  # since JAX 0.12 a ClosedJaxpr is one, too
        return program.replace(
            eqns=[each for equation in program.eqns for each in _rewrite_equation(equation, setting)]
        )
    if isinstance(program, ClosedJaxpr):
        return program.replace(jaxpr=_rewrite(program.jaxpr, setting))
    if type(program) in (tuple, list):  # a named tuple holds settings, never jaxprs
        return type(program)(_rewrite(each, setting) for each in program)
    return program


def _rewrite_equation(equation: JaxprEqn, setting: str) -> list[JaxprEqn]:
    if equation.primitive is not dot_general_p:
        return [equation.replace(params={name: _rewrite(value, setting) for name, value in equation.params.items()})]
    if any(getattr(operand.aval, "dtype", None) != jnp.float32 for operand in equation.invars):
        return [equation]
    if setting in JAX_PRECISIONS:
        precision = JAX_PRECISIONS[setting]
        return [equation.replace(params={**equation.params, "precision": (precision, precision)})]
    rounding, operands = [], []
    for operand in equation.invars:
        operands.append(Var(operand.aval))
        bits = {"exponent_bits": EXPONENT_BITS, "mantissa_bits": ROUNDED_BITS[setting]}
        rounding.append(
            new_jaxpr_eqn([operand], [operands[-1]], reduce_precision_p, bits, equation.effects, equation.source_info)
        )
    return [*rounding, equation.replace(invars=operands)]
