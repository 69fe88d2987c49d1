"""Training in several processes: the same as in one, launched, found again, cancelled."""

import json
import multiprocessing
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from torch import distributed as dist

import trainings
import waiting
from groupmates import __main__ as cli
from groupmates.artefacts import unfinished
from groupmates.artefacts.store import read_table
from groupmates.errors import UserError
from groupmates.models import language_model as lm
from groupmates.models.distributed import Processes
from groupmates.slurm import clusters, launch, queries
from groupmates.slurm.clusters import Launch, Slurm

PACKAGE = Path(unfinished.__file__).parents[2]
TESTS = Path(__file__).parent
FORK = multiprocessing.get_context("fork")  # with torch, which is imported here already
# A batch that two and four processes cannot share evenly, one that is smaller than four, and no
# dropout, whose masks belong to a process.
UNEVEN = {
    "base": {"batch_sequences": 5},
    "moments": {"batch_sequences": 3},
    "fit": {"batch_rollouts": 7, "dropout": 0.0},
    "evaluate": {"batch_sequences": 3},
}


@pytest.fixture(scope="module")
def inputs(small_run, tmp_path_factory):
    return trainings.make_inputs(small_run, tmp_path_factory.mktemp("inputs"))


def environment(**more: str) -> dict[str, str]:
    paths = f"{PACKAGE}{os.pathsep}{TESTS}"
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **more}


# Several processes are as one


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8])
def test_processes_share_every_row_once_and_their_average_is_the_mean_of_the_batch(rows, count):
    values = np.random.default_rng(rows).normal(size=rows)
    shares = [Processes(rank, count).share(rows) for rank in range(count)]
    seen = [i for part, weight in shares if weight for i in range(rows)[part]]
    assert sorted(seen) == list(range(rows))
    means = [weight * values[part].mean() for part, weight in shares]
    assert np.mean(means) == pytest.approx(values.mean())


def train(commands: list[list[str]], meeting: Path, rank: int, count: int) -> None:
    """Every training, as one of `count` processes."""
    lm.MICRO_TOKENS = 30  # a row each: several passes in every step, more in some processes
    meet = f"file://{meeting}"
    dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=count)
    for command in commands:
        assert cli.main(command) == 0, command
    dist.destroy_process_group()


def in_processes(count: int, inputs, folder: Path) -> None:
    """Every training, in `count` processes."""
    folder.mkdir()
    commands = [
        trainings.command(name, inputs, folder / name, **UNEVEN[name]) for name in trainings.NAMES
    ]
    ranks = [
        FORK.Process(target=train, args=(commands, folder / "meeting", rank, count))
        for rank in range(count)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    assert [process.exitcode for process in ranks] == [0] * count


def results(folder: Path) -> dict[str, np.ndarray]:
    """The numbers that the trainings end with."""
    found = {}
    for name in ("base/base", "moments/base", "fit/fit"):
        for file in ("model", "optimizer"):
            path = folder / name / f"{file}.safetensors"
            if path.exists():
                found |= {f"{name} {n}": t.numpy() for n, t in load_file(path).items()}
    heldout = read_table(folder / "fit/fit/heldout.parquet", "heldout")
    found["heldout"] = heldout["predicted_nats"].to_numpy()
    curve = read_table(folder / "evaluate/curve.parquet", "curve")
    found["losses"] = curve["loss_nats"].to_numpy()
    return found


def test_one_two_and_four_processes_train_the_same_models(inputs, tmp_path):
    for count in (1, 2, 4):
        in_processes(count, inputs, tmp_path / str(count))
    one, *others = (results(tmp_path / str(count)) for count in (1, 2, 4))
    assert len(one["losses"]) == 4
    for other in others:
        assert other.keys() == one.keys()
        np.testing.assert_allclose(other["losses"], one["losses"], rtol=1e-5)
        np.testing.assert_allclose(other["heldout"], one["heldout"], rtol=1e-3, atol=1e-5)
        for name, values in one.items():
            np.testing.assert_allclose(other[name], values, rtol=1e-3, atol=1e-5, err_msg=name)


# A launched job


def launched(command: list[str], folder: Path, **options: object) -> list[str]:
    asked = {"cluster": "local", "nodes": 1, "processes_per_node": 2, **options}
    return [*command, "--log", str(folder / "logs/job.log"), "--launch", json.dumps(asked)]


def start(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "groupmates", *command],
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.long
def test_a_job_outlives_its_driver_and_the_next_one_waits_for_it(inputs, tmp_path):
    """Two processes; the driver is killed, and another one finds the job, which was started once."""
    command = trainings.command("base", inputs, tmp_path, training_steps=100_000)
    command = launched([*command, "--save-seconds", "0"], tmp_path)
    kept, log = tmp_path / ".base.kept", tmp_path / "logs/job.log"
    first = start(command)
    waiting.until(lambda: list(kept.glob("after-*")), "a save", first)
    first.send_signal(signal.SIGKILL)
    first.wait()
    second = start(command)
    waiting.until(lambda: "which is there already" in log.read_text(), "the job", second)
    # A cancelled driver cancels the job, whose progress is kept, and which leaves nothing behind.
    second.send_signal(signal.SIGTERM)
    told = second.communicate()[1]
    assert second.returncode == 128 + signal.SIGTERM, told
    assert "told to stop, progress is kept" in told
    job = json.loads((tmp_path / "logs/job.launch/job.json").read_text())["job"]
    # Who is its parent now has to take note of its end.
    waiting.until(lambda: not Path(f"/proc/{job}").exists(), "its end")
    assert not (tmp_path / "base").exists()
    text = log.read_text()
    assert text.count("submitted local job") == 1
    done = int(next(kept.glob("after-*")).stem.removeprefix("after-"))
    # Other settings: nothing of the progress is taken over; 12 steps are enough.
    third = start(
        launched(trainings.command("base", inputs, tmp_path, training_steps=12), tmp_path)
    )
    told = third.communicate()[1]
    assert third.returncode == 0, told
    assert "of other settings or inputs; begins anew" in told
    assert 0 < done < 100_000
    assert (tmp_path / "base/model.safetensors").exists()
    assert not kept.exists()
    attempts = json.loads((tmp_path / "logs/job.json").read_text())["attempts"]
    assert [a["state"] for a in attempts] == ["stopped", "done"]
    assert attempts[-1]["phases"][0]["done"] == 12


@pytest.mark.long
def test_a_job_that_ended_without_its_driver_is_not_trained_again(inputs, tmp_path):
    """What it wrote is deleted by the snakemake that is started next, and made from the last step."""
    command = launched(trainings.command("base", inputs, tmp_path), tmp_path)
    first = start(command)
    waiting.until((tmp_path / "base").exists, "an output", first)
    first.send_signal(signal.SIGKILL)
    first.wait()
    shutil.rmtree(tmp_path / "base")
    second = start(command)
    told = second.communicate()[1]
    while second.returncode and "is gone; another start" in told:
        second = start(command)  # found while it was still ending
        told = second.communicate()[1]
    assert second.returncode == 0, told
    assert "goes on after 7 of 7 steps" in told
    assert (tmp_path / "base/model.safetensors").exists()
    assert not (tmp_path / ".base.kept").exists()


def test_an_error_of_the_user_is_told_with_its_status(inputs, tmp_path, capsys):
    command = trainings.command("base", inputs, tmp_path, batch_sequences=500)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "environ", environment())
        assert cli.main(launched(command, tmp_path)) == 2
    assert "sample.training_documents" in capsys.readouterr().err
    assert "sample.training_documents" in (tmp_path / "logs/job.log").read_text()


def test_several_nodes_need_slurm(inputs, tmp_path, capsys):
    command = launched(trainings.command("base", inputs, tmp_path), tmp_path, nodes=2)
    assert cli.main(command) == 2
    assert "use the slurm profile" in capsys.readouterr().err


def test_stages_that_do_not_train_cannot_be_launched(tmp_path, capsys):
    command = ["accept", "--settings", '{"accept": {"minimum_spearman": 0}}']
    command += ["--model", "m", "--output", "o"]
    assert cli.main(launched(command, tmp_path)) == 2
    assert "base, fit, evaluate" in capsys.readouterr().err


def test_the_fingerprint_follows_settings_and_inputs_but_no_outputs(tmp_path):
    read, written = tmp_path / "in", tmp_path / "out"
    (read / "folder").mkdir(parents=True)
    (read / "folder/a").write_text("one")
    arguments = {"base": read, "dataset": [read / "folder/a"], "output": written, "number": 3}
    first = launch.fingerprint(["fit", "x"], arguments)
    written.write_text("new")
    assert launch.fingerprint(["fit", "x"], arguments) == first
    assert launch.fingerprint(["fit", "y"], arguments) != first
    (read / "folder/a").write_text("other")
    assert launch.fingerprint(["fit", "x"], arguments) != first


# What SLURM is asked for


def slurm(tmp_path: Path, **resources: object) -> dict:
    found = Slurm(Launch("slurm", 2, 4, resources), tmp_path, "demo-fit", 3).parameters("k")
    del found["setup"]
    return found


def test_a_job_asks_for_the_resources_of_each_of_its_processes(tmp_path):
    found = slurm(
        tmp_path,
        mem_mb=16000,
        runtime=240,
        slurm_partition="gpu",
        slurm_account="lab",
        qos="high",
        constraint="a100",
        gres="gpu:a100:1",
        slurm_extra="--reservation=night --exclusive",
    )
    assert found == {
        "job_name": "gm-launch-demo-fit-k",
        "nodes": 2,
        "ntasks_per_node": 4,
        "cpus_per_task": 3,
        "mem": "64000M",
        "time": 240,
        "signal_delay_s": 120,
        "partition": "gpu",
        "account": "lab",
        "qos": "high",
        "constraint": "a100",
        "gres": "gpu:a100:4",
        "srun_args": ["--cpus-per-task=3", "--kill-on-bad-exit=1"],
        "additional_parameters": {"requeue": True, "reservation": "night", "exclusive": True},
    }


def test_gpus_may_be_given_by_number_and_model_and_cpus_by_process(tmp_path):
    found = slurm(tmp_path, gpu=1, gpu_model="h100", cpus_per_task=12, runtime=1)
    assert (found["gpus_per_node"], found["cpus_per_task"]) == ("h100:4", 12)
    assert (found["time"], found["signal_delay_s"]) == (1, 30)
    assert slurm(tmp_path, gpu=2)["gpus_per_node"] == "8"
    assert not {"gres", "gpus_per_node"} & slurm(tmp_path, gpu=0).keys()


@pytest.mark.parametrize(
    ("one", "four"),
    [("gpu", "gpu:4"), ("gpu:2", "gpu:8"), ("gpu:a100", "gpu:a100:4"), ("a:1,b:2", "a:4,b:8")],
)
def test_generic_resources_are_multiplied(one, four):
    assert clusters.times(one, 4) == four


def test_extra_options_of_another_form_are_refused(tmp_path):
    with pytest.raises(UserError, match="slurm_extra"):
        slurm(tmp_path, slurm_extra="-p gpu")


# What a profile asks for


def test_a_rule_trains_in_several_processes_where_its_resources_say_so():
    asked = {"fit": {"nodes": 2, "mem_mb": 1}, "base": {"processes_per_node": 1}}
    assert clusters.several(asked, "fit")
    assert not clusters.several(asked, "base")
    assert not clusters.several(asked, "evaluate")


@pytest.mark.parametrize("count", [0, "2 * attempt", None])
def test_numbers_of_processes_that_are_none_are_refused(count):
    with pytest.raises(UserError, match="set-resources of fit"):
        clusters.several({"fit": {"nodes": count}}, "fit")


def test_the_command_line_of_one_process_says_nothing_of_launching():
    assert clusters.option("slurm", {"nodes": 1, "processes_per_node": 1, "mem_mb": 5}, "x") == ""


def test_the_command_line_of_several_processes_can_be_pasted():
    resources = {"nodes": 2, "processes_per_node": 4, "mem_mb": 5, "tmpdir": "/tmp"}
    resources |= {"constraint": "a|b", "gpu": 1}
    words = shlex.split(clusters.option("slurm", resources, "module load 'cuda'"))
    assert words[0] == "--launch"
    assert Launch.parse(words[1]) == Launch(
        "slurm", 2, 4, {"mem_mb": 5, "constraint": "a|b", "gpu": 1}, "module load 'cuda'"
    )


def test_a_worker_begins_with_what_the_site_wants_and_in_its_container(tmp_path):
    asked = Launch("slurm", 1, 2, {}, "export GROUPMATES_CONTAINER='echo run'")
    setup = Slurm(asked, tmp_path, "demo-fit", 1).parameters("k")["setup"]
    inside = subprocess.run(
        ["bash", "-c", "\n".join([*setup, "$GROUPMATES_WORKER -m x"])],
        capture_output=True,
        text=True,
    )
    assert inside.stdout.strip() == f"run env PYTHONPATH={PACKAGE} python3 -m x"
    plain = subprocess.run(
        ["bash", "-c", "\n".join([*setup[1:], "$GROUPMATES_WORKER -c 'print(7)'"])],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
    )
    assert plain.stdout.strip() == "7"


RUNNING = "JobId=7 JobName=groupmates-demo JobState=RUNNING EndTime=2099-01-01T00:00:00 "


@pytest.mark.parametrize(
    ("said", "seconds", "leaving"),
    [
        (RUNNING + "PreemptTime=2026-11-24T14:13:47", 0, True),
        (RUNNING + "PreemptTime=None", 240, False),  # killed for its memory, for instance
        (RUNNING.replace("2099", "2001"), 240, True),
        (RUNNING.replace("2099-01-01T00:00:00", "Unknown"), 240, False),
        (RUNNING.replace("RUNNING", "COMPLETING") + "PreemptTime=2026-11-24T14:13:47", 0, False),
        ("", 240, False),  # slurmctld does not answer
    ],
)
def test_a_job_leaves_its_node_for_a_preemption_or_its_time_limit(said, seconds, leaving):
    fields = dict(word.split("=") for word in said.split())
    assert queries.is_leaving(fields, seconds) == leaving
