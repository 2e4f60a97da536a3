"""``memlab bench``: measurements that anyone can run again. What is in the store or the table is not done twice."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from memlab.cli.common import ModelOption, StoreOption, recipe_of, told
from memlab.store import Store
from memlab.texts import load_texts

bench_app = typer.Typer(
    help="Measurements, resumable: what is in the store is not trained again.", no_args_is_help=True
)


@bench_app.command("recovery")
@told
def bench_recovery(
    texts: Annotated[str, typer.Option(help="originals, random, classics, pg19, hf:DATASET, or a path")] = "originals",
    count: Annotated[int, typer.Option(help="passages, one from each text")] = 8,
    tokens: Annotated[int, typer.Option("--tokens", "-n")] = 32,
    recipe: Annotated[list[str] | None, typer.Option("--recipe", help="may be given several times")] = None,
    model: ModelOption = "smollm2-135m",
    store: StoreOption = None,
    out: Annotated[Path | None, typer.Option("--out", help="also write the table of passages as CSV")] = None,
) -> None:
    """Recipes side by side: teacher-forced, first token given, and from the vector alone."""
    recipes = [recipe_of(name) for name in recipe or ["default", "paper2025"]]
    chosen = load_texts(texts, count=count)

    from memlab.experiments.recovery import recovery, summary
    from memlab.models import load

    lm = load(model)
    table = recovery(lm, chosen, recipes, Store(store), tokens=tokens)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(out, index=False, float_format="%.6g")
    measured = f"{table.text_id.nunique()} of {len(chosen)} texts ({texts})"
    typer.echo(f"{lm!r}\n{measured}, first {tokens} tokens, 95 % Wilson intervals")
    for what, why in table.attrs["lost"].items():
        typer.echo(f"left out: {what}: {why}", err=True)
    typer.echo(f"{table.attrs['trained']} trained now, in {table.attrs['seconds']:.0f} s; the others were in the store")
    typer.echo(summary(table).to_string())
