"""A real SLURM on this machine: munge, slurmctld and several slurmd with pretended GPUs.

By hand, to try profiles/slurm::

    python tests/slurm/cluster.py up        # or: make slurm-up
    python tests/slurm/cluster.py status
    python tests/slurm/cluster.py down      # or: make slurm-down

Everything lies in one folder: configuration, keys, logs, state, pid files, and in bin/ the SLURM
commands bound to this cluster. They go first on the PATH, because Snakemake's job step drops
SLURM_CONF before it calls srun. Several clusters run side by side, each with its own ports.
"""

from __future__ import annotations

import argparse
import getpass
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

DAEMONS = ("munged", "slurmctld", "slurmd")
COMMANDS = ("sbatch", "srun", "squeue", "scancel", "sinfo", "scontrol", "sacct", "sstat", "salloc")
SBIN = "/usr/sbin:/sbin:/usr/local/sbin"
PACKAGES = "slurmctld slurmd slurm-client munge"
INSTALL = (
    f"apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y "
    f"--no-install-recommends {PACKAGES}"
)
# More than this machine has: SLURM counts what jobs ask for, the kernel what they use.
CPUS, MEMORY_MB, GPUS = 4, 64_000, 2
PATIENCE_SECONDS = 600.0  # on a machine that others use, too
# The sockets of job steps lie in it, and the path of a socket has at most 108 characters.
LONGEST_FOLDER = 60

SLURM_CONF = """\
ClusterName=groupmates
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
AuthType=auth/munge
# Credentials that expire soon: a requeued job may start 7 s later instead of 121 s.
AuthInfo=socket={folder}/run/munge.sock,cred_expire=5
CredType=cred/munge
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state/ctld
SlurmdSpoolDir={folder}/state/slurmd.%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
# A node set down by hand stays down. With 2 it is back at once, and takes its requeued job while
# that job's last step may still be ending: SLURM holds the job then, for ever (Duplicate jobid).
ReturnToService=1
SlurmctldTimeout=30
SlurmdTimeout=20
InactiveLimit=0
KillWait=5
MinJobAge=7200
BatchStartTimeout=10
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2,sched_min_interval=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=500
GresTypes=gpu
SlurmdParameters=config_overrides
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=5
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
{nodes}
PartitionName=cpu Nodes=ALL Default=YES MaxTime=INFINITE DefaultTime=5 State=UP PriorityTier=10
PartitionName=gpu Nodes=ALL MaxTime=INFINITE DefaultTime=5 State=UP PriorityTier=10
# Jobs here make way for those of the other partitions, and are queued again.
PartitionName=scavenge Nodes=ALL MaxTime=INFINITE DefaultTime=5 State=UP PriorityTier=1 GraceTime=5
# With more time for a save than a busy machine takes.
PartitionName=patient Nodes=ALL MaxTime=INFINITE DefaultTime=5 State=UP PriorityTier=1 GraceTime=120
# As on sites with a time limit: what asks for more waits for ever.
PartitionName=short Nodes=ALL MaxTime=10 DefaultTime=5 State=UP PriorityTier=10
"""


@dataclass(frozen=True)
class Job:
    """One line of squeue."""

    id: str
    state: str
    name: str
    partition: str
    node: str
    comment: str


class Cluster:
    """One cluster in `folder`. `up` starts what is not running, so that it may be called again."""

    def __init__(self, folder: Path, nodes: int = 2, port: int | None = None) -> None:
        self.folder = folder.absolute()
        if len(str(self.folder)) > LONGEST_FOLDER:
            raise ValueError(
                f"{self.folder}: more than {LONGEST_FOLDER} characters, take a shorter one"
            )
        self._known = self._read_layout()
        if self._known is not None:
            self.port, count = self._known
        else:
            self.port, count = port or free_ports(nodes), nodes
        self.nodes = [f"gmnode{i}" for i in range(1, count + 1)]

    # What it takes to use it.

    def environment(self, **more: str) -> dict[str, str]:
        """For the processes of a user of this cluster."""
        return {
            **{k: v for k, v in os.environ.items() if not k.startswith("SLURM_")},
            "PATH": f"{self.folder}/bin:{os.environ['PATH']}",
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            **more,
        }

    def command(self, *arguments: str, check: bool = True) -> str:
        """The standard output of a SLURM command."""
        done = subprocess.run(
            arguments,
            env=self.environment(),
            text=True,
            capture_output=True,
            timeout=120,
            check=False,
        )
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def squeue(self, states: str = "all") -> list[Job]:
        """Every job that slurmctld remembers; `states` as for `squeue --states`."""
        shown = self.command("squeue", "-h", "-t", states, "-o", "%i|%T|%j|%P|%N|%k")
        return [Job(*line.split("|")) for line in shown.splitlines()]

    def submit(self, script: str, *options: str) -> str:
        """The id of a new batch job; its output goes to the cluster's log folder."""
        log = f"{self.folder}/log/job-%j.log"
        return self.command("sbatch", "--parsable", "-o", log, *options, "--wrap", script).strip()

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError(f"{what} within {PATIENCE_SECONDS:.0f} s; {self.diagnosis()}")
            time.sleep(0.2)

    # Up and down.

    def up(self, wait: bool = True) -> None:
        """Start what is not running; with `wait`, until all nodes are idle."""
        for name in ("run", "log", "bin", "state/ctld", "state/gpu"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        # munged refuses folders that others may write to.
        for folder in (self.folder, self.folder / "run", self.folder / "log"):
            folder.chmod(0o755)
        self._write_configuration()
        self._write_commands()
        self.start_munge()
        for attempt in range(5):
            if self.start_slurmctld():
                break
            if self._known is not None or attempt == 4:
                raise RuntimeError(f"slurmctld does not start; {self.tails()}")
            # Somebody else took a port in between.
            self.port = free_ports(len(self.nodes))
            self._write_configuration()
        for node in self.nodes:
            self.start_slurmd(node)
        self._known = self._read_layout()
        if wait:
            self.wait_for(self.ready, "all nodes idle")

    def name_nodes(self) -> str:
        """Let the nodes' names mean this machine, as processes that look for each other need.

        Adds them to /etc/hosts where they are missing; what it did, or what is to be done.
        """
        lacking = [node for node in self.nodes if not _resolves(node)]
        if not lacking:
            return ""
        line = f"127.0.0.1 {' '.join(lacking)}"
        try:
            with open("/etc/hosts", "a") as hosts:
                hosts.write(f"{line}  # groupmates: nodes of tests/slurm/cluster.py\n")
        except OSError as error:
            return f"training on two nodes needs this line in /etc/hosts: {line} ({error})"
        return f"added to /etc/hosts: {line}"

    def down(self) -> None:
        """Stop jobs and daemons of this cluster, also what a killed daemon has left behind."""
        for name in (*[f"slurmd.{node}" for node in self.nodes], "slurmctld", "munged"):
            self._stop(name)
        self._kill_orphans()

    def start_munge(self) -> None:
        if self._running("munged"):
            return
        self._start(
            "munged",
            "--force",
            f"--key-file={self.folder}/munge.key",
            f"--socket={self.folder}/run/munge.sock",
            f"--pid-file={self.folder}/run/munged.pid",
            f"--log-file={self.folder}/log/munged.log",
            f"--seed-file={self.folder}/state/munged.seed",
        )
        self.wait_for((self.folder / "run/munge.sock").exists, "a socket of munged")

    def start_slurmctld(self) -> bool:
        """Whether slurmctld answers; not where its port was taken."""
        if not self._running("slurmctld"):
            self._start("slurmctld", "-f", f"{self.folder}/slurm.conf")
        end = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < end:
            if "UP" in self.command("scontrol", "ping", check=False):
                return self._running("slurmctld")
            if not self._running("slurmctld") and time.monotonic() > end - PATIENCE_SECONDS + 5:
                return False
            time.sleep(0.1)
        return False

    def start_slurmd(self, node: str) -> None:
        if not self._running(f"slurmd.{node}"):
            self._start("slurmd", "-N", node, "-f", f"{self.folder}/slurm.conf")

    # Faults.

    def kill_slurmd(self, node: str) -> None:
        """SIGKILL to a node's daemon: SLURM notices after SlurmdTimeout."""
        self._kill(f"slurmd.{node}")

    def kill_node(self, node: str) -> None:
        """As if the power failed: the daemon and all processes of the node's jobs at once."""
        self.kill_slurmd(node)
        self._kill_orphans(node)

    def kill_slurmctld(self) -> None:
        self._kill("slurmctld")

    def restart_slurmctld(self) -> None:
        self._stop("slurmctld")
        if not self.start_slurmctld():
            raise RuntimeError(f"slurmctld does not come back; {self.tails()}")

    def set_node(self, node: str, state: str) -> None:
        """`state` as for scontrol: down, drain, resume."""
        self.command("scontrol", "update", f"nodename={node}", f"state={state}", "reason=test")

    def mend(self) -> None:
        """After any fault: everything up, no job left, all nodes idle."""
        self.up(wait=False)
        self.command("scancel", "-u", getpass.getuser())
        self.wait_for(lambda: not self.squeue("pd,r,s,cg,cf"), "no job")
        # What SLURM has lost sight of when its node was set down.
        self._kill_orphans()
        for node in self.nodes:
            if self.node_state(node).rstrip("*") not in ("idle", "mixed", "allocated"):
                self.set_node(node, "resume")
        self.wait_for(self.ready, "all nodes idle")

    # What is going on.

    def node_state(self, node: str) -> str:
        return self.command("sinfo", "-h", "-p", "cpu", "-n", node, "-o", "%T").strip()

    def ready(self) -> bool:
        states = self.command("sinfo", "-h", "-N", "-p", "cpu", "-o", "%t", check=False).split()
        return len(states) == len(self.nodes) and all(s in ("idle", "mix") for s in states)

    def status(self) -> str:
        names = ["munged", "slurmctld", *[f"slurmd.{node}" for node in self.nodes]]
        daemons = [f"{name:16} {'up' if self._running(name) else 'down'}" for name in names]
        return "\n".join([*daemons, self.command("sinfo", check=False).rstrip()])

    def diagnosis(self) -> str:
        """For error messages: the status, why nodes and jobs stand where they do, long tails."""
        nodes = self.command("sinfo", "-R", check=False)
        jobs = self.command("squeue", "-t", "all", "-o", "%i %T %r %N %S", check=False)
        return "\n".join([self.status(), nodes.rstrip(), jobs.rstrip(), self.tails(30)])

    def tails(self, lines: int = 8) -> str:
        """The last lines of every log, for error messages."""
        logs = sorted((self.folder / "log").glob("*.log"))
        return "\n".join(
            f"--- {log}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
            for log in logs
            if not log.name.startswith("job-")
        )

    # Files.

    def _write_configuration(self) -> None:
        host = socket.gethostname().split(".")[0]
        lines = [
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={self.port + 1 + i} "
            f"CPUs={CPUS} RealMemory={MEMORY_MB} Gres=gpu:fake:{GPUS} State=UNKNOWN"
            for i, node in enumerate(self.nodes)
        ]
        conf = SLURM_CONF.format(
            host=host,
            port=self.port,
            folder=self.folder,
            user=getpass.getuser(),
            nodes="\n".join(lines),
        )
        (self.folder / "slurm.conf").write_text(conf)
        for i in range(GPUS):
            # SLURM wants a device; only its number is used, for CUDA_VISIBLE_DEVICES.
            device = self.folder / f"state/gpu/fake{i}"
            if not device.is_symlink():
                device.symlink_to("/dev/null")
        devices = f"{self.folder}/state/gpu/fake[0-{GPUS - 1}]"
        gres = [f"NodeName={node} Name=gpu Type=fake File={devices}" for node in self.nodes]
        (self.folder / "gres.conf").write_text("\n".join(["AutoDetect=off", *gres, ""]))
        key = self.folder / "munge.key"
        if not key.exists():
            key.write_bytes(os.urandom(128))
            key.chmod(0o400)

    def _write_commands(self) -> None:
        for name in COMMANDS:
            program = shutil.which(name, path=f"/usr/bin:/usr/local/bin:{os.environ['PATH']}")
            if program is None:
                continue
            file = self.folder / "bin" / name
            file.write_text(
                f'#!/bin/sh\nSLURM_CONF="{self.folder}/slurm.conf" exec "{program}" "$@"\n'
            )
            file.chmod(0o755)

    def _read_layout(self) -> tuple[int, int] | None:
        """Port and number of nodes of a cluster that this folder holds already."""
        conf = self.folder / "slurm.conf"
        if not conf.exists():
            return None
        lines = conf.read_text().splitlines()
        port = next(line.split("=")[1] for line in lines if line.startswith("SlurmctldPort="))
        return int(port), sum(line.startswith("NodeName=") for line in lines)

    # Processes.

    def _start(self, daemon: str, *arguments: str) -> None:
        program = shutil.which(daemon, path=f"{SBIN}:{os.environ['PATH']}")
        if program is None:
            raise FileNotFoundError(f"{daemon}: not installed. To install it: {INSTALL}")
        with (self.folder / "log" / "start.log").open("a") as log:
            subprocess.run(
                [program, *arguments],
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                timeout=PATIENCE_SECONDS,
                check=False,
            )

    def _process(self, name: str) -> psutil.Process | None:
        """The daemon of a pid file, unless that is stale and the number now somebody else's."""
        try:
            process = psutil.Process(int((self.folder / f"run/{name}.pid").read_text()))
            ours = str(self.folder) in " ".join(process.cmdline())
            alive = process.status() != psutil.STATUS_ZOMBIE
        except (FileNotFoundError, ValueError, psutil.Error):
            return None
        return process if ours and alive else None

    def _running(self, name: str) -> bool:
        return self._process(name) is not None

    def _stop(self, name: str) -> None:
        process = self._process(name)
        if process is not None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except psutil.TimeoutExpired:
                process.kill()
        (self.folder / f"run/{name}.pid").unlink(missing_ok=True)

    def _kill(self, name: str) -> None:
        process = self._process(name)
        if process is None:
            raise RuntimeError(f"{name} is not running")
        process.kill()
        process.wait(10)

    def _kill_orphans(self, node: str | None = None) -> None:
        """Until none is left: a process may start another between a look and its end."""
        while orphans := self._orphans(node):
            for process in orphans:
                process.kill()
            psutil.wait_procs(orphans, timeout=10)

    def _orphans(self, node: str | None = None) -> list[psutil.Process]:
        """Job steps of this cluster (of one node), and all that runs in them."""
        found = []
        for process in psutil.process_iter():
            try:
                environment = process.environ()
                step = process.name().startswith("slurmstepd")
            except psutil.Error:
                continue
            ours = (
                environment.get("SLURM_CONF") == str(self.folder / "slurm.conf")
                if step
                else f"{self.folder}/bin" in environment.get("PATH", "").split(":")
                and "SLURM_JOB_ID" in environment
            )
            if ours and (node is None or environment.get("SLURMD_NODENAME", node) == node):
                found.append(process)
        return found


def free_ports(nodes: int) -> int:
    """The first of a row of ports for slurmctld and `nodes` slurmd that nobody listens at."""
    for _ in range(200):
        first = random.SystemRandom().randrange(20_000, 32_000)
        if all(_free(port) for port in range(first, first + nodes + 1)):
            return first
    raise RuntimeError("no free ports between 20000 and 32000")


def _free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
    return True


def _resolves(name: str) -> bool:
    try:
        return socket.gethostbyname(name).startswith("127.")
    except OSError:
        return False


def missing() -> list[str]:
    """Programs of SLURM and munge that this machine lacks."""
    path = f"{SBIN}:{os.environ['PATH']}"
    return [n for n in (*DAEMONS, "sbatch", "srun") if shutil.which(n, path=path) is None]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("action", choices=("up", "down", "status"))
    default = Path(tempfile.gettempdir()) / f"groupmates-slurm-{getpass.getuser()}"
    parser.add_argument("--folder", type=Path, default=default, help=f"default: {default}")
    parser.add_argument("--port", type=int, help="first of a row of ports; default: free ones")
    parser.add_argument("--nodes", type=int, default=2, help="default: 2")
    arguments = parser.parse_args()
    if missing():
        print(f"not installed: {', '.join(missing())}\nto do: {INSTALL}", file=sys.stderr)
        return 2
    cluster = Cluster(arguments.folder, arguments.nodes, arguments.port)
    if arguments.action == "up":
        cluster.up()
        print("\n".join(filter(None, [cluster.status(), cluster.name_nodes()])))
        print("\nnow, in this shell:\n")
        print(f'    export PATH="{cluster.folder}/bin:$PATH"')
        print("    snakemake --profile profiles/slurm\n\nand at the end: make slurm-down")
    elif arguments.action == "down":
        cluster.down()
        shutil.rmtree(cluster.folder, ignore_errors=True)
    else:
        print(cluster.status())
    return 0


if __name__ == "__main__":
    sys.exit(main())
