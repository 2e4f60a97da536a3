"""``memlab models``: the models with a short name, and whether memlab works on a model."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from memlab.cli.common import JsonOption, reports_errors


@reports_errors
def models_command(
    get: Annotated[
        str | None, typer.Option("--get", help="download and convert this model now, and print where it is")
    ] = None,
    check: Annotated[
        str | None,
        typer.Option("--check", help="say whether memlab works on this model: a short name, id, folder or .gguf file"),
    ] = None,
    train: Annotated[bool, typer.Option("--train", help="with --check: also train a vector for a few tokens")] = False,
    as_json: JsonOption = False,
) -> None:
    """List the models that have a short name."""
    if get:
        _get(get)
        return
    if check:
        _check(check, train, as_json)
        return
    from memlab.models.families import TOY_FAMILIES
    from memlab.models.presets import DEFAULT, PRESETS

    if as_json:
        rows = [{"name": p.name, "source": p.source, "dtype": p.dtype, "note": p.note} for p in PRESETS.values()]
        typer.echo(json.dumps(rows, indent=1))
        return
    for preset in PRESETS.values():
        note = f"{preset.note}, {preset.dtype}" if preset.dtype else preset.note
        typer.echo(f"{preset.name:20}{preset.source:40}{note}{' (default)' if preset.name == DEFAULT else ''}")
    for family in TOY_FAMILIES:
        typer.echo(
            f"{'toy:' + family:20}{'made on this machine':40}small, random weights that can be crammed, for tests"
        )
    typer.echo("Also: a Hugging Face id, a folder of safetensors, a .gguf file.")


def _check(name: str, train: bool, as_json: bool) -> None:
    """Print what a model does with vectors, and whether memlab works on it. Exit with 2 if it does not."""
    from memlab.experiments.families import describe
    from memlab.models import ModelError, load

    try:
        found = describe(load(name), train=train) | {"verdict": "works", "reason": ""}
    except ModelError as error:
        found = {"model": name, "verdict": "refused", "reason": str(error)}
    if as_json:
        finite = {key: None if isinstance(v, float) and math.isnan(v) else v for key, v in found.items()}
        typer.echo(json.dumps(finite, indent=1))
    else:
        typer.echo("\n".join(_lines(found)))
    if found["verdict"] == "refused":
        raise typer.Exit(2)


def _lines(found: dict[str, Any]) -> Iterator[str]:
    if found["verdict"] == "refused":
        yield f"refused because {found['reason']}"
        return
    yield f"{found['model']} is a {found['model_class']} ({found['model_type']})."
    yield f"Ids and their embeddings give the same logits (relative difference {found['ids_vs_embeddings']:.1g})."
    if found["cache"] == "none":
        yield "No cache gives the logits of one pass, so decoding feeds all earlier tokens again for each token."
    else:
        difference = f"relative difference {found['cached_vs_uncached']:.1g}"
        yield f"Decoding with the cache ({found['cache']}) gives the logits of one pass ({difference})."
    yield {
        "same": "generate from embeddings writes the same tokens as the greedy loop of memlab.",
        "differs": "generate from embeddings writes other tokens than the greedy loop of memlab. Use memlab.decode.",
    }.get(found["generate"], f"generate {found['generate']} from embeddings. Use memlab.decode.")
    yield "float32: the model runs, so vectors can be checked."
    half = found["bfloat16"]
    yield half if isinstance(half, str) else f"bfloat16: the model runs (relative difference from float32 {half:.1g})."
    yield f"Tokenizer: {found['tokenizer']}."
    yield f"Context: {found['context']} positions." if found["context"] else "Context: no limit."
    yield f"Sink prefix: token {found['sink_prefix'][0]}." if found["sink_prefix"] else "Sink prefix: none."
    if "trained" in found:
        yield f"A vector for a few random tokens: {found['trained']} after {found['steps']} steps."
    yield "works"


def _get(name: str) -> None:
    """Load a model, and measure its preconditioner now, so that the first cram does not have to."""
    from memlab.models import load
    from memlab.training.preconditioner import preconditioner_of

    lm = load(name)
    digest = preconditioner_of(lm, progress=True).digest
    typer.echo(f"{lm!r}\nfolder {lm.folder}\nweights {lm.fingerprint}")
    typer.echo(f"sink prefix {list(lm.sink_prefix)}\npreconditioner {digest}")
