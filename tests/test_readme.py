"""Every command of the documents runs, in a small checkout; every other code block is known here.

`COMMANDS` says how a command is run, `NOT_RUN` why one is not. A block that is added fails until it
stands in one of them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml
import zstandard

import checkout
import core_folder
import in_process
import small
import waiting
from groupmates.settings import config
from prose import files

ROOT = checkout.REPOSITORY
# The README's commands come first: they make the run that the others ask about.
PAGES = ["README.md", *(name for p in files(".md") if (name := p.as_posix()) != "README.md")]


def blocks(language: str) -> list[str]:
    """The code blocks of a language, "" for those without."""
    found = []
    for name in PAGES:
        text = (ROOT / name).read_text()
        parts = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
        found += [body for kind, body in parts if kind == language]
    return found


def block(language: str, start: str) -> str:
    """The one block that begins so."""
    (found,) = [body for body in blocks(language) if body.startswith(start)]
    return found


def commands() -> list[str]:
    """The lines of all bash blocks, without comments, each once."""
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    return list(dict.fromkeys(re.sub(r"\s+#.*", "", line).strip() for line in lines))


@dataclass(frozen=True)
class Run:
    """How a command is run; `tells` is in what it prints, `status` the exit status it must have."""

    tells: str
    status: int = 0
    further: str = ""  # appended
    before: Callable[[Path], None] = lambda folder: None
    after: Callable[[Path], None] = lambda folder: None


def an_id(folder: Path) -> None:
    """DOC_ID stands for a document."""
    table = pq.read_table(folder / "results/mine/select/group_mates/shard-00000.parquet")
    (folder / "DOC_ID").write_text(table["doc_id"][0].as_py())


def a_few_tests(folder: Path) -> None:
    """What `make test` looks at: the package's settings and some of its tests."""
    (folder / "tests").mkdir()
    for name in ("maths/test_quota.py", "conftest.py"):
        (folder / "tests" / Path(name).name).write_text((ROOT / "tests" / name).read_text())


def plain_settings(folder: Path) -> None:
    shutil.copy(ROOT / "config.yaml", folder / "config.yaml")


def mixed_pool(folder: Path) -> None:
    """A pool and a reference at the places that the configuration names."""
    (folder / "data/reference").mkdir(parents=True)
    (folder / "data/pool").mkdir()
    for number in range(2):
        rows = [f'{{"id": "{number}-{i}", "text": "Text {i} of {number}."}}' for i in range(200)]
        packed = zstandard.compress("\n".join(rows).encode())
        (folder / f"data/pool/shard_{number:08d}.jsonl.zst").write_bytes(packed)
    for split in ("selection", "evaluation"):
        rows = [f'{{"context": "The {split}", "continuation": " text {i}"}}' for i in range(400)]
        packed = zstandard.compress("\n".join(rows).encode())
        (folder / f"data/reference/lambada_{split}.jsonl.zst").write_bytes(packed)
    path = folder / "workflow/configs/mixed-lambada.yaml"
    small = {"sample": checkout.TINY["sample"], "probe": checkout.TINY["probe"]}
    small |= {"fit": checkout.TINY["fit"]}
    path.write_text(yaml.safe_dump(checkout.merged(yaml.safe_load(path.read_text()), small)))


def fewer_methods(folder: Path) -> None:
    """The comparison at the smallest sizes; workflow/test_methods.py runs every method."""
    path = folder / "workflow/configs/compare.yaml"
    select = {"methods": ["quality", "random"]}
    small = {k: v for k, v in checkout.TINY.items() if k != "run"} | {"select": select}
    small["reference"] = {**checkout.TINY["reference"], "selection_examples": 12}
    path.write_text(yaml.safe_dump(checkout.merged(yaml.safe_load(path.read_text()), small)))


def questions_and_a_model(folder: Path) -> None:
    """Two tasks of CORE, and the base model of a run in the place of trained ones."""
    words = small.WORDS
    asked = [{"query": w, "choices": words[:2], "gold": i % 2} for i, w in enumerate(words)]
    cloze = [{"context": w, "continuation": words[0]} for w in words]
    (folder / "tasks").mkdir()
    core_folder.write(folder / "tasks", {"copa": asked, "squad": cloze})
    core = {"models": {"base": "results/mine/base"}, "data": "tasks", "examples": 5}
    (folder / "core.yaml").write_text(yaml.safe_dump({"run": "mine", "core": core}))


def a_small_pretraining(folder: Path) -> None:
    """The models of the document at the smallest sizes."""
    written = yaml.safe_load(block("yaml", PRETRAIN))["pretrain"]
    shape = written["architecture"] | {"hidden_size": 32, "layers": 1, "heads": 2}
    written |= {"architecture": shape, "tokens": 1024, "batch_sequences": 4, "warmup_steps": 2}
    (folder / "pretrain.yaml").write_text(yaml.safe_dump({"pretrain": written}))


def two_stages(folder: Path) -> None:
    (folder / "stages.yaml").write_text(block("yaml", STAGES))


def every_stage_is_measured(folder: Path) -> None:
    """`make calibrate` ends with a plan that knows the rate of every stage."""
    plan = json.loads((folder / "results/mine/plan.json").read_text())
    assert plan["missing"] == []
    assert [source["name"] for source in plan["sources"]] == ["results/mine-calibration"]
    for stage in plan["stages"].values():
        assert 0 < stage["seconds"] < 3600
        assert {rate["source"] for rate in stage["rates"].values()} == {"results/mine-calibration"}


LOCAL = "snakemake --profile profiles/local --configfile "
PLAN = "snakemake plan --profile profiles/local --configfile "
STAGED = "snakemake pretrain --profile profiles/local --configfile mine.yaml stages.yaml"
EIGHT_CORES = "snakemake plan --profile profiles/local --set-threads score=8"
SLURM = "snakemake --profile profiles/slurm --configfile mine.yaml"
COMMANDS = {
    "make demo": Run("group_mates minus random"),
    "make test": Run("passed", before=a_few_tests),
    ". .venv/bin/activate": Run(""),
    f"{LOCAL}mine.yaml -n": Run("This was a dry-run"),
    f"{LOCAL}mine.yaml": Run("(100%) done"),
    "make status RUN=mine": Run("snakemake is through"),
    "make status RUN=mine WATCH=1": Run("snakemake is through"),
    "python -m groupmates explain results/mine DOC_ID": Run("when picked", before=an_id),
    # Without SLURM; with one, tests/slurm run it.
    f"{SLURM} -n": Run("Nothing to be done"),
    SLURM: Run("no sinfo on the PATH", status=1, further=" --forcerun report"),
    f"{SLURM} --unlock": Run(""),
    "make calibrate CONFIG=mine.yaml": Run("mine-calibration", after=every_stage_is_measured),
    f"{PLAN}mine.yaml": Run("Plan of the run mine"),
    "snakemake pretrain --profile profiles/local --configfile mine.yaml pretrain.yaml": Run(
        "passes over", before=a_small_pretraining
    ),
    f"{STAGED} -n": Run("pretrain_model", before=two_stages),
    "snakemake core --profile profiles/local --configfile core.yaml": Run(
        "mean of 2 tasks", before=questions_and_a_model
    ),
    f"{EIGHT_CORES} --configfile workflow/configs/dclm-400m-4x.yaml": Run(
        "{block Plan of the run}", before=plain_settings
    ),
    f"{EIGHT_CORES} --configfile workflow/configs/dclm-400m-4x.yaml "
    "workflow/configs/dclm-400m-4x-lean.yaml": Run(
        "Plan of the run dclm-400m-4x-lean", before=plain_settings
    ),
    f"{PLAN}workflow/configs/dclm-400m-4x.yaml workflow/configs/dclm-400m-4x-lean.yaml "
    "workflow/configs/dclm-400m-4x-student.yaml": Run(
        "Plan of the run dclm-400m-4x-student", before=plain_settings
    ),
    "python -m groupmates copy results/mine results/mine-small": Run("goes on from results/mine"),
    f"{LOCAL}mine.yaml --config run=mine-small 'select={{budget: {{ratio: 0.1}}}}'": Run(
        "This was a dry-run", further=" -n"
    ),
    f"{LOCAL}workflow/configs/compare.yaml": Run("(100%) done", before=fewer_methods),
    # All of it takes 36 minutes; workflow/test_pools.py runs a small pool.
    f"{LOCAL}workflow/configs/compare.yaml workflow/configs/mixed-lambada.yaml": Run(
        "Finished jobid", further=" --until sample", before=mixed_pool
    ),
}
RUNS = ("make demo", f"{LOCAL}mine.yaml")  # those after them need what they make
NOT_RUN = {
    "curl -LO https://karpathy-public.s3.us-west-2.amazonaws.com/eval_bundle.zip": "needs the internet",
    "unzip eval_bundle.zip": "needs that archive",
    "cp workflow/configs/core/tasks.yaml eval_bundle/eval_data/": (
        "needs that archive; tests/pool/test_core_questions.py reads the list"
    ),
    "python tests/benchmarks/core_lm_eval.py MODEL DATA copa=100 winograd=60 winogrande=60 "
    "openbook_qa=100 lambada_openai=60 jeopardy=20 arc_easy=6": "needs SmolLM2 and lm-eval",
    "python tests/benchmarks/core.py MODEL DATA NANOCHAT copa=100 winogrande=200 winograd=200 "
    "openbook_qa=200 lambada_openai=200 bigbench_qa_wikidata=200 hellaswag_zeroshot=80 piqa=25": (
        "takes 16 minutes, and another harness"
    ),
    "make env": "installs the environment that the tests run in",
    "make check": "make test runs it",
    "make test-all": "runs this test",
    ".venv/bin/python -m pytest tests/stages/test_score.py": "a test",
    '.venv/bin/python -m pytest -m "not (long or slurm or browser)"': "make test runs them",
    ".venv/bin/python tests/benchmarks/picture.py results/demo/report.html workflow/docs/report.png": (
        "needs a browser"
    ),
    "hf upload owner/name results/mine/dataset/group_mates . --repo-type dataset": (
        "needs a repository on the hub; tests/stages/test_materialise.py loads a dataset by its card"
    ),
    f"{LOCAL}workflow/configs/compare.yaml --config seed=1 run=compare-1": "as with seed 0",
    STAGED: "workflow/test_stages.py runs two stages",
    "grep -l NAME results/RUN/dataset/METHOD.shards/*.json": "names no run",
    f"{SLURM} --force results/RUN/dataset/METHOD.shards/NNNNN.json": (
        "test_remaking.py makes artefacts anew by such commands"
    ),
    "workflow/run compare results/compare results/compare-1 --output results/comparison": (
        "tests/report compare runs of several seeds"
    ),
    "snakemake frontier --profile profiles/local --configfile mine.yaml": (
        "trains models; tests/report make the page of a made-up run"
    ),
    "workflow/run compare-pretrained results/one-stage results/two-stages "
    "--output results/frontier": "tests/report/test_frontier.py compares runs",
}

# Blocks that are no commands, by their first words: pictures, what commands print, and code.
PICTURES = ("report            results/demo", "corpus (built-in only)", "Plan of the")
CORE, TASKS, EXAMPLES = "# core.yaml", "tasks:\n", "decontaminate:\n"
PRETRAIN, STAGES = "# pretrain.yaml", "# stages.yaml"
MINE, VARIANTS, PROCESSES = "# mine.yaml", "select:\n  methods", "set-resources:"
STATE = "from safetensors.torch"
CODE = {
    "yaml": (
        MINE,
        VARIANTS,
        PROCESSES,
        "select:\n  color",
        CORE,
        TASKS,
        EXAMPLES,
        PRETRAIN,
        STAGES,
    ),
    # tests/models/test_student.py runs the lines of a student.
    "python": (STATE, "class Color(Selector", "from safetensors.numpy"),
}


def test_every_command_is_known_and_every_known_command_stands_in_a_document():
    assert not COMMANDS.keys() & NOT_RUN.keys()
    assert sorted(commands()) == sorted([*COMMANDS, *NOT_RUN])


def test_every_block_that_is_no_command_is_known():
    languages = {
        kind
        for name in PAGES
        for kind in re.findall(r"^```(\w+)$", (ROOT / name).read_text(), re.MULTILINE)
    }
    assert languages == {"bash", *CODE}
    for language, known in {"": PICTURES, **CODE}.items():
        assert len(blocks(language)) == len(known), blocks(language)
        for start in known:
            assert block(language, start)


def test_the_profile_lines_of_several_processes_are_taken_by_snakemake(tmp_path):
    lines = yaml.safe_load(block("yaml", PROCESSES))
    folder = checkout.make(tmp_path)
    profile = folder / "profiles/local/profile.yaml"
    profile.write_text(yaml.safe_dump(yaml.safe_load(profile.read_text()) | lines))
    shown = in_process.snakemake(folder, "-n", "-p").stdout
    (command, *_) = [line for line in shown.splitlines() if "workflow/run evaluate" in line]
    assert "srun --nodes=2 --ntasks=16" in command
    assert "workflow/run evaluate --join" in command


def test_optimizer_state_is_saved_as_a_checkpoint_wants_it(tmp_path, monkeypatch):
    from safetensors import safe_open

    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    monkeypatch.chdir(tmp_path)
    Path("checkpoint").mkdir()
    exec(block("python", STATE), {"model": model, "optimizer": optimizer})
    with safe_open("checkpoint/optimizer.safetensors", "pt") as saved:
        assert set(saved.keys()) == {
            f"{name}.{key}"
            for name in ("weight", "bias")
            for key in ("exp_avg", "exp_avg_sq", "step")
        }
        assert saved.get_tensor("weight.exp_avg").shape == (2, 3)


@pytest.fixture(scope="module")
def small_checkout(tmp_path_factory) -> Path:
    """A checkout whose config.yaml is a small demo, in an environment that is there already."""
    folder = checkout.make(tmp_path_factory.mktemp("readme") / "checkout")
    for name in ("Makefile", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder / name)
    plain = yaml.safe_load((ROOT / "config.yaml").read_text())
    demo = checkout.merged(plain, checkout.TINY | {"run": "demo"})
    (folder / "config.yaml").write_text(yaml.safe_dump(demo))
    binaries = folder / ".venv/bin"
    binaries.mkdir(parents=True)
    for entry in (*Path(sys.prefix).iterdir(), *Path(sys.prefix, "bin").iterdir()):
        if entry.name not in ("bin", "snakemake") and not entry.name.startswith(".installed"):
            (folder / ".venv" / entry.relative_to(sys.prefix)).symlink_to(entry)
    (folder / ".venv/.installed-cpu").touch()
    # Its jobs in its own process: some hundred imports of torch fewer.
    script = Path(in_process.__file__)
    (binaries / "snakemake").write_text(f'#!/bin/sh\nexec "{binaries}/python" "{script}" "$@"\n')
    (binaries / "snakemake").chmod(0o755)
    return folder


def mine(folder: Path) -> None:
    """README's mine.yaml over small settings; its pool, reference and checkpoint are the demo's."""
    written = yaml.safe_load(block("yaml", MINE))
    demo = folder / "results/demo"
    (folder / "pool").mkdir()
    for file in sorted((demo / "corpus").glob("shard-*")):
        shutil.copy(file, folder / "pool" / file.name)
    packed = zstandard.ZstdDecompressor().stream_reader(
        (demo / "corpus/reference.jsonl.zst").open("rb")
    )
    (folder / "reference.jsonl").write_bytes(packed.read())
    shutil.copytree(demo / "base", folder / written["base"]["checkpoint"])
    small = {
        "reference": {"selection_examples": 6, "split": {"max_tokens": 24}},
        "sample": {"sequence_length": 32, "probe_documents": 60},
        "probe": {
            "shards": 2,
            "random": {"rollouts": 16},
            "bootstrap": {"rollouts": 6, "beam_width": 8},
            "groups": {"sets": 4, "sizes": [2, 3]},
        },
        "evaluate": {"training": {"tokens": 1024}},
    }
    settings = checkout.merged(written, small)
    (folder / "mine.yaml").write_text(yaml.safe_dump(settings))


@pytest.mark.parametrize("start", [MINE, VARIANTS, STAGES])
def test_an_example_is_a_valid_configuration(start):
    plain = yaml.safe_load((ROOT / "config.yaml").read_text())
    example = yaml.safe_load(block("yaml", start))
    found = config.load(checkout.merged(plain, example))
    assert found.run == example.get("run", "demo")


def environment(folder: Path) -> dict[str, str]:
    """The environment activated, and no SLURM."""
    binaries = folder / ".venv/bin"
    plain = {
        name: v for name, v in os.environ.items() if not name.startswith(("GROUPMATES", "PYTEST"))
    }
    return plain | {
        "PATH": os.pathsep.join([str(binaries), *waiting.programs(folder.parent)]),
        "PYTHONPATH": str(folder / "workflow"),
    }


@pytest.mark.long
def test_every_command_of_the_readmes_runs(small_checkout: Path) -> None:
    folder, failed = small_checkout, []
    for command in (c for c in commands() if c in COMMANDS):
        how = COMMANDS[command]
        if "mine" in command and not (folder / "mine.yaml").exists():
            mine(folder)
        settings = (folder / "config.yaml").read_text()
        how.before(folder)
        line = command + how.further
        if "DOC_ID" in line:
            line = line.replace("DOC_ID", (folder / "DOC_ID").read_text())
        done = waiting.run(["bash", "-c", line], folder, environment(folder))
        (folder / "config.yaml").write_text(settings)
        tells = how.tells
        if tells.startswith("{block"):  # what a document says that it prints
            tells = block("", tells[7:-1])
        if done.returncode != how.status or tells not in done.stdout:
            failed.append(f"{line}: status {done.returncode}\n{done.stdout[-3000:]}")
            if command in RUNS:
                break
        else:
            how.after(folder)
    assert not failed, "\n\n".join(failed)
