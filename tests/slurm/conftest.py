"""One SLURM for each test process."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import INSTALL, Cluster, missing


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slurm)


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """Sockets lie in a cluster's folder: pytest's own are too deep for them."""
    with tempfile.TemporaryDirectory(prefix="groupmates-") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    if missing():
        pytest.skip(f"needs SLURM, and {', '.join(missing())} are missing. To install: {INSTALL}")
    with tempfile.TemporaryDirectory(prefix="groupmates-") as folder:
        running = Cluster(Path(folder))
        try:
            running.up()
            yield running
        finally:
            running.down()


@pytest.fixture
def slurm(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster as a test wants to find it: up, idle, and without jobs of earlier tests."""
    cluster.mend()
    yield cluster
    cluster.mend()
