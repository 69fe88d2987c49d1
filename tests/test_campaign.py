"""What the main process writes down for those who look on."""

import inspect
import json
from types import SimpleNamespace

import pytest

from groupmates.records import campaign

CONFIG = {"run": "small"}


class Job(SimpleNamespace):
    __hash__ = object.__hash__
    __eq__ = object.__eq__


class Dag:
    """Jobs by log, each with those it depends on: as much of snakemake's graph as is asked for."""

    def __init__(self, needs: dict[str, list[str]], needed: set[str]) -> None:
        self.of = {name: self._job(name) for name in needs}
        self.all = Job(log=[], output=[])
        self.dependencies = {self.of[n]: [self.of[d] for d in d_s] for n, d_s in needs.items()}
        self.dependencies[self.all] = list(self.of.values())
        self.finished_jobs: list[Job] = []
        self._needed = {self.of[n] for n in needed}

    def _job(self, name: str):
        first, _, file = name.partition("/")
        rule, *values = first.split("_")
        wildcards = dict(zip(("model", "part"), values, strict=False)) | (
            {"file": file} if file else {}
        )
        return Job(
            log=[f"results/small/logs/{name}.log"],
            output=[f"results/small/{name}"],
            wildcards=list(wildcards.values()),
            wildcards_dict=wildcards,
            rule=SimpleNamespace(name=rule),
            params={"stage": "fit-twice"} if name == "fit_final" else {},
            threads=1,
        )

    @property
    def jobs(self):
        return list(self.dependencies)

    def needrun(self, job) -> bool:
        return job in self._needed

    def toposorted(self):
        levels, left = [], dict(self.dependencies)
        while left:
            level = [j for j, needs in left.items() if not any(n in left for n in needs)]
            levels.append(level)
            left = {j: needs for j, needs in left.items() if j not in level}
        return levels


@pytest.fixture
def workflow(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    needs = {
        "fit_final": ["probe_bootstrap_00001", "probe_bootstrap_00000"],
        "probe_bootstrap_00001": ["fit_initial"],
        "probe_bootstrap_00000": ["fit_initial"],
        "fit_initial": [],
        "materialise_random/a/b.jsonl": ["fit_final"],
    }
    dag = Dag(needs, {"fit_final", "materialise_random/a/b.jsonl"})
    return SimpleNamespace(
        dag=dag,
        executor_plugin=SimpleNamespace(name="slurm"),
        scheduler=SimpleNamespace(_executor=SimpleNamespace(run_uuid="groupmates-small-1")),
    )


def test_the_plan_has_every_job_in_the_order_of_the_data_flow_and_whether_it_is_needed(workflow):
    campaign.begin(workflow, "small", CONFIG, 2)
    plan = campaign.read(campaign.logs("small"))
    assert {name: job["needed"] for name, job in plan["jobs"].items()} == {
        "fit_initial": False,
        "probe_bootstrap_00000": False,
        "probe_bootstrap_00001": False,
        "fit_final": True,
        "materialise_random/a/b.jsonl": True,
    }
    assert plan["stages"] == {
        "fit_initial": [],
        "probe_bootstrap": ["fit_initial"],
        "fit_final": ["probe_bootstrap"],
        "materialise_random": ["fit_final"],
    }
    assert list(plan["stages"]) == [
        "fit_initial",
        "probe_bootstrap",
        "fit_final",
        "materialise_random",
    ]


def test_jobs_have_the_comment_that_the_slurm_plugin_gives_them(workflow):
    campaign.begin(workflow, "small", CONFIG, 2)
    plan = campaign.read(campaign.logs("small"))
    assert plan["slurm_name"] == "groupmates-small-1"
    assert plan["jobs"]["fit_final"]["comment"] == "rule_fit_wildcards_final"
    # The command is that of the rule, or of the selector's step.
    commands = {name: plan["jobs"][name]["command"] for name in ("fit_initial", "fit_final")}
    assert commands == {"fit_initial": "fit", "fit_final": "fit-twice"}
    assert plan["jobs"]["probe_bootstrap_00001"]["comment"] == (
        "rule_probe_wildcards_bootstrap_00001"
    )


def test_the_end_keeps_the_plan_and_when_it_began(workflow):
    campaign.begin(workflow, "small", CONFIG, 2)
    before = campaign.read(campaign.logs("small"))
    campaign.end(workflow, "small", "done")
    after = campaign.read(campaign.logs("small"))
    assert (before["state"], before["ended"]) == ("running", None)
    assert after["state"] == "done"
    assert after["ended"] >= before["started"]
    assert after["begun"] == before["begun"]
    assert after["stages"] == before["stages"]


def test_the_end_tells_what_snakemake_has_finished_which_may_be_less_than_it_needed(workflow):
    campaign.begin(workflow, "small", CONFIG, 2)
    workflow.dag.finished_jobs = [workflow.dag.of["fit_final"], workflow.dag.all]
    campaign.end(workflow, "small", "done")
    plan = campaign.read(campaign.logs("small"))
    assert {n for n, job in plan["jobs"].items() if job.get("finished")} == {"fit_final"}


def test_a_plan_that_cannot_be_written_stops_nothing(workflow, tmp_path, capsys):
    (tmp_path / "results").write_text("no folder")
    campaign.begin(workflow, "small", CONFIG, 2)
    campaign.end(workflow, "small", "done")
    assert "WARNING: results/small/logs/campaign.json cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text", ["{", json.dumps({"attempts": []}), json.dumps({"version": 0, "jobs": {}})]
)
def test_a_damaged_or_old_plan_is_none(tmp_path, text):
    (tmp_path / campaign.NAME).write_text(text)
    assert campaign.read(tmp_path) is None


def test_a_plan_that_is_asked_for_makes_nothing(workflow):
    look = Dag({"plan": []}, {"plan"})
    look.of["plan"].output = []
    assert not campaign.makes_something(SimpleNamespace(dag=look))
    assert campaign.makes_something(workflow)


def test_a_process_ends_no_campaign_but_its_own(workflow):
    campaign.begin(workflow, "small", CONFIG, 2)
    path = campaign.logs("small") / campaign.NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pid": 1}))
    campaign.end(workflow, "small", "failed")
    assert campaign.read(campaign.logs("small"))["state"] == "running"


def test_snakemakes_own_limit_of_jobs_a_second_is_taken_off_and_another_one_stays():
    """The names are those of the snakemake that is installed."""
    from snakemake.cli import get_argument_parser
    from snakemake.scheduling.job_scheduler import JobScheduler

    assert "job_rate_limiter" in inspect.getsource(JobScheduler.schedule)
    for words, left in (([], None), (["--max-jobs-per-timespan", "5/1s"], "limiter")):
        limit = get_argument_parser().parse_args(words).max_jobs_per_timespan
        workflow = SimpleNamespace(
            scheduling_settings=SimpleNamespace(max_jobs_per_timespan=limit),
            scheduler=SimpleNamespace(job_rate_limiter="limiter"),
        )
        campaign.plan_only_when_a_job_ends(workflow)
        assert workflow.scheduler.job_rate_limiter == left
