"""The house: imports run one way, between few rooms on few floors, and parsing the workflow is light.

A room is a module or a folder at the top of the package. A room stands one floor above the highest
room that it imports.
"""

import ast
from functools import cache
from pathlib import Path

import pytest

import waiting
from groupmates.settings.stages import STAGES

PACKAGE = Path(__file__).parent.parent / "workflow/groupmates"
MODULES = {
    ".".join(("groupmates", *p.relative_to(PACKAGE).with_suffix("").parts)): p
    for p in sorted(PACKAGE.rglob("*.py"))
    if p.name != "__init__.py"
}
MOST_ROOMS, MOST_FLOORS = 20, 8
HEAVY = ("torch", "transformers", "pyarrow", "datasets", "matplotlib", "scipy", "faiss")


@cache
def imported(path: Path) -> frozenset[str]:
    """Every module that a file imports anywhere, `from a import b` as a and as a.b."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(found)


def ours(path: Path) -> set[str]:
    return {name for name in imported(path) if name in MODULES}


def layer(prefix: str) -> list[str]:
    return [name for name in MODULES if name.startswith(f"groupmates.{prefix}.")]


def room(module: str) -> str:
    return module.split(".")[1]


IMPORTS = {name: ours(path) for name, path in MODULES.items()}
ROOMS = {room(name): set() for name in MODULES}
for name, found in IMPORTS.items():
    ROOMS[room(name)] |= {room(other) for other in found} - {room(name)}


def floors(graph: dict[str, set[str]]) -> dict[str, int]:
    """The floor of each node, from 1; a circle fails, and names its members."""
    found: dict[str, int] = {}

    def climb(node: str, way: tuple[str, ...]) -> int:
        assert node not in way, f"a circle of imports: {' -> '.join((*way, node))}"
        if node not in found:
            found[node] = 1 + max((climb(n, (*way, node)) for n in graph[node]), default=0)
        return found[node]

    for node in graph:
        climb(node, ())
    return found


def test_the_layers_are_found():
    assert len(layer("maths")) > 8
    assert len(layer("stages")) > 8
    assert "groupmates.maths.relation" in IMPORTS["groupmates.maths.greedy"]


def test_no_modules_import_each_other_in_a_circle():
    floors(IMPORTS)


def test_the_rooms_are_few_and_stand_on_few_floors():
    assert len(ROOMS) <= MOST_ROOMS
    assert max(floors(ROOMS).values()) <= MOST_FLOORS


@pytest.mark.parametrize("name", layer("maths"))
def test_maths_knows_nothing_but_maths(name):
    path = MODULES[name]
    allowed = {*layer("maths"), "groupmates.errors"}
    assert ours(path) <= allowed
    assert not {"pathlib", "logging", "os", "pyarrow", "json", "transformers"} & imported(path)


@pytest.mark.parametrize("name", layer("stages"))
def test_stages_do_not_import_each_other(name):
    # What the stages that pass over a shard, and those that tokenise a selection share; and a part of
    # the last step of materialise.
    names = ("shard_rows", "selected_tokens", "dataset_card")
    shared = {f"groupmates.stages.{name}" for name in names}
    assert not ours(MODULES[name]) & set(layer("stages")) - shared


@pytest.mark.parametrize("name", [n for n in MODULES if room(n) != "stages"])
def test_nothing_but_the_command_line_knows_the_stages(name):
    assert not ours(MODULES[name]) & set(layer("stages"))


@pytest.mark.parametrize("name", layer("models"))
def test_models_take_their_settings_as_arguments(name):
    assert not {"os", "yaml", "groupmates.__main__"} & imported(MODULES[name])


LIGHT = [
    "artefacts.catalogue",
    "errors",
    "pool.core_tasks",
    "pool.listing",
    "progress",
    "records.campaign",
    "records.jobs",
    "selectors.step_jobs",
    "settings.config",
    "settings.per_stage",
    "slurm.join",
    "slurm.preflight",
]


def loaded_by(names: list[str]) -> set[str]:
    """Every module that is there after these are imported."""
    code = f"import sys, {', '.join(names)}; print(*sys.modules)"
    found = waiting.python("-c", code)
    loaded = set(found.stdout.split())
    assert set(names) <= loaded
    return loaded


def test_what_every_parse_of_the_workflow_imports_is_light():
    assert loaded_by([f"groupmates.{name}" for name in LIGHT]) & set(HEAVY) == set()


def test_stages_without_tensor_work_import_no_torch():
    """Their jobs start in a fraction of a second."""
    names = [f"groupmates.{stage.module}" for stage in STAGES.values() if not stage.torch]
    assert len(names) > len(STAGES) / 2
    assert not STAGES["prepare-oracle-greedy"].torch and not STAGES["order-quad"].torch
    assert (
        loaded_by(["groupmates.__main__", *names]) & {"torch", "transformers", "datasets"} == set()
    )
