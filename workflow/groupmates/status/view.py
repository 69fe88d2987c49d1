"""A run's status as text: a table per stage, the jobs that run, those that failed, what is next."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from groupmates import formatting
from groupmates.formatting import plural
from groupmates.status import state
from groupmates.status.state import Job, Reader, Status

if TYPE_CHECKING:
    from groupmates.status.left import Left

PIPE_WIDTH = 240
MOST_UNKNOWN = 4  # stages that an estimate leaves out, by name
MOST_ROWS = 20  # of running jobs on a terminal; a pipe gets them all
MOST_FAILED = 5  # whose last lines are shown; of the others the log is named
TAIL_LINES = 8
SECONDS_BETWEEN_LINES = 60.0  # of a watch that goes to a file
MARGIN = "  "
COLOURS = {"done": "green", "running": "cyan", "lost": "magenta", "failed": "red"}
MAIN = {
    "running": "snakemake runs (process {pid} on {host})",
    "elsewhere": "snakemake was started on {host} (process {pid}): look there whether it lives",
    "gone": "snakemake (process {pid} on {host}) is gone without a word: start it again, it goes on",
    "done": "snakemake is through",
    "failed": "snakemake has ended with failed or cancelled jobs: start it again, it goes on",
}


def show(run: Path, watch: float | None) -> None:
    """Print the status of `run`; with `watch`, again every so many seconds until it is over."""
    from groupmates.status.left import Estimator  # counts the pool: half a second of imports

    terminal = sys.stdout.isatty()
    console = Console(highlight=False, width=None if terminal else PIPE_WIDTH)
    reader, estimate = Reader(run), Estimator(run).left
    found = reader.status(time.time())
    if watch is None or found.over:
        tell(console, found, estimate(found))
        return
    with suppress(KeyboardInterrupt):
        follow(console, reader, found, watch, estimate)


def follow(
    console: Console,
    reader: Reader,
    found: Status,
    seconds: float,
    estimate: Callable[[Status], Left | None] = lambda found: None,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Show `found` and what it becomes: on a terminal in place, in a file with a line a minute."""
    if not console.is_terminal:
        tell(console, found, estimate(found))
        told = found.now
        while not found.over:
            sleep(seconds)
            found = reader.status(time.time())
            if found.now - told >= SECONDS_BETWEEN_LINES and not found.over:
                told = found.now
                console.file.write(line(found, estimate(found)) + "\n")
                console.file.flush()
        tell(console, found, estimate(found))
        return
    with Live(page(found, True, estimate(found)), console=console, auto_refresh=False) as live:
        while not found.over:
            sleep(seconds)
            found = reader.status(time.time())
            live.update(page(found, True, estimate(found)), refresh=True)


def tell(console: Console, found: Status, left: Left | None = None) -> None:
    """Print the page; in a pipe without the blanks that fill its lines."""
    if console.is_terminal:
        console.print(page(found, True, left))
        return
    with console.capture() as captured:
        console.print(page(found, False, left))
    text = "\n".join(line.rstrip() for line in captured.get().splitlines())
    console.file.write(text + "\n\n")
    console.file.flush()


def line(found: Status, left: Left | None) -> str:
    """The figures of the page in one line: time, jobs, what runs how fast, time left."""
    parts = [
        time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found.now)),
        f"{sum(job.state == 'done' for job in found.jobs)} of {len(found.jobs)} jobs done",
    ]
    for stage in found.stages:
        working = [job for job in stage.jobs if job.state == "running"]
        if working:
            phases = [w for job in working if (w := state.phase(job.last))]
            pace = sum(state.rate(w) or 0.0 for w in phases)
            at = f" at {pace:,.3g} {phases[0]['unit']}/s" if pace else ""
            rest = duration(state.seconds_left(stage, found.now))
            parts.append(
                f"{stage.name}: {plural(len(working), 'job')}{at}{rest and f', {rest} left'}"
            )
    return " · ".join([*parts, *time_left(left)])


def time_left(left: Left | None) -> list[str]:
    if left is None:
        return []
    text = f"about {duration(left.seconds)} left"
    if left.unknown:
        rest = len(left.unknown) - MOST_UNKNOWN
        more = f" and {rest} more stages" if rest > 0 else ""
        text += f", without {', '.join(left.unknown[:MOST_UNKNOWN])}{more}: not known yet"
    return [text]


def page(found: Status, terminal: bool, left: Left | None = None) -> RenderableType:
    parts: list[RenderableType] = [head(found), *map(Text, time_left(left)), "", stage_table(found)]
    at_it = [job for job in found.jobs if job.state in ("running", "lost")]
    if at_it:
        parts += ["", job_table(found, at_it, MOST_ROWS if terminal else len(at_it))]
    parts += [Text(line) for line in remarks(found)]
    stays = ("failed", "lost") if found.main in ("failed", "gone") else ("failed",)
    failed = [job for job in found.jobs if job.state in stays]
    if failed:
        parts += ["", Text("\n".join(failures(found.run, failed)))]
    return Group(*parts)


def head(found: Status) -> Text:
    """Which run, how long, how far, and whether snakemake lives."""
    done = sum(job.state == "done" for job in found.jobs)
    if found.plan is None:
        return Text(
            f"{found.run}: {done} of {len(found.jobs)} jobs that have begun are done; snakemake has "
            "left no plan here, so what is still to come is not known"
        )
    begun = found.plan["started"]
    last_heard = max([begun, *(job.last["heard"] for job in found.jobs if job.attempts)])
    until = found.plan["ended"] or (last_heard if found.main == "gone" else found.now)
    text = f"{found.run}: {done} of {len(found.jobs)} jobs done, {duration(until - begun)} since "
    text += time.strftime("%Y-%m-%d %H:%M", time.localtime(begun))
    text += "; " + MAIN[found.main].format(**found.plan)
    return Text(text, style="red" if found.main in ("gone", "failed") else "")


def stage_table(found: Status) -> Table:
    """One row per stage, in the order of the data flow; states that no job is in have no column."""
    counts = [stage.counts for stage in found.stages]
    always = ("done", "running", "failed", "waiting")
    states = [s for s in state.STATES if s in always or any(c[s] for c in counts)]
    rows = []
    for stage, of_stage in zip(found.stages, counts, strict=True):
        row = {"stage": Text(stage.name, "dim" if of_stage["done"] == len(stage.jobs) else "")}
        for name in states:
            number = of_stage[name]
            row[name] = Text(f"{number:,}", COLOURS.get(name, "")) if number else Text("·", "dim")
        row["jobs"] = Text(f"{len(stage.jobs):,}")
        row["a job takes"] = Text(duration(stage.mean_seconds))
        row["time left"] = Text(duration(state.seconds_left(stage, found.now)))
        row["GPU"] = Text(gpu([job.last for job in stage.jobs if job.attempts]))
        rows.append(row)
    return _table(rows, left=("stage",))


def job_table(found: Status, jobs: list[Job], most: int) -> Table:
    """What runs: where, how far, how fast; the lost first, then those that have run longest."""
    jobs = sorted(jobs, key=lambda job: (job.state != "lost", job.last["started"]))
    rows = []
    for job in jobs[:most]:
        last, work = job.last, state.phase(job.last)
        pace = state.rate(work) if work else None
        lost = COLOURS["lost"] if job.state == "lost" else ""
        rows.append(
            {
                "running": Text(job.name, COLOURS[job.state]),
                "host": Text(last["host"]),
                "slurm job": Text(last["slurm_job_id"] or ""),
                "for": Text(duration(found.now - last["started"])),
                "at": Text(at(work)),
                "rate": Text(f"{pace:,.3g}/s" if pace else ""),
                "time left": Text(duration(state.phase_left(last))),
                "memory": Text(memory(last.get("peak_rss_bytes"))),
                "GPU": Text(gpu([last])),
                "remark": Text("; ".join(remarks_on(job, found.now)), lost),
            }
        )
    table = _table(rows, left=("running", "host", "slurm job", "at", "remark"))
    if len(jobs) > most:
        table.caption = f"and {len(jobs) - most:,} more"
    return table


def at(work: dict[str, Any] | None) -> str:
    if work is None:
        return ""
    of = f"/{work['total']:,}" if work["total"] else ""
    return f"{work['done']:,}{of} {work['unit']}"


def remarks_on(job: Job, now: float) -> Iterator[str]:
    if job.state == "lost":
        yield f"LOST: silent for {duration(now - job.last['heard'])}; dead, or its node is"
    if len(job.attempts) > 1:
        yield f"attempt {len(job.attempts)}"
    for work in job.last.get("phases") or []:
        if work["resumed"]:
            yield f"went on after {work['resumed']:,} of {work['total']:,} {work['unit']}"


def remarks(found: Status) -> Iterator[str]:
    """What is queued and why, what is next, and what holds everything up."""
    if found.queue.problem:
        yield f"\nSLURM's queue is not known: {found.queue.problem}"
    queued = [s for s in found.stages if s.counts["queued"]]
    if queued:
        yield "\nin SLURM's queue"
        for stage in queued:
            reasons = Counter(job.reason for job in stage.jobs if job.reason)
            why = ", ".join(f"{n:,} {reason}" for reason, n in reasons.most_common())
            yield f"{MARGIN}{stage.name}: {why}"
    following = state.next_stages(found.stages)
    if following:
        parts = [f"{s.name} ({plural(s.to_begin, 'job')})" for s in following]
        yield f"\nnext: {', '.join(parts)}"
    stuck = [s.name for s in found.stages if s.counts["failed"] or s.counts["lost"]]
    waiting = [s for s in found.stages if s.counts["waiting"] and s not in following]
    if stuck and waiting:
        yield f"\nheld up by {', '.join(stuck)}: " + ", ".join(s.name for s in waiting)


def failures(run: Path, failed: list[Job]) -> list[str]:
    """Each failed job by name, with its error, its log and the log's last lines."""
    lines: list[str] = []
    for job in failed[:MOST_FAILED]:
        log, last = state.log_of(run, job), job.last
        how = "failed" if job.state == "failed" else "was killed, or its node died"
        again = f" (attempt {len(job.attempts)})" if len(job.attempts) > 1 else ""
        there = f", slurm job {last['slurm_job_id']}" if last["slurm_job_id"] else ""
        lines += [f"{job.name} {how}{again} on {last['host']}{there}; the end of {log}:"]
        told = state.tail(log, TAIL_LINES) or ["(it has written nothing)"]
        lines += [f"{MARGIN}{line}" for line in told] + [""]
    rest = failed[MOST_FAILED:]
    if rest:
        lines.append(f"{len(rest):,} more failed; their logs:")
        lines += [f"{MARGIN}{state.log_of(run, job)}" for job in rest]
    return lines


def failed_jobs(run: Path) -> str:
    """What snakemake's main process says of failed jobs when it ends."""
    found = Reader(run).status(time.time())
    failed = [job for job in found.jobs if job.state in ("failed", "lost")]
    return "\n".join(failures(run, failed)) or "No job has left a record of a failure: see above."


def gpu(attempts: list[state.Attempt]) -> str:
    """Highest memory and mean utilisation of those attempts that used a GPU."""
    peaks = [a["gpu_peak_bytes"] for a in attempts if a.get("gpu_peak_bytes") is not None]
    used = [a["gpu_utilisation"] for a in attempts if a.get("gpu_utilisation") is not None]
    parts = [memory(max(peaks))] if peaks else []
    parts += [f"{100 * sum(used) / len(used):.0f} % busy"] if used else []
    return ", ".join(parts)


def duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return formatting.duration(max(seconds, 0.0)).replace(formatting.SPACE, " ")


def memory(size: float | None) -> str:
    return "" if size is None else formatting.memory(size / 1e6).replace(formatting.SPACE, " ")


def _table(rows: list[dict[str, Text]], left: tuple[str, ...]) -> Table:
    """Rows below their names, without columns in which nothing stands."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), caption_justify="left")
    names = [name for name in rows[0] if any(row[name].plain for row in rows)]
    for name in names:
        justify: Literal["left", "right"] = "left" if name in left else "right"
        table.add_column(name, justify=justify, no_wrap=name != "remark")
    for row in rows:
        table.add_row(*(row[name] for name in names))
    return table
