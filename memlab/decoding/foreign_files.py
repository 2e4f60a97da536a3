"""Reads vectors that other programs trained: arrays, tensors and data sets. Nothing in a file is run.

Names of columns and entries are those of arXiv 2607.21231 (its trainers, and its data sets on the Hugging Face hub),
of arXiv 2502.13063, of PEFT and of memlab. Other files need one array of floating-point numbers.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from memlab.results.mem_vector import VectorError

VECTORS = ("mem", "embedding", "embeddings", "memory", "best_memory_params", "prompt_embeddings")
IDS = ("token_ids", "input_ids")
TEXT = ("text", "suffix_text")
LENGTH = ("stage_seq_len", "num_input_tokens", "num_tokens", "tokens")
"""The number of tokens of the text."""
CUT = ("max_length",)
"""The text was cut to this number of tokens, if it has more."""
MODEL = ("model_checkpoint", "model_name")
ROWS_OF_VECTOR = ("num_compression_tokens", "n_cram", "n_mem_tokens")
SAMPLE = ("sample_id",)
READ = (*VECTORS, *IDS, *TEXT, *LENGTH, *CUT, *MODEL, *ROWS_OF_VECTOR, *SAMPLE)
DATA_SET = (".parquet", ".arrow")
PICKLES = (".pkl", ".pickle", ".joblib")
SUFFIXES = (".npy", ".npz", ".pt", ".pth", ".safetensors", *DATA_SET)
_KNOWN = ", ".join(SUFFIXES)


@dataclass(frozen=True)
class Foreign:
    """Vectors (k, d) of one text in another program's file, with what the file says about them."""

    path: Path
    place: str
    """Where in the file, such as ``row 3``. Empty if the file holds nothing else."""
    mem: np.ndarray
    ids: np.ndarray | None = None
    text: str | None = None
    length: int | None = None
    """Number of tokens of the text."""
    cut: int | None = None
    """The text was cut to this number of tokens, if it has more."""
    model: str | None = None
    sample: str | None = None
    """Vectors of one sample are stages of one training, and ``length`` grows."""
    file_sha256: str = ""

    def __str__(self) -> str:
        return f"{self.path}{f', {self.place}' if self.place else ''}"


def _raise(error: VectorError) -> None:
    raise error


def read_foreign(
    path: str | os.PathLike[str], on_bad_row: Callable[[VectorError], object] = _raise
) -> Iterator[Foreign]:
    """The vectors of a file, or of the data set in a folder. Raises ``VectorError``.

    ``.npy`` and ``.npz`` without pickle, ``.pt`` by ``torch.load(weights_only=True)``, ``.safetensors``, and data sets
    as ``.parquet`` or ``.arrow``. An array (d,) or (k, d) belongs to one text, (n, k, d) to n texts. A row
    of a data set that holds no vectors goes to ``on_bad_row``.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        if not (files := sorted(p for s in DATA_SET for p in path.rglob(f"*{s}") if not p.name.startswith("."))):
            raise VectorError(f"The folder {path} holds no data set ({', '.join(DATA_SET)}). Give files: {_KNOWN}.")
        for file in files:
            yield from read_foreign(file, on_bad_row)
        return
    if not path.exists():
        raise VectorError(f"There is no file {path}. Check the path.")
    suffix = path.suffix.lower()
    if suffix in PICKLES:
        raise VectorError(
            f"{path} is a pickle. memlab reads no pickle, because a pickle can run code. If you trust its source, "
            "convert it to .npz as in memlab/cli/README.md."
        )
    if suffix not in SUFFIXES:
        raise VectorError(f"{path} does not end like a file of vectors. Give one of: {_KNOWN}.")
    rows = _rows(path) if suffix in DATA_SET else [("", _contents(path))]
    with path.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    for place, row in rows:
        try:
            found = _vectors(row)
        except VectorError as error:
            on_bad_row(VectorError(f"{path}{f', {place}' if place else ''}: {error}"))
            continue
        for i, one in enumerate(found):
            here = place if len(found) == 1 else ", ".join(filter(None, [place, f"vector {i}"]))
            yield Foreign(path=path, place=here, file_sha256=digest, **one)


def last_stages(found: list[Foreign]) -> list[Foreign]:
    """The longest of each sample's stages, and all vectors without a sample."""
    longest: dict[tuple[Path, str | None, str], Foreign] = {}
    for one in found:
        name = (one.path.parent, one.model, one.sample) if one.sample else (one.path, one.place, str(id(one)))
        if name not in longest or (one.length or 0) > (longest[name].length or 0):
            longest[name] = one
    return [*longest.values()]


def _contents(path: Path) -> Mapping[str, Any]:
    """{name: value} of a file that is not a data set. A file of one array has the name ``mem``."""
    try:
        if path.suffix.lower() == ".safetensors":
            from safetensors.torch import load_file

            contents: Any = load_file(path)
        elif path.suffix.lower() in (".npy", ".npz"):
            contents = np.load(path, allow_pickle=False)
            contents = dict(contents) if isinstance(contents, Mapping) else contents
        else:
            contents = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # three libraries raise many types
        first = (str(error).strip().splitlines() or ["no message"])[0]
        what = "without pickle, which can run code" if path.suffix.lower() != ".safetensors" else "as safetensors"
        raise VectorError(
            f"{path} cannot be read {what}: {type(error).__name__}: {first[:200]}. Write the numbers as .npy or "
            ".safetensors."
        ) from None
    if isinstance(contents, Mapping) and {"mem", "prefix_ids", "suffix_ids"} <= set(contents):
        raise VectorError(f"{path} is a file of memlab. Use `memlab store add`.")
    return contents if isinstance(contents, Mapping) else {"mem": contents}


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, {column: value}) of each row of a data set, with the columns in ``READ``."""
    import pyarrow
    from pyarrow import ipc, parquet

    try:
        if path.suffix.lower() == ".parquet":
            file = parquet.ParquetFile(path)
            names = [name for name in file.schema_arrow.names if name in READ]
            batches = file.iter_batches(batch_size=64, columns=names)
        else:
            with pyarrow.memory_map(str(path)) as source:
                try:
                    reader = ipc.open_stream(source)  # what `datasets` writes
                except pyarrow.ArrowInvalid:
                    reader = ipc.open_file(source)
                table = reader.read_all()
            names = [name for name in table.column_names if name in READ]
            batches = table.select(names).to_batches(max_chunksize=64)
        if not set(names) & set(VECTORS):
            raise VectorError(f"{path} has no column of vectors. Name it {' or '.join(VECTORS[:2])}.")
        number = itertools.count()
        for batch in batches:
            yield from ((f"row {next(number)}", row) for row in batch.to_pylist())
    except (pyarrow.ArrowException, OSError) as error:
        raise VectorError(f"{path} cannot be read as a data set: {error}. Fetch it again.") from None


def _vectors(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The fields of ``Foreign`` for each vector of a row, or of a file that is no data set."""
    values = {name: value for name, value in row.items() if value is not None}
    array = _numbers(values)
    if array.ndim == 1:
        k = int(_first(values, ROWS_OF_VECTOR) or 1)
        if len(array) % k:
            raise VectorError(f"{len(array)} numbers are not {k} vectors of equal width. Correct the file.")
        array = array.reshape(k, -1)
    if array.ndim > 3 or 0 in array.shape:
        raise VectorError(f"the vectors have the shape {array.shape}; expected (d,), (k, d) or (n, k, d)")
    many = array if array.ndim == 3 else array[None]
    given, length, cut = (_first(values, names) for names in (IDS, LENGTH, CUT))
    length = None if length is None else int(length)
    if given is None:
        ids: Any = [None] * len(many)
    else:
        ids = np.atleast_2d(np.asarray(given))
        if ids.dtype.kind not in "iu" or ids.ndim != 2 or len(ids) != len(many) or not ids.size:
            raise VectorError(f"the token ids are not a row of whole numbers for each of {len(many)} texts")
        if length is not None and ids.shape[1] < length:
            raise VectorError(f"there are {ids.shape[1]} token ids for {length} tokens")
        ids = [one[:length].astype(np.int64) for one in ids]  # some data sets keep the padding
    text, model, sample = (_first(values, names) for names in (TEXT, MODEL, SAMPLE))
    shared = {
        "text": None if text is None else str(text),
        "length": length,
        "cut": None if cut is None else int(cut),
        "model": None if model is None else str(model),
        "sample": None if sample is None else str(sample),
    }
    return [{"mem": mem, "ids": one, **shared} for mem, one in zip(many, ids, strict=True)]


def _numbers(values: Mapping[str, Any]) -> np.ndarray:
    """The array of vectors, float32."""
    value = _first(values, VECTORS)
    if value is None:
        arrays = [v for v in values.values() if isinstance(v, (np.ndarray, torch.Tensor)) and _is_float(v)]
        if len(arrays) != 1:
            names = ", ".join(map(str, values)) or "none"
            raise VectorError(f"it is not clear which entry is the vector (entries: {names}). Name it {VECTORS[0]}.")
        (value,) = arrays
    if isinstance(value, torch.Tensor):
        value = value.detach().to_dense().float().numpy() if value.is_floating_point() else value.numpy()
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.empty(0, object)
    if array.dtype.kind != "f":
        raise VectorError(f"the vector holds {array.dtype}; expected floating-point numbers")
    return array.astype(np.float32)


def _is_float(value: Any) -> bool:
    return value.is_floating_point() if isinstance(value, torch.Tensor) else value.dtype.kind == "f"


def _first(values: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """The value of the first name that is there, or None. An array of one element becomes that element."""
    name = next((name for name in names if name in values), None)
    value = None if name is None else values[name]
    if names in (VECTORS, IDS) or not isinstance(value, (np.ndarray, torch.Tensor)):
        return value
    if len(flat := value.reshape(-1)) != 1:
        raise VectorError(f"the entry {name} has {len(flat)} values; expected one")
    return flat[0].item()
