"""Devices by the names of the original toolkit: None, "cpu", "cuda", "cuda:1", "gpu", "tpu"."""

from __future__ import annotations

import re

import jax
import numpy as np
from jax.sharding import Mesh

from ..errors import InvalidInput


def select_device(name: object = None) -> jax.Device:
    """Return the JAX device of a name.

    Args:
        name: "cpu", "gpu", "cuda", "rocm" or "tpu", with ":1" for the second one; a torch.device; a jax.Device, which
            is returned as it is; None for JAX's default device.

    Raises:
        InvalidInput: if there is no such device. The message lists the devices of this machine.
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
    """Make a mesh with one axis, "data".

    Args:
        name: see `select_device`. None takes all devices of this process that are of JAX's default kind.

    Raises:
        InvalidInput: if there is no such device.
    """
    present_devices()  # for its error message if JAX finds no device
    devices = jax.local_devices() if name is None else [select_device(name)]
    return Mesh(np.array(devices), ("data",))


def present_devices() -> list[jax.Device]:
    """Return all devices, those of JAX's default kind first, then the CPUs.

    Raises:
        InvalidInput: if JAX finds no device.
    """
    try:
        devices = jax.devices()
    except (RuntimeError, AssertionError) as error:  # AssertionError: the plugin is not installed
        reason = str(error).partition(" (")[0].rstrip(".")
        raise InvalidInput(
            f"JAX finds no device ({reason or 'no plugin for the platform'}); unset JAX_PLATFORMS or name cpu in it"
        ) from error
    try:
        return devices + [device for device in jax.devices("cpu") if device not in devices]
    except RuntimeError:  # JAX_PLATFORMS excludes the CPU
        return devices
