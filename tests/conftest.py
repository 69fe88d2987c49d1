"""One thread for every test, and the small run that the stages' tests share."""

import os

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TQDM_DISABLE", "1")
# The tests compare with the same arithmetic on a CPU, to the last bit; tests/benchmarks has the GPU's.
os.environ["CUDA_VISIBLE_DEVICES"] = ""

from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

# What takes longest comes first, so that no worker is alone with it at the end.
LONGEST = (
    "slurm/test_job_faults.py",
    "test_every_command_of_the_readmes_runs",
    "slurm/test_training.py",
    "slurm/test_profile.py",
    "test_a_run_killed_at_random_moments",
    "test_a_run_in_processes_of_its_own",
    "workflow/test_methods.py",
)


def pytest_collection_modifyitems(items):
    def place(item):
        found = [i for i, name in enumerate(LONGEST) if name in item.nodeid]
        return found[0] if found else len(LONGEST)

    items.sort(key=place)


def pytest_collection_finish(session):
    """Groups keep tests that share a SLURM in one worker; xdist names them at the end of an id."""
    if getattr(session.config.option, "loadgroup", False):
        lost = [
            i for i in session.items if i.get_closest_marker("xdist_group") and "@" not in i.nodeid
        ]
        assert not lost, f"pytest-xdist does not group {lost[0].nodeid}: another version of pytest?"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Tests compare losses bit by bit: the number of threads is part of a float's rounding."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def small_run(tmp_path_factory):
    """Sample, reference and base of 40 tiny documents, made through the stages; read only."""
    import small

    return small.make_run(tmp_path_factory.mktemp("run"))


def shared(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable) -> Path:
    """A folder that `make` fills once for all test workers; read only."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder = base / name
    with FileLock(base / f"{name}.lock"):
        if not folder.exists():
            make(folder)
    return folder


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout in which the tiny configuration has run to its end."""
    import checkout
    import in_process

    def run(folder: Path) -> None:
        done = in_process.snakemake(checkout.make(folder))
        (folder / "log").write_text(done.stdout)

    folder = shared(tmp_path_factory, "finished", run)
    assert (folder / "results/tiny/report.html").exists(), (folder / "log").read_text()[-6000:]
    return folder
