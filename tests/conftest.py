"""What every test has: an empty parameter store, its own random numbers, data if there are any."""

import os
from collections.abc import Iterator
from pathlib import Path

import pyro
import pytest
import torch


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked ``cuda`` say why they are left out."""
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device, and torch.cuda.is_available() is False")


@pytest.fixture(autouse=True)
def clean_state() -> Iterator[None]:
    """Pyro's global store is empty before and after; torch's random state is put back."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    assert not dict(pyro.get_param_store()), "an earlier test left Pyro's parameter store filled"
    with torch.random.fork_rng(devices):
        torch.manual_seed(int(os.environ.get("ZOO_TEST_SEED", "0")))  # whatever ran before
        yield
    left = sorted(pyro.get_param_store().keys())
    pyro.clear_param_store()  # so that the next test is not blamed for this one
    assert not left, f"the test left {left} in Pyro's parameter store"


@pytest.fixture
def float64() -> Iterator[torch.dtype]:
    """Doubles by default, for values that are exact to 1e-6 and better."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield torch.float64
    torch.set_default_dtype(before)


@pytest.fixture(scope="session")
def zoo_data() -> Path:
    """The folder of the larger data sets, from the environment variable ``ZOO_DATA``."""
    folder = os.environ.get("ZOO_DATA")
    if not folder:
        pytest.skip("ZOO_DATA is not set; point it at the folder with the larger data sets")
    path = Path(folder)
    if not path.is_dir():
        pytest.fail(f"ZOO_DATA is {folder!r}, which is no folder")
    return path
