"""One thread for every test, and the small run that the stages' tests share."""

import os

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TQDM_DISABLE", "1")

import pytest


@pytest.fixture(autouse=True)
def one_thread():
    """Tests compare losses bit by bit: the number of threads is part of a float's rounding."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def small_run(tmp_path_factory):
    """Sample, reference and base of 40 tiny documents, made through the stages; read only."""
    import small

    return small.make_run(tmp_path_factory.mktemp("run"))
