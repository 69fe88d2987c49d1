"""A selector is its class, its module, its section of config.yaml and its tests; all else follows."""

import importlib
import inspect
import typing
from pathlib import Path

import pytest

import checkout
from groupmates.artefacts.catalogue import ARTEFACTS
from groupmates.report.comparison import PRODUCTS
from groupmates.run_stage import STAGES
from groupmates.settings import config, per_stage, reference
from groupmates.settings.selectors import POOL, SELECTORS, STEPS, Step

# What rules pass beside the inputs.
PASSED = {"settings", "output", "partition", "partitions"}


def steps_of(name: str, clusters: str) -> list[Step]:
    """The steps of a selector as config.yaml has it, with these clusters where it has any."""
    raw = {
        key: dict(value) if isinstance(value, dict) else value for key, value in DEFAULTS.items()
    }
    if "clusters" in SELECTORS[name].model_fields:
        raw["select"][name] = raw["select"][name] | {"clusters": clusters}
    return list(per_stage.steps_of(config.load(raw), name).values())


DEFAULTS = checkout.DEFAULTS
DESCRIBED = reference.texts()


@pytest.mark.parametrize("name", SELECTORS)
def test_a_selector_has_a_module_a_section_with_described_keys_and_tests(name):
    kind = SELECTORS[name]
    module = importlib.import_module(f"groupmates.selectors.{name}")
    for step in kind.steps():
        found = STAGES[step.stage]
        assert (found.module, found.function) == (f"selectors.{name}", step.__name__.lower())
        function = getattr(module, step.__name__.lower())
        assert typing.get_type_hints(function)["settings"] is step
    section = DEFAULTS["select"].get(name, {})
    assert section.keys() == kind.model_fields.keys() == DESCRIBED.get(kind.__name__, {}).keys()
    assert kind.__doc__
    texts = [path.read_text() for path in Path(__file__).parent.glob("test_*.py")]
    assert any(f"{kind.__name__}.Order(" in text for text in texts) or name == "group_mates"


@pytest.mark.parametrize("clusters", ["influence", "semantic"])
@pytest.mark.parametrize("name", SELECTORS)
def test_the_functions_of_a_selector_take_what_its_steps_need(name, clusters):
    for step in steps_of(name, clusters):
        module, function = step.function
        found = inspect.signature(
            getattr(importlib.import_module(f"groupmates.{module}"), function)
        ).parameters
        needed = {need.argument for need in step.needs()} | set(SELECTORS[name].limits)
        required = {n for n, p in found.items() if p.default is p.empty}
        assert required <= needed | PASSED
        inputs = {need.argument for need in step.needs()}
        assert inputs <= found.keys()
        assert {"partition", "partitions"} <= found.keys() or step.shares is None


@pytest.mark.parametrize("name", SELECTORS)
def test_what_is_needed_is_an_artefact_and_known_to_the_report_by_what_it_costs(name):
    for clusters in ("influence", "semantic"):
        for step in steps_of(name, clusters):
            for need in step.needs():
                assert need == POOL or need.artefact in ARTEFACTS
                assert need.charged is None or need.charged in PRODUCTS
            assert set(step.writes) <= ARTEFACTS.keys()


def test_every_step_has_a_command_of_its_own():
    assert len(STEPS) == sum(len(kind.steps()) for kind in SELECTORS.values())
    assert all(stage.startswith(("prepare-", "order-")) for stage in STEPS)
