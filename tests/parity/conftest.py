import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _one_torch_thread():
    """The models are tiny: more threads only wait for each other."""
    torch.set_num_threads(1)
