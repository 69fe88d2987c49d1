"""One SLURM for each test process."""

from collections.abc import Iterator

import pytest
from cluster import INSTALL, Cluster, missing


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if missing():
        pytest.skip(f"needs SLURM, and {', '.join(missing())} are missing. To install: {INSTALL}")
    running = Cluster(tmp_path_factory.mktemp("slurm"))
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
