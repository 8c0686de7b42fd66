"""The device a user names, as the original toolkit has it: None, "cpu", "cuda", "cuda:1", "gpu", "tpu"."""

from __future__ import annotations

import re

import jax

from ..errors import InvalidInput


def select_device(name: object = None) -> jax.Device:
    """The JAX device of that name; None is JAX's default. A torch.device is taken by its name.

    Raises InvalidInput, listing the devices there are, for hardware that is absent.
    """
    if name is None:
        return jax.devices()[0]
    hit = re.fullmatch(r"(cpu|gpu|cuda|rocm|tpu)(?::(\d+))?", str(name).lower())
    if hit is None:
        raise InvalidInput(f"unknown device {str(name)!r}; there are {_present()}")
    try:
        devices = jax.devices(hit[1])
    except RuntimeError as error:
        raise InvalidInput(f"there is no {hit[1]} here; there are {_present()}") from error
    index = int(hit[2] or 0)
    if index >= len(devices):
        raise InvalidInput(f"there is no device {str(name)!r}; there are {_present()}")
    return devices[index]


def _present() -> str:
    devices = {*jax.devices(), *jax.devices("cpu")}
    return ", ".join(sorted(f"{device.platform}:{device.id}" for device in devices))
