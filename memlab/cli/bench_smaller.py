"""``memlab bench smaller-models``: what rounding, pruning and fewer layers do to perplexity and to vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from memlab.cli.common import ModelOption, StoreOption, reports_errors
from memlab.cli.outputs import file_option, folder_option
from memlab.experiments.tables import read_table, write_table
from memlab.measures.smaller_models import HELD, SEARCH, TEXT, TRANSFER, VARIANTS
from memlab.results.store import Store

PARTS = (TEXT, TRANSFER, SEARCH, HELD)


@reports_errors
def bench_smaller_models(
    only: Annotated[list[str] | None, typer.Option(help="a smaller model by name; repeatable [default: all]")] = None,
    part: Annotated[list[str] | None, typer.Option(help=f"{', '.join(PARTS)}; repeatable [default: all]")] = None,
    minutes: Annotated[float, typer.Option(help="minutes of training of the distilled model", min=0)] = 45,
    search_steps: Annotated[int, typer.Option(help="steps of a new search at most", min=1)] = 200,
    held_steps: Annotated[int, typer.Option(help="steps with which a vector is filled", min=1)] = 100,
    model: ModelOption = "smollm2-135m",
    shelf: Annotated[
        str | None, typer.Option(help="store with vectors of the full model [default: the bundled vectors]")
    ] = None,
    store: StoreOption = None,
    work: Annotated[
        Path | None, folder_option("folder where the distillation is saved, and read to resume [default: the cache]")
    ] = None,
    out: Annotated[
        Path | None, file_option("Parquet table; written after each part of a model, and read to resume", ".parquet")
    ] = None,
) -> None:
    """Four parts per model: perplexity of texts, stored vectors of the full model, new vectors until exact, and new
    vectors for more than they can hold. Their weights stay float32, so no speed is claimed.

    Takes about ten minutes per model on one core, two and a half hours for all, and --minutes for the distilled one. It
    is trained on the text of `make corpus`, and left out without it.
    """
    from memlab.experiments.session import Session
    from memlab.experiments.smaller_models import material, smaller_models
    from memlab.experiments.smaller_models_distilled import on_corpus
    from memlab.measures.smaller_models import breaks_first, outcomes, summary
    from memlab.models import load
    from memlab.training.encoders.corpus import CorpusError

    for name, known, hint in ((only, tuple(VARIANTS), "--only"), (part, PARTS, "--part")):
        if unknown := [one for one in name or [] if one not in known]:
            raise typer.BadParameter(f"{unknown}; expected some of: {'; '.join(known)}", param_hint=hint)
    chosen = [variant for name, variant in VARIANTS.items() if not only or name in only]
    distil = None
    if any(variant.distilled for variant in chosen):
        try:
            distil = on_corpus(minutes, work, log=typer.echo)
        except CorpusError as error:
            typer.echo(str(error), err=True)
    lm = load(model)
    given = material(
        lm, Store.existing(shelf) if shelf else Store.bundled(), search_steps=search_steps, held_steps=held_steps
    )
    session = Session(
        lm, Store(store), read_table(out), typer.echo, lambda rows: write_table(rows, out), progress=False
    )
    table = smaller_models(session, given, chosen, parts=part or PARTS, distil=distil)
    write_table(table, out)
    points = summary(table)
    columns = ["model", "code_bits", "more_bits", "weight_bits", "transfer_exact", "transfer_recovered",
               "search_exact", "search_steps", "held_bits", "held_share"]  # fmt: skip
    typer.echo(f"{lm!r}\n{points[columns].round(3).to_string(index=False)}")
    typer.echo(breaks_first(points).to_string(index=False))
    typer.echo(outcomes(table).round(3).to_string(index=False))
