"""Imports run one way, and what every parse of the workflow imports is light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "workflow/groupmates"
MODULES = {
    ".".join(("groupmates", *p.relative_to(PACKAGE).with_suffix("").parts)): p
    for p in sorted(PACKAGE.rglob("*.py"))
    if p.name != "__init__.py"
}
HEAVY = ("torch", "transformers", "pyarrow", "datasets", "matplotlib", "scipy", "faiss")


def imported(path: Path) -> set[str]:
    """Every module that a file imports anywhere, `from a import b` as a and as a.b."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def ours(path: Path) -> set[str]:
    return {name for name in imported(path) if name in MODULES}


def layer(prefix: str) -> list[str]:
    return [name for name in MODULES if name.startswith(f"groupmates.{prefix}.")]


def test_the_layers_are_found():
    assert len(layer("maths")) > 8
    assert len(layer("stages")) > 8
    assert "groupmates.maths.relation" in ours(MODULES["groupmates.maths.greedy"])


@pytest.mark.parametrize("name", layer("maths"))
def test_maths_knows_nothing_but_maths(name):
    path = MODULES[name]
    allowed = {*layer("maths"), "groupmates.errors"}
    assert ours(path) <= allowed
    assert not {"pathlib", "logging", "os", "pyarrow", "json", "transformers"} & imported(path)


@pytest.mark.parametrize("name", layer("stages"))
def test_stages_do_not_import_each_other(name):
    assert not ours(MODULES[name]) & set(layer("stages"))


@pytest.mark.parametrize("name", [n for n in MODULES if not n.startswith("groupmates.stages")])
def test_nothing_but_the_command_line_knows_the_stages(name):
    assert not ours(MODULES[name]) & set(layer("stages"))


@pytest.mark.parametrize("name", layer("models"))
def test_models_take_their_settings_as_arguments(name):
    assert not {"os", "yaml", "groupmates.__main__"} & imported(MODULES[name])


@pytest.mark.parametrize(
    "name", ["config", "artefacts", "pool", "errors", "progress", "requests", "slurm"]
)
def test_what_every_parse_of_the_workflow_imports_is_light(name):
    code = f"import sys, groupmates.{name}; print(*sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(found.stdout.split())
    assert f"groupmates.{name}" in loaded
    assert loaded & set(HEAVY) == set()
