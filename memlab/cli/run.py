"""``memlab run``: train what a plan file asks for, in this process or on workers."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memlab.cli.common import NOT_EXACT, JsonOption, StoreOption, fail, reports_errors
from memlab.results.store import Store
from memlab.sweeps.plan_file import PlanFile

if TYPE_CHECKING:
    from memlab.sweeps.executors import ExecutorFactory


@reports_errors
def run_command(
    file: Annotated[Path, typer.Argument(help="plan file (TOML) with texts, tokens, and other settings")],
    store: StoreOption = None,
    processes: Annotated[int, typer.Option(min=0, help="worker processes, one per GPU (0: train in this process)")] = 0,
    dask: Annotated[
        str | None,
        typer.Option(help="address of a Dask scheduler, or local[:WORKERS] to start a cluster on this machine"),
    ] = None,
    chunk: Annotated[int, typer.Option(min=1, help="passages that one worker trains together")] = 16,
    portable: Annotated[
        bool, typer.Option("--portable", help="also check in bfloat16, without cache, and in a batch of 8")
    ] = False,
    dry: Annotated[
        bool, typer.Option("--dry-run", help="print how many runs are missing and how long they will take")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Train the runs of a plan that the store lacks. Stop it at any time; start it again to continue."""
    plan_file = PlanFile.read(file)
    if processes and dask:
        raise typer.BadParameter("give --processes or --dask, not both")

    from memlab.sweeps.plan_file import estimate
    from memlab.sweeps.runner import run

    results_store = Store(store)
    plan = plan_file.plan()
    for what, why in plan.rejected:
        typer.echo(f"left out: {what}: {why}", err=True)
    missing = len(plan.missing(results_store))
    before: dict[str, Any] = {"runs": len(plan), "in the store": len(plan) - missing, "left out": len(plan.rejected)}
    if missing:
        time_left = estimate(plan, results_store, workers=processes or 1)
        before |= {"seconds, likely": round(time_left.likely), "seconds, at most": round(time_left.at_most)}
    if not as_json or dry:
        _print(before, as_json)
    if plan.rejected and not len(plan):
        raise fail("Every run of the plan was left out, so there is nothing to train. The reasons are above.", 2)
    if dry:
        return
    with ExitStack() as stack:
        executor: ExecutorFactory | None = None
        if processes:
            from memlab.sweeps.executors import processes as spawned

            executor = stack.enter_context(spawned(processes))
        elif dask:
            from memlab.sweeps.executors import dask_workers

            executor = workers = stack.enter_context(dask_workers(dask))
            typer.echo(f"Dask dashboard: {workers.dashboard}", err=True)
        report = run(
            plan, results_store, portable=portable, progress=not as_json, executor=executor, chunk=chunk,
            on_progress=None if as_json else _show,
        )  # fmt: skip
    exact = sum(mem.exact for mem in report.results)
    after = {"results": len(report.results), "exact": exact, "trained now": report.trained}
    after["failed"] = len(report.failed)
    _print(before | after if as_json else after, as_json)
    for key, why in report.failed.items():
        typer.echo(f"failed: {key[:12]}: {why}", err=True)
    if report.failed:
        raise typer.Exit(1)
    if exact < len(report.results):
        raise typer.Exit(NOT_EXACT)


def _print(counts: dict[str, Any], as_json: bool) -> None:
    typer.echo(json.dumps(counts) if as_json else ", ".join(f"{name}: {value}" for name, value in counts.items()))


def _show(progress: Any) -> None:
    line = f"{progress.finished} of {progress.total} done, {progress.failed} failed, {progress.given_out} with workers"
    typer.echo(f"\r{line} ", nl=False, err=True)
