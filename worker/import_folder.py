"""Rules for the files of a model folder, and a copy of only those files that a model needs. Nothing in the folder is ever run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.checkpoints.heads import is_encoder
from worker.reporting import Failed

PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz"})
KEPT_SUFFIXES = frozenset({".json", ".txt", ".model", ".jinja"})
CODE_SUFFIXES = frozenset({".py", ".pyc", ".so"})
# Token lists: their keys are words of the vocabulary, not settings.
VOCABULARIES = frozenset({"tokenizer.json", "vocab.json", "added_tokens.json"})
INDEX = "model.safetensors.index.json"
WEIGHTS = "model.safetensors"
MAX_JSON_BYTES = 256 * 1024**2
PIECE = 8 * 1024**2
ADVICE = "Import a folder that holds safetensors and JSON only."


def _refuse(name: str, why: str, code: str = "model") -> Failed:
    return Failed(f"“{name}” {why}", code)


def _is_pickle(file: Path) -> bool:
    """Whether the first bytes are those of a pickle (protocol 2 and later) or of the zip that torch.save writes."""
    with open(file, "rb") as stream:
        head = stream.read(4)
    return head == b"PK\x03\x04" or (len(head) > 1 and head[0] == 0x80 and 2 <= head[1] <= 5)


def check_names(names: list[str]) -> None:
    """Refuse file names that leave their folder.

    Raises:
        Failed: a name is absolute, or holds `..` or a backslash.
    """
    for name in names:
        if name.startswith("/") or "\\" in name or "\0" in name or ".." in name.split("/"):
            raise _refuse(name, f"is a file name that leaves the folder. {ADVICE}")


def read_json(file: Path) -> Any:
    """A JSON file of a model folder.

    Raises:
        Failed: it is too large, too deep or no JSON; the message names it.
    """
    if file.stat().st_size > MAX_JSON_BYTES:
        raise _refuse(file.name, f"has {file.stat().st_size // 1024**2} MB, which is too much for a JSON file of a model.")
    try:
        return json.loads(file.read_bytes().decode("utf-8"))
    except (ValueError, RecursionError):
        raise _refuse(file.name, "is not valid JSON. Copy or download the model again.") from None


def check_settings(name: str, value: Any) -> None:
    """Refuse settings that would have a loader run or fetch code.

    Raises:
        Failed: `auto_map`, a trust flag or a kernel to download, at any depth; the message names the file and the key.
    """
    waiting = [value]
    while waiting:
        here = waiting.pop()
        if isinstance(here, list):
            waiting += here
        elif isinstance(here, dict):
            for key, inner in here.items():
                if key == "auto_map":
                    raise _refuse(
                        name,
                        "has “auto_map”: this model brings its own Python code, which Luthier never runs. Choose another model.",
                        "code",
                    )
                if key == "trust_remote_code" and inner:
                    raise _refuse(
                        name, "asks for “trust_remote_code”, which cannot be switched on. Remove the key, or choose another model.", "code"
                    )
                if key.endswith("_implementation") and isinstance(inner, str) and "/" in inner:
                    raise _refuse(
                        name, f"asks for the kernel “{inner[:80]}”, which would be downloaded and run. Remove the key “{key}”.", "code"
                    )
                waiting.append(inner)


def _check_file(file: Path, folder: Path) -> None:
    name = file.name
    if file.is_symlink() and not file.resolve().is_relative_to(folder):
        raise _refuse(name, "is a symbolic link that leaves the folder. Copy the file itself there (cp -L) and import again.")
    if file.suffix.lower() in CODE_SUFFIXES:
        raise _refuse(name, f"is program code, which Luthier never runs. Remove it if the model does not need it. {ADVICE}", "code")
    if file.suffix.lower() in PICKLE_SUFFIXES or _is_pickle(file):
        raise _refuse(
            name,
            "is a pickle file, which can run any program when opened. Remove it and import safetensors (save_pretrained writes them).",
            "pickle",
        )


def weight_files(folder: Path) -> list[str]:
    """Names of the safetensors files that make up the model: those of the index, or the single one.

    Raises:
        Failed: there are none, or the index names files that are missing or lie elsewhere.
    """
    if (folder / INDEX).is_file():
        index = read_json(folder / INDEX)
        weights = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(weights, dict) or not weights or not all(isinstance(name, str) for name in weights.values()):
            raise _refuse(INDEX, "has no “weight_map” that names the files of the weights. Copy or download the model again.")
        names = sorted(set(weights.values()))
        check_names(names)
        for name in names:
            if "/" in name or not name.endswith(".safetensors"):
                raise _refuse(INDEX, f"names “{name}”, which is not a safetensors file in the folder.")
            if not (folder / name).is_file():
                raise _refuse(name, f"is missing, though {INDEX} names it. Copy or download the model again.")
        return names
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]
    if (folder / "adapter_model.safetensors").is_file():
        raise Failed(
            "This folder holds an adapter, not a model. Import the model it was trained on; adapters are made by runs.",
            "model",
        )
    raise Failed(f"The folder has neither {WEIGHTS} nor {INDEX}, so it holds no weights in safetensors. {ADVICE}", "model")


def check_weights(file: Path) -> None:
    """Read the header of a safetensors file.

    Raises:
        Failed: the file is cut short or not safetensors.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(file), framework="numpy"):
            pass
    except SafetensorError as error:
        raise _refuse(file.name, f"is not a whole safetensors file ({str(error)[:120]}). Copy or download it again.") from None


def check_config(config: Any) -> None:
    """Refuse a config.json whose model cannot be tuned here.

    Raises:
        Failed: an architecture transformers does not know, one that writes no text, or quantised weights.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise _refuse("config.json", "has no “model_type”, so it is not the configuration of a model.")
    if config.get("quantization_config"):
        method = (
            config["quantization_config"].get("quant_method", "unknown") if isinstance(config["quantization_config"], dict) else "unknown"
        )
        raise Failed(
            f"The weights are quantised ({method}). Import the model in its unquantised form; a run can quantise it by itself.", "quantised"
        )
    if is_encoder(config):  # it writes nothing; classifiers are trained from it
        return
    named = [name for name in config.get("architectures") or [] if isinstance(name, str)]
    known = {name for names in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values() for name in ([names] if isinstance(names, str) else names)}
    if named and not set(named) & known:
        raise Failed(
            f"The architecture “{named[0][:80]}” is not a causal language model that the installed transformers knows.",
            "architecture",
        )
    if config["model_type"] not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise Failed(
            f"The model type “{config['model_type'][:80]}” is not a causal language model that the installed transformers knows.",
            "architecture",
        )


def check_folder(folder: Path) -> list[str]:
    """Check a model folder and return the names of the files to take. Subfolders are not read.

    Raises:
        Failed: a file may not be imported; the message names it and says what to do.
    """
    folder = folder.resolve()
    files = sorted(file for file in folder.iterdir() if not file.is_dir())
    for file in files:
        if not file.exists():
            raise _refuse(file.name, "is a symbolic link to a file that is not there.")
        if not file.is_file():
            raise _refuse(file.name, f"is not a plain file. {ADVICE}")
        _check_file(file, folder)
    if not (folder / "config.json").is_file():
        raise Failed(f"The folder has no config.json, so it is not a model folder. {ADVICE}", "model")
    kept = [file.name for file in files if file.suffix.lower() in KEPT_SUFFIXES]
    for name in kept:
        if name.endswith(".json") and name not in VOCABULARIES:
            check_settings(name, read_json(folder / name))
    check_config(read_json(folder / "config.json"))
    weights = weight_files(folder)
    for name in weights:
        check_weights(folder / name)
    return kept + weights


def copy_files(source: Path, names: list[str], target: Path, moved: Callable[[int, int], None]) -> None:
    """Copy files in pieces, calling `moved(bytes done, bytes in all)` on the way."""
    total = sum((source / name).stat().st_size for name in names)
    done = 0
    for name in names:
        with open(source / name, "rb") as reader, open(target / name, "xb") as writer:
            while piece := reader.read(PIECE):
                writer.write(piece)
                done += len(piece)
                moved(done, total)


def check_room(folder: Path, needed: int) -> None:
    """Refuse an import that will not fit on the disk.

    Raises:
        Failed: less room is free than the files need.
    """
    free = shutil.disk_usage(folder).free
    if needed > 0.95 * free:
        raise Failed(
            f"The model needs {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free in {folder.parent}. Free some space and import again.",
            "disk_full",
        )
