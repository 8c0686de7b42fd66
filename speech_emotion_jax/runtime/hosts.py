"""The hosts of a run: one process each, of a TPU pod, a cluster, or one machine for a trial."""

from __future__ import annotations

import jax

from ..errors import InvalidInput

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
