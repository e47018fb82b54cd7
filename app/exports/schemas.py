"""What may be asked of exports over REST and by form, and how one is answered. Touches no database."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.checkpoints.bits import Bits
from app.checkpoints.heads import HEADED
from app.database import iso
from app.exports.tables import Export

Format = Literal["adapter", "merged"]
Dtype = Literal["stored", "float32", "bfloat16", "float16"]

FORMATS: dict[str, str] = {
    "adapter": "The small matrices that were trained, as a plain PEFT folder. Whoever uses it needs the base model too.",
    "merged": "A whole model that needs nothing else, as plain safetensors.",
}
DTYPES: dict[str, str] = {"stored": "as the base is stored", "float32": "float32", "bfloat16": "bfloat16", "float16": "float16"}
STEPS: dict[str, list[str]] = {
    "adapter": ["Checking the files", "Packing"],
    "merged": ["Checking the files", "Loading the model", "Merging the adapter", "Writing the weights", "Packing"],
    "copy": ["Checking the files", "Packing"],
    "cast": ["Checking the files", "Loading the model", "Writing the weights", "Packing"],
}
"""Named steps of an export, in order, by the way it is made."""
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Values vLLM takes for its largest rank; 16 is its default."""
_CONFIGS = {
    "int8": "BitsAndBytesConfig(load_in_8bit=True)\n",
    "nf4": 'BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant={double})\n',
}
"""How weights are held in fewer bits by transformers."""


class ExportCreate(BaseModel):
    """Pack a checkpoint into one file."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    checkpoint: str = Field(min_length=1, max_length=100)
    """Id of the checkpoint."""
    format: Format
    """`adapter`: the PEFT folder of an adapter. `merged`: a whole model in safetensors, the adapter merged into its base."""
    dtype: Dtype = "stored"
    """Of merged weights: as the base is `stored`, or `float32`, `bfloat16`, `float16`."""
    rank: int | None = Field(None, ge=1, le=4096)
    """Cut a LoRA that was trained for any rank to this one. Empty: as it was trained."""


class ExportProgress(BaseModel):
    """How far an export is, in steps."""

    done: float
    total: float | None
    text: str


class ExportOut(BaseModel):
    """An export, as REST shows it."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    id: str
    checkpoint: str | None
    """The checkpoint it is made from; null once that was deleted."""
    checkpoint_name: str
    format: Format
    dtype: Dtype
    status: Literal["exporting", "ready", "failed"]
    reason: str | None
    """Why it failed, with what to do."""
    progress: ExportProgress | None
    log: list[str]
    """Its steps, each with the time (UTC)."""
    file_name: str
    file: str | None
    """Address of the file, once it is ready; ranges can be asked for, so that a download can be resumed."""
    size_before: int | None
    """Size of the files it is made from, in bytes."""
    size_bytes: int | None
    """Size of the file, in bytes."""
    sha256: str | None
    """Of the file."""
    commands: dict[str, str]
    """How to use it: name of a way → commands to copy."""
    created_at: str | None
    finished_at: str | None


@dataclass(frozen=True)
class Way:
    """One way to use an export: a title, commands to copy, and what has to be there."""

    title: str
    text: str
    hint: str = ""


def slug(name: str) -> str:
    """A name as a file can have it anywhere."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("-._")[:80].strip("-._") or "checkpoint"


def folder_of(export: Export) -> str:
    """Name of the folder inside the file."""
    return export.file_name.removesuffix(".zip")


def ways(export: Export) -> list[Way]:
    """How to use an export: only what works with what is in it."""
    folder, facts = folder_of(export), export.facts
    base = str(facts.get("base") or "")
    at = base if facts.get("on_hub") else f"./{slug(base)}-merged"
    where = "" if facts.get("on_hub") else f"The base “{base}” is not on the hub: export it too (merged), and unpack it beside this: {at}."
    headed = facts.get("task") in HEADED
    kind, number = (
        ("AutoModelForSequenceClassification", f", num_labels={facts.get('labels') or 1}") if headed else ("AutoModelForCausalLM", "")
    )
    found = []
    if export.sha256:
        found.append(Way("Unpack", f"sha256sum {export.file_name}\nunzip {export.file_name}", f"The first line prints {export.sha256}."))
    gives = "It gives one number for a conversation; head.json says on what scale."
    if facts.get("task") == "classifier":
        gives = "It gives a class for a text; head.json names them."
        if facts.get("fitted") or not facts.get("plain_head", True):
            ours = f'from worker import classifying\n\nmodel = classifying.load({{"path": "{at}", "adapter": "./{folder}"}})'
            return [*found, Way("Luthier", ours, f"{gives} Its head is one that transformers does not know. {where}".strip())]
    if export.format == "merged":
        load = (
            f"from transformers import {kind}, AutoTokenizer\n\n"
            f'model = {kind}.from_pretrained("./{folder}", dtype="auto")\n'
            f'tokenizer = AutoTokenizer.from_pretrained("./{folder}")'
        )
        if headed:
            return [*found, Way("transformers", load, gives)]
        return [*found, Way("transformers", load), Way("vLLM", f"vllm serve ./{folder}", "For architectures that vLLM serves.")]
    revision = f', revision="{facts["revision"]}"' if facts.get("on_hub") and facts.get("revision") else ""
    bits = Bits(**(facts.get("bits") or {}))
    config = _CONFIGS[bits.quantization].format(double=bits.double_quantization) if bits else ""
    load = (
        f"from peft import PeftModel\nfrom transformers import {kind}, AutoTokenizer{', BitsAndBytesConfig' if bits else ''}\n\n"
        f"{f'bits = {config}' if bits else ''}"
        f'base = {kind}.from_pretrained("{at}"{revision}, dtype="auto"{number}{", quantization_config=bits" if bits else ""})\n'
        f'model = PeftModel.from_pretrained(base, "./{folder}")\n'
        f'tokenizer = AutoTokenizer.from_pretrained("./{folder}")'
    )
    if bits:
        where = f"{where} It was trained on weights held in {bits.quantization}, and needs them so.".strip()
    found.append(Way("peft", load, where))
    rank = int(facts.get("rank") or 0)
    if facts.get("plain_lora") and 0 < rank <= _RANKS[-1]:
        largest = next(each for each in _RANKS if each >= rank)
        more = f" --max-lora-rank {largest}" if largest > 16 else ""
        pinned = f" --revision {facts['revision']}" if revision else ""
        command = f"vllm serve {at}{pinned} --enable-lora{more} --lora-modules {folder}=./{folder}"
        found.append(Way("vLLM", command, where or "For architectures that vLLM serves with adapters."))
    return found


def export_out(export: Export) -> dict[str, Any]:
    """The fields of `ExportOut` of an export, ready for JSON."""
    same = (
        "id",
        "checkpoint_name",
        "format",
        "dtype",
        "status",
        "reason",
        "progress",
        "file_name",
        "size_before",
        "size_bytes",
        "sha256",
    )
    return {
        **{name: getattr(export, name) for name in same},
        "checkpoint": export.checkpoint_id,
        "log": [f"{iso(at)} {text}" for at, text in export.log],
        "file": f"/api/v1/exports/{export.id}/file" if export.status == "ready" else None,
        "commands": {way.title: way.text for way in ways(export)} if export.status == "ready" else {},
        "created_at": iso(export.created_at),
        "finished_at": iso(export.finished_at),
    }
