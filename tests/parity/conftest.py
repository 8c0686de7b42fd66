import pytest


@pytest.fixture(scope="session", autouse=True)
def _one_torch_thread():
    """The models are tiny: more threads only wait for each other."""
    import torch

    torch.set_num_threads(1)
