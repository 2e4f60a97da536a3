"""``memlab bench``: measurements that anyone can repeat. Most resume: vectors in the store are not trained again."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from memlab.cli.bench_encoders import bench_encoder_gap, bench_warm_start
from memlab.cli.bench_hidden import bench_hidden_states
from memlab.cli.bench_horizon import bench_horizon
from memlab.cli.bench_kinds import bench_kinds
from memlab.cli.bench_landscape import bench_landscape
from memlab.cli.bench_machine import bench_one_pass, bench_step_profile, bench_store_crash, bench_store_scale
from memlab.cli.bench_models import bench_families
from memlab.cli.bench_prefix_tuning import bench_prefix_tuning
from memlab.cli.bench_smaller import bench_smaller_models
from memlab.cli.bench_use import bench_harm, bench_use, bench_use_training
from memlab.cli.bench_vectors import (
    bench_bundled,
    bench_codecs,
    bench_fewer_bits,
    bench_geometry,
    bench_precision,
    bench_travel,
)
from memlab.cli.common import (
    ColumnOption,
    ModelOption,
    OutOption,
    StoreOption,
    TextsOption,
    fail,
    recipe_of,
    reports_errors,
)
from memlab.cli.old_names import RenamedGroup
from memlab.cli.outputs import file_option
from memlab.cli.report import bench_report
from memlab.experiments.registry import EXPERIMENTS, Experiment
from memlab.experiments.tables import read_table, write_table
from memlab.results.store import Store
from memlab.texts import load_texts

bench_app = typer.Typer(
    cls=RenamedGroup,
    help="Measurements that resume: vectors in the store are not trained again.",
    no_args_is_help=True,
)


@reports_errors
def bench_recovery(
    texts: TextsOption = "originals",
    column: ColumnOption = None,
    count: Annotated[int, typer.Option(help="passages, one from each text", min=1)] = 8,
    tokens: Annotated[int, typer.Option("--tokens", "-n", help="tokens of each passage", min=1)] = 32,
    recipe: Annotated[
        list[str] | None,
        typer.Option("--recipe", help="a recipe by name or as JSON; repeatable [default: default, paper2025]"),
    ] = None,
    model: ModelOption = "smollm2-135m",
    store: StoreOption = None,
    out: OutOption = None,
) -> None:
    """Three readings: teacher-forced, first token given, and from the vector alone."""
    recipes = [recipe_of(name) for name in recipe or ["default", "paper2025"]]
    chosen = load_texts(texts, count=count, column=column)

    from memlab.experiments.recovery import recovery, summary
    from memlab.experiments.session import Session
    from memlab.models import load

    lm = load(model)
    result = recovery(Session(lm, Store(store)), chosen, recipes, tokens=tokens)
    for what, why in result.lost.items():
        typer.echo(f"left out: {what}: {why}", err=True)
    if not len(result.table):
        raise fail("No run finished, so there is no table. The reasons are above.", 1)
    write_table(result.table, out)
    measured = f"{result.table.text_id.nunique()} of {len(chosen)} texts ({texts})"
    typer.echo(f"{lm!r}\n{measured}, first {tokens} tokens, 95 % Wilson intervals")
    typer.echo(f"{result.trained} trained now, in {result.seconds:.0f} s; the others were in the store")
    typer.echo(summary(result.table).to_string())


@reports_errors
def bench_speed(
    texts: TextsOption = "originals",
    column: ColumnOption = None,
    count: Annotated[int, typer.Option(help="passages of each length, one from each text", min=1)] = 6,
    tokens: Annotated[
        list[int] | None, typer.Option("--tokens", "-n", help="length in tokens; repeatable [default: 32, 16]", min=1)
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(help="published recipe to compare with; repeatable [default: paper2025, progressive2026]"),
    ] = None,
    model: ModelOption = "smollm2-135m",
    out: Annotated[
        Path, file_option("Parquet table; written after each passage, and read to resume", ".parquet")
    ] = Path("bench-speed.parquet"),
    picture: Annotated[Path | None, file_option("also draw the table: .png or .svg", ".png", ".svg")] = None,
) -> None:
    """Published recipes run as published: batch 1, float32, their own stop rules. Takes hours."""
    from memlab.charts import save, speed_chart
    from memlab.experiments.speed import by_method, ratios, speed
    from memlab.models import load

    lm = load(model)
    chosen = load_texts(texts, count=count, column=column)
    passages = [lm.passage(text, n) for n in tokens or [32, 16] for text in chosen]
    table = speed(lm, passages, out=out, against=against or ["paper2025", "progressive2026"], log=typer.echo)
    compared = ratios(table)[["method", "over", "ratio", "low", "high", "passages"]].round(1)  # rows of this machine
    typer.echo(f"{lm!r}\n{by_method(table).to_string(index=False)}\n{compared.to_string(index=False)}")
    if picture:
        save(speed_chart(table), picture)


@reports_errors
def bench_optimizer(
    stage: Annotated[str, typer.Argument(help="screen, or final")],
    texts: Annotated[
        list[str] | None,
        typer.Option(help="texts of the final stage; repeatable [default: classics, random]"),
    ] = None,
    column: ColumnOption = None,
    model: ModelOption = "smollm2-135m",
    store: StoreOption = None,
    only: Annotated[list[str] | None, typer.Option(help="name of a contender; repeatable [default: all]")] = None,
    out: Annotated[
        Path | None, file_option("Parquet table; written after each contender, and read to resume", ".parquet")
    ] = None,
) -> None:
    """Two stages: many settings on a few passages (screen), then the best of them on many passages (final)."""
    from memlab.experiments.optimizer_study import STAGES, ranking, stage_passages, study
    from memlab.experiments.session import Session
    from memlab.models import load

    if stage not in STAGES:
        raise typer.BadParameter(f"{stage!r}; expected {' or '.join(STAGES)}", param_hint="STAGE")
    settings = STAGES[stage]
    names = [name for group in settings.contenders.values() for name in group]
    if unknown := [name for name in only or [] if name not in names]:
        raise typer.BadParameter(f"{unknown}; expected some of: {'; '.join(names)}", param_hint="--only")
    lm = load(model)
    contenders = {
        question: {name: changes for name, changes in group.items() if not only or name in only}
        for question, group in settings.contenders.items()
    }
    passages = stage_passages(lm, settings, texts, column)
    table = study(
        Session(lm, Store(store), log=typer.echo, progress=False), passages, contenders,
        budget=settings.budget, seeds=settings.seeds, out=out,
    )  # fmt: skip
    typer.echo(f"{lm!r}\n{ranking(table).to_string(index=False)}")


@reports_errors
def bench_sink(
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", help="model; repeatable [default: smollm2-135m, gemma-3-270m, and all toys]"),
    ] = None,
    texts: TextsOption = "originals",
    column: ColumnOption = None,
    count: Annotated[int, typer.Option(help="passages, one from each text", min=1)] = 8,
    tokens: Annotated[
        int,
        typer.Option("--tokens", "-n", help="tokens of each passage; for a toy a quarter of them, at random", min=1),
    ] = 32,
    store: StoreOption = None,
    out: Annotated[
        Path | None, file_option("Parquet table; written after each model, and read to resume", ".parquet")
    ] = None,
) -> None:
    """Trains each passage with each position of the token, and compares the steps."""
    import pandas as pd

    from memlab.experiments.session import Session
    from memlab.experiments.sink_position import sink, sink_passages, summary
    from memlab.models import load
    from memlab.models.families import TOY_FAMILIES

    names = model or ["smollm2-135m", "gemma-3-270m", *(f"toy:{family}" for family in TOY_FAMILIES)]
    chosen = load_texts(texts, count=count, column=column)
    resume_from = read_table(out)
    tables = [] if resume_from is None else [resume_from]
    for name in names:
        lm = load(name)
        table = sink(Session(lm, Store(store), resume_from, progress=False), sink_passages(lm, chosen, tokens))
        tables.append(table)
        write_table(pd.concat(tables).drop_duplicates(["key", "text_id"], ignore_index=True), out)
        typer.echo(summary(table).to_string(index=False))


COMMANDS = {
    "recovery": bench_recovery,
    "speed": bench_speed,
    "optimizer": bench_optimizer,
    "sink": bench_sink,
    "horizon": bench_horizon,
    "one-pass": bench_one_pass,
    "precision": bench_precision,
    "fewer-bits": bench_fewer_bits,
    "codecs": bench_codecs,
    "geometry": bench_geometry,
    "bundled": bench_bundled,
    "travel": bench_travel,
    "landscape": bench_landscape,
    "prefix-tuning": bench_prefix_tuning,
    "kinds": bench_kinds,
    "smaller-models": bench_smaller_models,
    "encoder-gap": bench_encoder_gap,
    "warm-start": bench_warm_start,
    "use": bench_use,
    "harm": bench_harm,
    "use-training": bench_use_training,
    "hidden-states": bench_hidden_states,
    "families": bench_families,
    "step-profile": bench_step_profile,
    "store-crash": bench_store_crash,
    "store-scale": bench_store_scale,
}
"""Commands with more options. Any other experiment gets ``session_command``."""


def session_command(experiment: Experiment) -> Callable[..., None]:
    """The command of an experiment whose function needs a ``Session`` only, and returns a table."""

    @reports_errors
    def command(
        model: ModelOption = "smollm2-135m",
        store: StoreOption = None,
        out: Annotated[
            Path | None, file_option("Parquet table; written at the end, and read to resume", ".parquet")
        ] = None,
    ) -> None:
        from memlab.experiments.session import Session
        from memlab.models import load

        lm = load(model)
        table = experiment.run(Session(lm, Store(store), read_table(out), typer.echo))
        write_table(table, out)
        typer.echo(f"{lm!r}\n{table.to_string(index=False) if len(table) else 'The experiment gave no rows.'}")

    return command


def register(experiment: Experiment) -> None:
    """Make an experiment a command. Its help is the registry's summary, then the docstring of its command."""
    command = COMMANDS.get(experiment.name) or session_command(experiment)
    details = inspect.getdoc(command) or ""
    shown = f"{experiment.summary}\n\n{details}".strip()
    bench_app.command(experiment.name, help=shown, short_help=experiment.summary)(command)


for _experiment in EXPERIMENTS.values():
    register(_experiment)
bench_app.command("report")(bench_report)
