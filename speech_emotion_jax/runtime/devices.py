"""The device a user names, as the original toolkit has it: None, "cpu", "cuda", "cuda:1", "gpu", "tpu"."""

from __future__ import annotations

import re

import jax
import numpy as np
from jax.sharding import Mesh

from ..errors import InvalidInput


def select_device(name: object = None) -> jax.Device:
    """The JAX device of that name; None is JAX's default. A jax.Device is taken as it is, a torch.device by its name.

    Raises InvalidInput, listing the devices there are, for hardware that is absent.
    """
    present = present_devices()
    if name is None:
        return present[0]
    if isinstance(name, jax.Device):
        return name
    listed = ", ".join(f"{device.platform}:{device.id}" for device in present)
    hit = re.fullmatch(r"(cpu|gpu|cuda|rocm|tpu)(?::(\d+))?", str(name).lower())
    if hit is None:
        raise InvalidInput(f"the device {str(name)!r} is unknown; choose one that is here: {listed}")
    try:
        return jax.devices(hit[1])[int(hit[2] or 0)]
    except (RuntimeError, IndexError) as error:
        raise InvalidInput(f"the device {str(name)!r} is not here; choose one that is: {listed}") from error


def select_mesh(name: object = None) -> Mesh:
    """A mesh with the one axis "data": the device of that name, or with None all of this process's default ones."""
    present_devices()  # says what is wrong where there is none
    devices = jax.local_devices() if name is None else [select_device(name)]
    return Mesh(np.array(devices), ("data",))


def present_devices() -> list[jax.Device]:
    """All devices there are, JAX's default first. Raises InvalidInput where JAX finds none."""
    try:
        devices = jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter for a platform whose plugin is not installed
        reason = str(error).partition(" (")[0].rstrip(".")
        raise InvalidInput(
            f"JAX finds no device ({reason or 'no plugin for the platform'}); unset JAX_PLATFORMS or name cpu in it"
        ) from error
    try:
        return devices + [device for device in jax.devices("cpu") if device not in devices]
    except RuntimeError:  # JAX_PLATFORMS may leave the CPU out
        return devices
