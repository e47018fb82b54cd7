"""Child of an export: pack a checkpoint into one file that loads anywhere, or leave nothing behind. Writes no rows."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from app.checkpoints.bits import FILE as QUANTIZATION_FILE
from app.checkpoints.bits import Bits
from app.checkpoints.manifest import MANIFEST, read_manifest, verify_manifest
from app.storage import fsync_file, fsync_folder
from worker.import_checkpoint import close_doors
from worker.import_folder import INDEX, KEPT_SUFFIXES
from worker.reporting import Failed, Report

SHARD_SIZE = "5GB"
PIECE = 8 * 1024**2
# What only the trainer reads, or what is written anew.
_LEFT_OUT = frozenset({MANIFEST, "adapter_config.json", "trainer_state.json", "README.md", "beginning.safetensors", "encoder.safetensors"})
_OF_THE_WEIGHTS = frozenset({"config.json", "generation_config.json", INDEX})
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same checkpoint makes the same file


class Told:
    """Tells the supervisor which named step is being done, and keeps the log."""

    def __init__(self, report: Report, names: list[str]) -> None:
        self._report, self._names, self._number = report, names, -1
        self._said = 0.0
        self.log: list[list[Any]] = []

    def next(self) -> None:
        """Begin the next step."""
        self._number += 1
        self.note(self._names[self._number])
        self.within(0.0)

    def note(self, text: str) -> None:
        """Add a line to the log."""
        self.log.append([time.time(), text])

    def bytes(self, done: int, total: int) -> None:
        """Say how many bytes of the current step are done."""
        self.within(done / max(total, 1), f"{done / 1e6:.0f} of {total / 1e6:.0f} MB")

    def within(self, share: float, text: str = "") -> None:
        """Say how much of the current step is done (0 to 1); at most four times a second."""
        if 0 < share < 1 and time.monotonic() - self._said < 0.25:
            return
        self._said = time.monotonic()
        name = self._names[self._number]
        self._report.progress(round(self._number + min(share, 0.999), 3), len(self._names), f"{name}: {text}" if text else name)


def main(spec: dict[str, Any], report: Report) -> dict[str, Any]:
    """Export a checkpoint.

    Args:
        spec: way (adapter, merged, copy or cast), steps (names), dtype (None: as stored), base and adapter (folders), base_name and
            base_revision (what an adapter calls its base), folder (name inside the file), card (README.md), work (folder to build in),
            target (where the file goes, on the same file system).

    Returns:
        size_bytes and sha256 of the file, and the log.

    Raises:
        Failed: the export cannot be done; nothing of it is left.
    """
    work, target = Path(spec["work"]), Path(spec["target"])
    told = Told(report, spec["steps"])
    folders = [Path(each) for each in (spec["base"], spec["adapter"]) if each]
    part = work / "packed.zip"
    try:
        told.next()
        contents = _contents(spec, work, told)
        told.next()
        size = sum(source.stat().st_size for _, source, _ in contents)
        _room(work, size)
        extra = {"README.md": spec["card"].encode()}
        if spec["way"] == "adapter":
            place = work / "cut" if spec.get("rank") else Path(spec["adapter"])
            if (place / "adapter_config.json").is_file():  # what was fitted on features has none
                extra["adapter_config.json"] = _portable(place, spec["base_name"], spec["base_revision"])
        pack(part, spec["folder"], contents, extra, lambda done: told.bytes(done, size))
        fsync_file(part)
        with open(part, "rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        size_bytes = part.stat().st_size
        target.parent.mkdir(parents=True, exist_ok=True)
        part.rename(target)
        fsync_folder(target.parent)
    except Exception as error:
        part.unlink(missing_ok=True)
        shutil.rmtree(work / "model", ignore_errors=True)
        if not all((folder / MANIFEST).is_file() for folder in folders):
            raise Failed("The checkpoint was deleted while it was being exported; nothing of the export was kept.", "deleted") from error
        raise
    told.note(f"Packed {len(contents) + len(extra)} files into {_size(size_bytes)}")
    return {"size_bytes": size_bytes, "sha256": sha256, "log": told.log}


Content = tuple[str, Path, str | None]
"""Name in the file, where it lies, and the SHA-256 it must have, if that is known."""


def _contents(spec: dict[str, Any], work: Path, told: Told) -> list[Content]:
    """The files to pack; weights that are not there yet are made in `work`."""
    base, adapter = Path(spec["base"]), Path(spec["adapter"]) if spec["adapter"] else None
    if spec["way"] == "adapter":
        assert adapter is not None
        found = _taken(adapter, weights=True)
        if spec.get("rank"):
            found = _cut(spec, adapter, work, found)
        texts = [] if any(name == "tokenizer_config.json" for name, _, _ in found) else _taken(base, weights=False)
        return found + texts
    if spec["way"] == "copy":
        return _taken(base, weights=True)
    for folder in (base, adapter):
        if folder is not None:
            _verify(folder)
    made = _made(spec, work, told)
    speaker = adapter if adapter is not None and (adapter / "tokenizer_config.json").is_file() else base
    weights: list[Content] = [(file.name, file, None) for file in sorted(made.iterdir())]
    written = {name for name, _, _ in weights} | {QUANTIZATION_FILE}  # nothing is quantised below merged weights
    return weights + [each for each in _taken(speaker, weights=False) if each[0] not in written]


def _cut(spec: dict[str, Any], adapter: Path, work: Path, found: list[Content]) -> list[Content]:
    """The files of a LoRA that is cut to a smaller rank in a folder of its own."""
    from worker.engines.lora import CONFIG_FILE, WEIGHTS_FILE, cut_to_rank

    _verify(adapter)
    place = work / "cut"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        shutil.copyfile(adapter / name, place / name)
    cut_to_rank(place, int(spec["rank"]))
    return [(name, place / name, None) if name == WEIGHTS_FILE else (name, source, sha256) for name, source, sha256 in found]


def _taken(folder: Path, *, weights: bool) -> list[Content]:
    """Files of a checkpoint that are of use to others: tokenizer and texts, and the weights if asked for."""
    try:
        entries = read_manifest(folder)["files"]
    except ValueError as error:
        raise Failed(f"The files of the checkpoint are damaged: {error}. Nothing was exported.", "damaged") from error
    found: list[Content] = []
    for name, entry in sorted(entries.items()):
        suffix = Path(name).suffix.lower()
        is_weight = suffix == ".safetensors" or name in _OF_THE_WEIGHTS
        if ("/" in name and not name.startswith("adapters/")) or name in _LEFT_OUT or (is_weight and not weights):
            continue
        if is_weight or suffix in KEPT_SUFFIXES:
            found.append((name, folder / name, str(entry["sha256"])))
    return found


def _verify(folder: Path) -> None:
    try:
        verify_manifest(folder)
    except ValueError as error:
        raise Failed(f"The files of the checkpoint are damaged: {error}. Nothing was exported.", "damaged") from error


def _portable(adapter: Path, base_name: str, revision: str | None) -> bytes:
    """adapter_config.json with a name for the base that means something on other machines."""
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    config["base_model_name_or_path"], config["revision"] = base_name, revision
    return (json.dumps(config, indent=2, sort_keys=True) + "\n").encode()


def _made(spec: dict[str, Any], work: Path, told: Told) -> Path:
    """Weights that are merged or of another type, saved in a folder of their own."""
    close_doors(work / "home", hub=False)
    try:
        import torch
        from safetensors import SafetensorError

        from worker.generate import stored_dtype
        from worker.loading import has_head, load_model, load_tokenizer
    except ImportError as error:
        raise Failed(
            f"This worker has no {error.name or 'torch'}, so it cannot merge. Install it with: pip install 'luthier[train]'.",
            "no_torch",
        ) from error
    base = Path(spec["base"])
    stored = stored_dtype(base)
    dtype = spec["dtype"] or stored
    size = sum(file.stat().st_size for file in base.glob("*.safetensors"))
    weights = size // _bytes_of(stored)
    _room(work, 2 * weights * _bytes_of(dtype))  # the weights, and the file they are packed into
    loaded = stored if dtype == stored else "float32" if psutil.virtual_memory().available > 6 * weights else dtype
    told.next()
    told.note(f"About {weights:,} weights, loaded in {loaded}, written as {dtype}")
    bits = Bits.of(spec["adapter"])
    if bits:
        told.note(f"Rounded to {bits.quantization}, as the weights were that the adapter was trained on")
    model = load_model(str(base), spec["adapter"], loaded)
    if spec["way"] == "merged":
        told.next()
        model = merged(model)
    told.next()
    if has_head(str(base), spec["adapter"]):  # it is read at the last token that is no padding
        texts = Path(spec["adapter"] or base)
        speaker = texts if (texts / "tokenizer_config.json").is_file() else base
        model.config.get_text_config().pad_token_id = load_tokenizer(str(speaker)).pad_token_id
    model = model.to(getattr(torch, dtype))
    model.config.dtype = getattr(torch, dtype)
    target = work / "model"
    try:
        model.save_pretrained(target, max_shard_size=SHARD_SIZE)
    except SafetensorError as error:
        if "No space left" in str(error) or "os error 28" in str(error):  # its I/O errors carry no errno
            raise Failed(
                "The disk is full: the export could not be written and nothing of it was kept. Free some space.", "disk_full"
            ) from error
        raise
    config = json.loads((target / "config.json").read_text(encoding="utf-8"))
    config.pop("_name_or_path", None)
    (target / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return target


def merged(model: Any) -> Any:
    """A model with its adapter in its weights.

    Each layer is merged in 32 bits, whatever the model is held in: a sum in bfloat16 would lose most of a small change.
    """
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    for layer in [each for each in model.modules() if isinstance(each, BaseTunerLayer)]:
        inner = layer.get_base_layer()
        held = inner.weight.dtype
        inner.to(torch.float32)
        layer.merge(safe_merge=True)
        inner.to(held)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="All adapters are already merged")
        return model.merge_and_unload()


def _bytes_of(dtype: str) -> int:
    return {"float32": 4, "float64": 8, "float8_e4m3fn": 1}.get(dtype, 2)


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count / 1e3:,.1f} kB"


def _room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > 0.98 * free:
        raise Failed(
            f"The disk is full: the export needs {needed / 1e9:.2f} GB and {free / 1e9:.2f} GB are free. Nothing was kept; free some space "
            "and export again.",
            "disk_full",
        )


def pack(target: Path, folder: str, contents: list[Content], extra: dict[str, bytes], moved: Callable[[int], None]) -> None:
    """Write a zip without compression, a piece at a time.

    Args:
        folder: name of the one folder in it.
        extra: further files, by their name.
        moved: told how many bytes were packed.

    Raises:
        Failed: a file is not what its manifest says.
    """
    done = 0
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, text in sorted(extra.items()):
            archive.writestr(_info(f"{folder}/{name}"), text)
        for name, source, expected in contents:
            if name in extra:
                continue
            digest = hashlib.sha256()
            info = _info(f"{folder}/{name}")
            with archive.open(info, "w", force_zip64=source.stat().st_size > 2**30) as out:
                for piece in _pieces(source):
                    out.write(piece)
                    digest.update(piece)
                    done += len(piece)
                    moved(done)
            if expected is not None and digest.hexdigest() != expected:
                raise Failed(f"The files of the checkpoint are damaged: {name} has another content than when it was written.", "damaged")


def _pieces(file: Path) -> Iterator[bytes]:
    with open(file, "rb") as stream:
        while piece := stream.read(PIECE):
            yield piece


def _info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.external_attr = (0o644 | 0o100000) << 16
    info.create_system = 3
    return info
