"""Whether an artefact is stale: its provenance against what the configuration would give now.

What would be made now is read off snakemake's own graph, job by job with its command line. An
artefact is stale where version, settings or inputs in its provenance differ from those, or where
what it is made from is stale. Snakemake itself goes by what it remembers of its last run and by
the times of files; it is asked, too.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from groupmates.artefacts import ARTEFACTS
from groupmates.errors import UserError
from groupmates.pool import expand_range, located
from groupmates.store import KEY, digest, intact, read_json

# Inputs that a stage may have been made without: new ones are a difference, too.
OPTIONAL = ("bootstrap", "evaluation")
PAGE_RECORD = re.compile(
    r'<script type="application/json" id="provenance">(.*?)</script>', re.DOTALL
)
SHOWN = 3  # differences of one artefact that are told
MOST = 400  # characters of a message of snakemake's


@dataclass
class Job:
    """A job of snakemake's graph: the options of its command line, whether snakemake would run it."""

    rule: str
    outputs: list[Path]
    options: dict[str, list[str]]
    needed: bool
    reason: str
    needs: list[Job] = field(default_factory=list)


def graph(target: str, configfiles: list[str]) -> list[Job]:
    """The jobs that `target`, a file or rule, is made by; `UserError` where no rule makes it."""
    from snakemake.api import SnakemakeApi
    from snakemake.exceptions import RuleException, WorkflowError
    from snakemake.settings import types as snakemake
    from snakemake.settings.enums import Quietness, RerunTrigger

    snakefile = Path("Snakefile")
    if not snakefile.exists():
        raise UserError(
            expected="the folder that snakemake is started in",
            found="one without a Snakefile",
            where=str(Path.cwd()),
            todo="change to that folder",
        )
    triggers = frozenset({RerunTrigger.MTIME, RerunTrigger.PARAMS, RerunTrigger.INPUT})
    try:
        with SnakemakeApi(snakemake.OutputSettings(quiet={Quietness.ALL})) as api:
            workflow = api.workflow(
                resource_settings=snakemake.ResourceSettings(cores=1),
                config_settings=snakemake.ConfigSettings(
                    configfiles=[Path(file) for file in configfiles]
                ),
                storage_settings=snakemake.StorageSettings(),
                snakefile=snakefile,
            )
            workflow.dag(
                snakemake.DAGSettings(
                    targets={target}, rerun_triggers=triggers, force_incomplete=True
                )
            ).execute_workflow(
                executor="dryrun", execution_settings=snakemake.ExecutionSettings(lock=False)
            )
            return _jobs(workflow._workflow.dag)
    except (WorkflowError, RuleException) as error:
        raise UserError(
            expected="what a rule of this configuration makes",
            found=f"{target} ({' '.join(str(error).split())[:MOST]})",
            where=", ".join(["config.yaml", *configfiles]),
            todo="give the configuration of this run as for snakemake: --configfile FILE",
        ) from error


def _jobs(dag: Any) -> list[Job]:
    found = {}
    for job in dag.jobs:
        if job.output:
            options = _options(shlex.split(job.shellcmd))
            outputs = [Path(str(file)) for file in job.output]
            needed, reason = dag.needrun(job), str(dag.reason(job))
            found[job] = Job(job.rule.name, outputs, options, needed, reason)
    for job, ours in found.items():
        ours.needs = [found[other] for other in dag.dependencies[job] if other in found]
    return list(found.values())


def _options(command: list[str]) -> dict[str, list[str]]:
    """`--name value…` of a stage's command line; lists of paths with their ranges expanded."""
    options: dict[str, list[str]] = {}
    values: list[str] = []
    for word in command[2:]:
        if word.startswith("--"):
            values = options[word[2:].replace("-", "_")] = []
        else:
            values.append(word)
    return {
        name: values if name == "settings" else [p for v in values for p in expand_range(v)]
        for name, values in options.items()
    }


def provenance(path: Path) -> dict[str, Any] | None:
    """That of an artefact, or of the folder that it lies in; None where there is none."""
    if path.suffix == ".parquet":
        with intact(path):
            metadata = (pq.read_schema(path).metadata or {}).get(KEY)
        return json.loads(metadata) if metadata else None
    if path.suffix == ".html":
        record = PAGE_RECORD.search(path.read_text(encoding="utf-8"))
        return json.loads(record[1]) if record else None
    folder = path if path.is_dir() else path.parent
    beside = path.with_suffix(".json") if path.suffix == ".npy" else folder / "provenance.json"
    for file in (path, beside):
        if file.suffix == ".json" and file.exists():
            body = read_json(file)
            found: dict[str, Any] = body.get("provenance", body)
            if "artefact" in found:
                return found
    return None


class Comparison:
    """Differences of jobs' outputs from what would be made now; files are digested once."""

    def __init__(self) -> None:
        self._digests: dict[Path, str] = {}
        self._own: dict[int, list[str]] = {}

    def differences(self, job: Job) -> list[str]:
        """What a job's own outputs differ in."""
        if id(job) not in self._own:
            told = (text for output in job.outputs for text in self._of_output(job, output))
            self._own[id(job)] = list(dict.fromkeys(told))
        return self._own[id(job)]

    def stale(self, job: Job) -> list[Job]:
        """The jobs with differences that an output of `job` follows from, itself first."""
        seen: dict[int, Job] = {}
        stack = [job]
        while stack:
            here = stack.pop()
            if id(here) not in seen:
                seen[id(here)] = here
                stack += here.needs
        return [one for one in seen.values() if self.differences(one)]

    def _of_output(self, job: Job, output: Path) -> Iterator[str]:
        if not output.exists():  # what was made of it may still be what it was
            return
        try:
            record = provenance(output)
        except UserError as error:
            yield f"{output} is damaged: {error.found}"
            return
        if record is None:
            return
        version = ARTEFACTS[record["artefact"]].version
        if record["version"] != version:
            yield f"version {record['version']} of {record['artefact']}, {version} now"
        yield from _settings(record["settings"], job.options)
        if output.suffix != ".html":  # a page also shows times, which go on changing
            yield from self._inputs(record["inputs"], job.options, output)

    def _inputs(
        self, recorded: dict[str, str], options: dict[str, list[str]], output: Path
    ) -> Iterator[str]:
        now = _input_files(recorded, options)
        if now is None:
            return
        for name in sorted(recorded.keys() ^ now.keys()):
            yield f"input {name} is {'no longer one' if name in recorded else 'new'}"
        for name in sorted(recorded.keys() & now.keys()):
            path, external = now[name]
            # Terabytes are not read for a file that is older than what was made of it.
            unread = not path.exists() or (external and _newest(path) <= _newest(output))
            if not unread and self._digest(path) != recorded[name]:
                yield f"input {name}, {path}, has other content"

    def _digest(self, path: Path) -> str:
        if path not in self._digests:
            self._digests[path] = digest(path)
        return self._digests[path]


def _settings(recorded: dict[str, Any], options: dict[str, list[str]]) -> Iterator[str]:
    now = json.loads(options["settings"][0])
    del now["version"]
    for name in recorded.keys() - now.keys():  # part, partition, method, …: of the job alone
        if name in options:
            now[name] = type(recorded[name])(options[name][0])
    before, after = leaves(recorded), leaves(now)
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            yield f"{name}: {json.dumps(before.get(name))} made it, {json.dumps(after.get(name))} now"


def leaves(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted keys."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            found |= leaves(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def _input_files(
    recorded: dict[str, str], options: dict[str, list[str]]
) -> dict[str, tuple[Path, bool]] | None:
    """Name in a provenance -> the file that it stands for now, and whether it is the user's.

    None where the inputs are no files: the built-in corpus is made from installed packages.
    """
    found: dict[str, tuple[Path, bool]] = {}
    names = {re.sub(r"\[\d+\]$", "", name) for name in recorded} | set(OPTIONAL)
    for name in names:
        files = options.get(name) or options.get(f"probe_{name}") or []
        many = name in OPTIONAL or f"{name}[0]" in recorded
        found |= {f"{name}[{i}]" if many else name: (Path(f), False) for i, f in enumerate(files)}
    base = json.loads(options["settings"][0]).get("base", {})
    if base.get("checkpoint"):
        found["checkpoint"] = Path(base["checkpoint"]), True
    # Stages that know the pool by its scores or a selection record no file of it.
    if "root" in options and "pool" in options and recorded.keys() - found.keys():
        pool = located(options["pool"], options["root"][0])
        found |= {file.name: (Path(file.path), True) for file in pool}
    return found or None


def _newest(path: Path) -> float:
    files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
    return max(file.stat().st_mtime for file in files)
