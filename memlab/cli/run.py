"""``memlab run``: a plan file, here or on other processes and machines."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memlab.cli.common import NOT_EXACT, JsonOption, StoreOption, told
from memlab.results.store import Store
from memlab.sweeps.plan_file import PlanFile

if TYPE_CHECKING:
    from memlab.sweeps.executors import ExecutorFactory


@told
def run_command(
    file: Annotated[Path, typer.Argument(help="plan, TOML: texts, tokens, and what else is varied")],
    store: StoreOption = None,
    processes: Annotated[int, typer.Option(min=0, help="worker processes, one a GPU; 0: in this one")] = 0,
    dask: Annotated[
        str | None, typer.Option(help="a Dask scheduler's address, or local[:WORKERS] for a cluster of its own")
    ] = None,
    chunk: Annotated[int, typer.Option(min=1, help="passages a worker trains together")] = 16,
    portable: Annotated[bool, typer.Option("--portable", help="also check in bf16, without cache, in a batch")] = False,
    dry: Annotated[bool, typer.Option("--dry-run", help="only say what is missing, and how long it will take")] = False,
    as_json: JsonOption = False,
) -> None:
    """Train what a plan lacks in the store; stop it at any time and start it again."""
    study = PlanFile.read(file)
    if processes and dask:
        raise typer.BadParameter("give --processes or --dask, not both")

    from memlab.sweeps.plan_file import estimate
    from memlab.sweeps.runner import run

    place = Store(store)
    plan = study.plan()
    for what, why in plan.rejected:
        typer.echo(f"left out: {what}: {why}", err=True)
    missing = len(plan.missing(place))
    said: dict[str, Any] = {"runs": len(plan), "in the store": len(plan) - missing, "left out": len(plan.rejected)}
    if missing:
        time_left = estimate(plan, place, workers=processes or 1)
        said |= {"seconds, likely": round(time_left.likely), "seconds, at most": round(time_left.at_most)}
    if not as_json or dry:
        typer.echo(json.dumps(said) if as_json else ", ".join(f"{name}: {value}" for name, value in said.items()))
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
            typer.echo(f"Dask's dashboard: {workers.dashboard}", err=True)
        report = run(
            plan, place, portable=portable, progress=not as_json, executor=executor, chunk=chunk,
            watch=None if as_json else _show,
        )  # fmt: skip
    exact = sum(mem.exact for mem in report.results)
    done = {"results": len(report.results), "exact": exact, "trained now": report.trained, "failed": len(report.failed)}
    typer.echo(json.dumps(said | done) if as_json else ", ".join(f"{name}: {value}" for name, value in done.items()))
    for key, why in report.failed.items():
        typer.echo(f"failed: {key[:12]}: {why}", err=True)
    if report.failed:
        raise typer.Exit(1)
    if exact < len(report.results):
        raise typer.Exit(NOT_EXACT)


def _show(going: Any) -> None:
    said = f"{going.finished} of {going.total} done, {going.failed} failed, {going.given_out} with workers"
    typer.echo(f"\r{said} ", nl=False, err=True)
