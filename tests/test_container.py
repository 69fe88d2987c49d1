"""The recipes of images: they install what the environments install. None is built here."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
DOCKER = (ROOT / "envs/Dockerfile").read_text()
APPTAINER = (ROOT / "envs/apptainer.def").read_text()


def test_both_recipes_have_the_python_of_the_environments():
    images = {
        re.search(r"^FROM (\S+)", DOCKER, re.M)[1],
        re.search(r"^From: (\S+)", APPTAINER, re.M)[1],
    }
    (image,) = images
    (python,) = [
        d
        for d in yaml.safe_load((ROOT / "envs/cuda.yaml").read_text())["dependencies"]
        if isinstance(d, str) and d.startswith("python=")
    ]
    assert image.startswith(f"python:{python.removeprefix('python=')}-")


def test_both_install_with_the_script_that_pins_and_copy_all_that_it_reads():
    copied = [line.split()[1:-1] for line in DOCKER.splitlines() if line.startswith("COPY")]
    files = re.search(r"%files\n(.*?)\n\n", APPTAINER, re.S)[1].split("\n")
    assert {name for names in copied for name in names} == {line.split()[0] for line in files}
    for name in {name for names in copied for name in names}:
        assert (ROOT / name).exists(), name
    assert 'bash envs/install.sh "$BUILD" /opt/venv' in DOCKER
    assert "envs/install.sh {{ build }} /opt/venv" in APPTAINER
    for recipe in (DOCKER, APPTAINER):
        assert "PATH=/opt/venv/bin:$PATH" in recipe  # workflow/run calls python3


def test_the_profile_shows_how_the_image_is_used():
    profile = (ROOT / "profiles/slurm/profile.yaml").read_text()
    used = "export GROUPMATES_CONTAINER='apptainer exec --nv /images/groupmates.sif'"
    assert used in profile
    assert used in APPTAINER
