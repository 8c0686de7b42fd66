"""The hosts of a run: one process each, of a TPU pod, a cluster, or one machine for a trial."""

from __future__ import annotations

import secrets

import jax
import numpy as np
from jax.experimental import multihost_utils

from ..errors import InvalidInput
from .storage import Folder

# A host may be done with its share long before the others are.
SHUTDOWN_SECONDS = 24 * 3600


def connect(coordinator: str | None = None, hosts: int | None = None, host: int | None = None) -> None:
    """Join the other hosts, before anything is done with JAX; None is what the cluster or the TPU pod says itself.

    `coordinator` is "ADDRESS:PORT" of host 0. A host that dies takes the others with it: start them again together.
    Raises InvalidInput where the others aren't reached.
    """
    try:
        jax.distributed.initialize(coordinator, hosts, host, shutdown_timeout_seconds=SHUTDOWN_SECONDS)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise InvalidInput(
            f"the other hosts aren't reached ({reason}); name --coordinator ADDRESS:PORT, --hosts and --host, the "
            "coordinator's the same on all of them"
        ) from error
    # A program from XLA's cache on CPUs has forgotten the order of its sums between processes, and Gloo mixes them up.
    if jax.default_backend() == "cpu":
        jax.config.update("jax_enable_compilation_cache", False)


def share(folder: Folder) -> bool:
    """Whether all hosts mean the same folder by that path, as on a bucket or a network disk."""
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
