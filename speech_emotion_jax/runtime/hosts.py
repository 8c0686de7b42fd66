"""Runs of several processes, called hosts: on a TPU pod, on a cluster, or on one machine to try it out."""

from __future__ import annotations

import secrets

import jax
import numpy as np

from ..errors import InvalidInput
from .compat import multihost_utils
from .storage import Folder

# Hosts end together, and one may have to wait hours for the slowest.
SHUTDOWN_SECONDS = 24 * 3600


def connect(coordinator: str | None = None, hosts: int | None = None, host: int | None = None) -> None:
    """Join the other hosts. Call it before JAX uses a device.

    If a host dies, the others end, too: start all of them again.

    Args:
        coordinator: "ADDRESS:PORT" of host 0. For each argument, None takes the value that the TPU pod or the cluster
            provides.
        hosts: how many hosts there are.
        host: the index of this host, from 0.

    Raises:
        InvalidInput: if the other hosts can't be reached.
    """
    try:
        jax.distributed.initialize(coordinator, hosts, host, shutdown_timeout_seconds=SHUTDOWN_SECONDS)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise InvalidInput(
            f"the other hosts can't be reached ({reason}); give --coordinator ADDRESS:PORT, --hosts and --host, with "
            "the same coordinator on all of them"
        ) from error
    # On CPUs, a program loaded from XLA's cache has lost the order of its collectives, and Gloo then mixes them up.
    if jax.default_backend() == "cpu":
        jax.config.update("jax_enable_compilation_cache", False)


def is_shared_folder(folder: Folder) -> bool:
    """Return whether all hosts see the same folder, as on a bucket or a network disk. All hosts must call this.

    Host 0 writes an empty file, and the others look for it.
    """
    if jax.process_count() == 1:
        return True
    number = multihost_utils.broadcast_one_to_all(np.uint32(secrets.randbits(32)))
    trace = f"hosts-{number}"
    if jax.process_index() == 0:
        folder.write(trace, b"")
    multihost_utils.sync_global_devices("trace written")
    seen = multihost_utils.process_allgather(np.array(folder.holds(trace)))
    if jax.process_index() == 0:
        folder.remove(trace)
    return bool(np.all(seen))
