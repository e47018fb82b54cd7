"""Child of an import: bring weights into the storage folder, checked, or leave nothing behind. Writes no rows."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from app.checkpoints.heads import ENCODER, is_encoder
from app.checkpoints.manifest import folder_size, weights_sha256, write_manifest
from app.storage import fsync_folder
from worker import heads, import_folder, import_gguf, import_hub
from worker.reporting import Failed, Report

NO_TORCH = (
    "This worker has no {name}, so it cannot import models. Install what training needs with: pip install 'luthier[train]', "
    "and start the worker again."
)
CONTEXT_LENGTH = 2048  # where a GGUF does not say


class Steps:
    """Tells the supervisor which of the import's named steps is being done, and how far it is."""

    def __init__(self, report: Report, names: list[str]) -> None:
        self._report, self._names, self._number = report, names, -1

    def next(self) -> None:
        """Begin the next step."""
        self._number += 1
        self.within(0.0)

    def within(self, share: float, text: str = "") -> None:
        """Say how much of the current step is done (0 to 1)."""
        name = self._names[self._number]
        self._report.progress(round(self._number + min(share, 0.999), 3), len(self._names), f"{name}: {text}" if text else name)


def close_doors(home: Path, *, hub: bool) -> None:
    """Keep the Hugging Face libraries inside this import's folder, and off the network unless the hub is the source."""
    offline = "0" if hub else "1"
    os.environ.update(
        HF_HOME=str(home),
        HF_HUB_OFFLINE=offline,
        TRANSFORMERS_OFFLINE=offline,
        HF_HUB_DISABLE_TELEMETRY="1",
        HF_HUB_DISABLE_XET="1",
        HF_HUB_DOWNLOAD_TIMEOUT="30",
    )


def require_libraries() -> None:
    """Import the libraries of the `train` extra.

    Raises:
        Failed: one is not installed; the message says how to install it.
    """
    try:
        import gguf  # noqa: F401
        import safetensors  # noqa: F401
        import torch  # noqa: F401
        import transformers
    except ImportError as error:
        raise Failed(NO_TORCH.format(name=error.name or "torch"), "no_torch") from error
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


def check_reference(spec: dict[str, Any]) -> Path:
    """The folder or file to import, if the person who asked may name it.

    Raises:
        Failed: it does not exist, is of the wrong kind, or lies outside the folders that are allowed.
    """
    given = Path(spec["ref"])
    try:
        place = given.resolve(strict=True)
    except OSError:
        raise Failed(
            f"{given} does not exist on the worker's machine. Give the absolute path of a folder (or GGUF file) there.", "model"
        ) from None
    allowed = spec.get("allowed")
    if allowed is not None and not any(place.is_relative_to(Path(root).resolve()) for root in allowed):
        raise Failed(
            f"{given} lies outside the folders that engineers may import from. An admin can import it or add to LUTHIER_MODEL_FOLDERS.",
            "forbidden",
        )
    if spec["source"] == "folder" and not place.is_dir():
        raise Failed(f"{given} is a file, not a folder. Give the folder that holds config.json and the safetensors files.", "model")
    if spec["source"] == "gguf" and not place.is_file():
        raise Failed(f"{given} is a folder. Give the .gguf file itself.", "model")
    return place


def from_gguf(file: Path, folder: Path, steps: Steps) -> None:
    """Convert a GGUF file into a safetensors folder."""
    from safetensors import SafetensorError

    try:
        with import_gguf.parsed_once():
            steps.next()
            _, pre_tokenizer = import_gguf.read_header(file)
            # bf16 takes two bytes for each weight; the smallest GGUF quantisations take a quarter of one.
            import_folder.check_room(folder, 4 * file.stat().st_size)
            model = import_gguf.read_model(file)
            steps.next()
            tokenizer = import_gguf.read_tokenizer(file, pre_tokenizer, getattr(model.config, "max_position_embeddings", CONTEXT_LENGTH))
        steps.next()
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    except SafetensorError as error:
        # Its I/O errors carry no errno.
        if "No space left" in str(error) or "os error 28" in str(error):
            raise Failed(
                "The disk is full: the model could not be written and nothing of it was kept. Free some space and import again.",
                "disk_full",
            ) from error
        raise
    except (ValueError, KeyError, NotImplementedError, RuntimeError) as error:
        raise Failed(f"transformers cannot read {file.name}: {_first_line(error)}", "model") from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def check_model(folder: Path) -> dict[str, Any]:
    """Fit the weights of a folder to its config, without reading them into memory, and return what plans need to know.

    Returns:
        parameters (tied ones counted once), shapes (parameter name -> shape) and config.

    Raises:
        Failed: weights are missing or of another shape, or the tokenizer cannot be loaded.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    config = import_folder.read_json(folder / "config.json")
    reads_only = is_encoder(config)
    kind: Any = AutoModelForSequenceClassification if reads_only else AutoModelForCausalLM
    try:
        model, found = kind.from_pretrained(
            str(folder),
            device_map="meta",
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            trust_remote_code=False,
            local_files_only=True,
            use_safetensors=True,
        )
    except Exception as error:  # boundary: a config of others can make the library raise anything
        raise Failed(f"transformers cannot load the model: {_first_line(error)}", "model") from error
    missing, mismatched = sorted(found["missing_keys"]), sorted(str(entry[0]) for entry in found["mismatched_keys"])
    if reads_only:  # every run draws a head of its own
        missing, mismatched = ([name for name in names if not heads.belongs(name)] for names in (missing, mismatched))
    if missing:
        raise Failed(
            f"The weights are not complete: {len(missing)} tensors are missing, such as “{missing[0]}”. Copy or download the model again.",
            "model",
        )
    if mismatched:
        raise Failed(
            f"{len(mismatched)} tensors have another shape than config.json says, such as “{mismatched[0]}”; the files do not match.",
            "model",
        )
    try:
        AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    except Exception as error:  # boundary, as above
        raise Failed(
            f"The tokenizer cannot be loaded: {_first_line(error)}. It needs tokenizer_config.json with tokenizer.json or .model.",
            "model",
        ) from error
    weights = {name: each for name, each in model.named_parameters() if not (reads_only and heads.belongs(name))}
    return {
        "parameters": sum(each.numel() for each in weights.values()),
        "shapes": {name: list(each.shape) for name, each in weights.items()},
        "config": {**config, "task": ENCODER} if reads_only else config,
    }


def ask(folder: Path, question: str, expected: str) -> None:
    """Ask the model a question that it must be able to answer.

    Raises:
        Failed: the answer does not hold the expected word.
    """
    from worker.generate import answer, load

    said = next(answer(load(folder), [[{"role": "user", "content": question}]], max_new_tokens=24)).strip()
    if expected not in said:
        raise Failed(
            f"The imported model does not work: asked “{question}” it said “{said[:120]}”, without “{expected}”. Nothing was kept.", "model"
        )


def main(spec: dict[str, Any], report: Report) -> dict[str, Any]:
    """Import a checkpoint.

    Args:
        spec: source (folder, gguf or hub), ref, revision, allowed (folders an engineer may name, or None), hub_url, steps (names),
            work (folder to build in), target (where the finished folder goes, on the same file system),
            expect ({parameters, question, answer} or None).

    Returns:
        sha256, size_bytes, parameters, shapes, config and revision of what was imported.

    Raises:
        Failed: the import cannot be done; nothing of it is left.
    """
    folder, target = Path(spec["work"], "model"), Path(spec["target"])
    home = Path(spec["work"], "home")
    close_doors(home, hub=spec["source"] == "hub")
    require_libraries()
    steps = Steps(report, spec["steps"])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        revision = _fill(spec, folder, steps)
        steps.next()
        facts = check_model(folder)
        expect = spec.get("expect")
        if expect:
            if facts["parameters"] != expect["parameters"]:
                raise Failed(
                    f"The imported model has {facts['parameters']:,} parameters in place of {expect['parameters']:,}. Nothing was kept.",
                    "model",
                )
            steps.next()
            ask(folder, expect["question"], expect["answer"])
        manifest = write_manifest(folder, run_id=None, step=None, attempt=None, config_hash="")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(target, ignore_errors=True)  # of an attempt that died before its row was written
        folder.rename(target)
        fsync_folder(target.parent)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        shutil.rmtree(home, ignore_errors=True)
    return {**facts, "sha256": weights_sha256(manifest), "size_bytes": folder_size(manifest), "revision": revision}


def _fill(spec: dict[str, Any], folder: Path, steps: Steps) -> str | None:
    """Bring the files into `folder`; returns the commit they are of, when they come from a hub."""
    if spec["source"] == "hub":
        steps.next()
        hub = import_hub.Hub(spec["hub_url"], spec["ref"], spec.get("pause_seconds", 1.0))

        begun = False

        def moved(name: str, done: int, total: int) -> None:
            nonlocal begun
            if not begun:
                steps.next()
                begun = True
            steps.within(done / max(total, 1), f"{name}, {done / 1e6:.0f} of {total / 1e6:.0f} MB")

        commit = import_hub.download(hub, spec.get("revision"), folder, moved)
        steps.next()
        import_folder.check_folder(folder)
        return commit
    place = check_reference(spec)
    if spec["source"] == "gguf":
        from_gguf(place, folder, steps)
        return None
    steps.next()
    names = import_folder.check_folder(place)
    import_folder.check_room(folder, sum((place / name).stat().st_size for name in names))
    steps.next()
    import_folder.copy_files(
        place, names, folder, lambda done, total: steps.within(done / max(total, 1), f"{done / 1e6:.0f} of {total / 1e6:.0f} MB")
    )
    return None
