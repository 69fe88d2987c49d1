"""The environments for pip and conda hold the same versions, and all that pyproject.toml asks for."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FAISS = {"cpu": "faiss-cpu", "cuda": "faiss-gpu"}
OF_GPU = {"faiss-gpu", "nvidia-ml-py"}


def pins(lines: list[str]) -> dict[str, str]:
    """Package -> version of lines such as `torch==2.13.0`; anything but one exact version fails."""
    found = {}
    for line in lines:
        match = re.fullmatch(r"([\w.-]+)==([\w.]+)", line)
        assert match, f"{line!r} is no exact pin"
        name = canonicalize_name(match[1])
        assert name not in found, f"{name} twice"
        found[name] = match[2]
    return found


CONSTRAINTS = pins((ROOT / "envs/constraints.txt").read_text().split())


def conda(build: str) -> dict[str, str]:
    dependencies = yaml.safe_load((ROOT / f"envs/{build}.yaml").read_text())["dependencies"]
    (packages,) = [entry["pip"] for entry in dependencies if isinstance(entry, dict)]
    return pins(packages)


def requirements(*extras: str) -> list[Requirement]:
    lines = list(PROJECT["dependencies"])
    for extra in extras:
        lines += PROJECT["optional-dependencies"][extra]
    return [Requirement(line) for line in lines]


@pytest.mark.parametrize("build", FAISS)
def test_conda_installs_the_versions_that_pip_installs(build):
    others = {"cpu": OF_GPU, "cuda": {"faiss-cpu"}}[build]
    assert conda(build) == {name: v for name, v in CONSTRAINTS.items() if name not in others}


def test_every_dependency_is_pinned_to_a_version_that_it_allows():
    for requirement in requirements("cpu", "gpu", "test"):
        name = canonicalize_name(requirement.name)
        assert name in CONSTRAINTS, f"{requirement} has no pin"
        assert requirement.specifier.contains(CONSTRAINTS[name]), requirement


def test_the_python_of_conda_is_one_that_the_package_allows():
    for build in FAISS:
        dependencies = yaml.safe_load((ROOT / f"envs/{build}.yaml").read_text())["dependencies"]
        (python,) = [d for d in dependencies if isinstance(d, str) and d.startswith("python=")]
        version = python.removeprefix("python=") + ".0"
        assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(version)


def test_this_environment_is_the_pinned_one():
    """Otherwise the tests that pass here say nothing of what others install."""
    different = {
        name: (metadata.version(name), wanted)
        for name, wanted in CONSTRAINTS.items()
        if name not in OF_GPU | {"faiss-cpu", "torch"} and metadata.version(name) != wanted
    }
    assert different == {}
    build = metadata.version("torch")
    assert build.split("+")[0] == CONSTRAINTS["torch"], build  # 2.13.0+cpu
