"""The training child, read from top to bottom: load, build the trainer its method declares, train, and say everything through the pipe."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import os
import pkgutil
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

from app import methods, tuners
from app.checkpoints import manifest as manifests
from app.checkpoints.bits import Bits
from app.checkpoints.heads import FEATURES, HEAD_FILE
from app.errors import Invalid
from app.methods import service as settings
from app.methods.base import Objective, TrainingJob
from app.plans import memory as estimate
from app.tuners.base import Tuner
from worker.libraries import as_failed, quiet
from worker.reporting import Failed, Report

log = logging.getLogger(__name__)

_NOT_KEPT = ("training_args.bin", "README.md")
"""Files of the library that nothing reads again: a pickle full of paths, and a model card."""
_LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "safetensors", "numpy", "bitsandbytes", "scikit-learn")


def main(spec: dict[str, Any], report: Report) -> dict[str, Any]:
    """Train a run, from its beginning or from a checkpoint.

    Raises:
        Failed: the run cannot be done; `code` is config, data, model, diverged, oom, disk_full or no_torch.
    """
    report.phase("Starting")
    os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false", TRL_EXPERIMENTAL_SILENCE="1")
    with quiet():
        try:
            import peft  # noqa: F401  # all that is needed, so that what is missing is said at once
            import torch
            import trl  # noqa: F401
        except ImportError as error:
            raise Failed(
                f"This worker cannot train, because {error.name or 'a library'} is missing. "
                "Run `pip install 'luthier[train]'` there, then resume the run.",
                "no_torch",
            ) from error
        torch.set_num_threads(int(spec["threads"]))
        try:
            return _train(spec, report)
        except Failed:
            raise
        except Exception as error:  # boundary: what libraries raise becomes a code and words, where it is known
            failure = as_failed(error, Path(spec["work"]))
            if failure is None:
                raise
            log.exception("The trainer failed")
            raise failure from error


def _train(spec: dict[str, Any], report: Report) -> dict[str, Any]:
    import torch
    from transformers import PrinterCallback

    from worker import held_out, loading, sampling, tuning
    from worker.callbacks import Checks, Clock, Progress, Reporter
    from worker.resumable import resumable, score_answers_only

    objective, tuner, params, tuner_params = _declared(spec)
    work, device, resume = Path(spec["work"]), spec["device"], spec["resume"]
    if device != "cpu" and not torch.cuda.is_available():
        raise Failed("The GPU of this worker cannot be used: torch does not see it. Check the driver, or set LUTHIER_DEVICE=cpu.", "config")
    config_hash = _config_hash(spec)
    if resume and manifests.read_manifest(Path(resume)).get("config_hash") != config_hash:
        raise Failed("The checkpoint to go on from was made with other settings. Start a new run from it instead.", "config")

    report.phase("Reading the rows")
    base = spec["model"]
    tokenizer = loading.load_tokenizer(base["path"])
    has_template = bool(tokenizer.chat_template)
    train_rows = loading.load_rows(spec["train"], has_template, work)
    eval_rows = loading.load_rows(spec["eval"], has_template, work).dataset if spec["eval"] else None
    graded = held_out.wanted(spec["eval"], objective.name)
    if graded:
        eval_rows = held_out.with_grades(eval_rows, spec["eval"])

    report.phase("Loading the model")
    precision = loading.precision("fp32" if tuner.exact(tuner_params) else params.precision, tuner.family, device)
    torch.manual_seed(spec["seed"])  # a new head is drawn
    attached = tuning.attachment(tuner, tuner_params, spec["seed"], spec.get("others", {}))
    bits = Bits(getattr(tuner_params, "quantization", "none"), getattr(tuner_params, "double_quantization", True))
    head: Any = objective.head_for(params, train_rows.dataset) if objective.head else False
    rounded = Bits.of(base["adapter"]) or attached.rounded()
    model = loading.load_model(base["path"], base["adapter"], precision.loaded, head=head, bits=bits, rounded=rounded)
    total_parameters = loading.parameters(model)
    tuned = tuning.put_on(model, objective, tuner, tuner_params, attached)
    model = tuned.model
    batch, accumulation = _batch(params, objective, int(spec["adjustments"].get("batch_divisor", 1)))
    longest = train_rows.longest_tokens(params.max_length)
    checkpointing = _checkpointing(
        params.gradient_checkpointing, model, objective, tuner, tuner_params, longest, batch, precision.loaded, device
    )

    report.phase("Preparing the rows")
    score_answers_only()
    job = TrainingJob(
        model=model,
        tokenizer=tokenizer,
        train=train_rows.dataset,
        evaluation=eval_rows,
        peft_config=tuned.peft_config,
        arguments=_arguments(spec, params, batch, accumulation, precision.autocast, checkpointing),
        trainer=lambda kind: (held_out.noting if graded else resumable)(attached.trainer(kind)),
        reference=tuned.reference,
        engine=pkgutil.resolve_name(objective.engine) if objective.engine else None,
        others=spec.get("others", {}),
        start=base,
        keep=str(Path(spec["train"]["path"]).parent / "features"),
    )
    trainer = objective.build_trainer(params, job)
    tuning.widen(trainer.model)
    attached.prepared(trainer.model, tuned.peft_config is not None, Path(resume) if resume else None)
    if graded:
        held_out.report_to(trainer, report)
    dropped = 0 if objective.splits_long else len(train_rows.dataset) - len(trainer.train_dataset)
    if not len(trainer.train_dataset):
        raise Failed(
            f"No row is left to train on: with a maximum length of {params.max_length} tokens all answers are "
            f"{'too long' if objective.drops_long else 'cut off'}. Raise max_length.",
            "data",
        )
    if eval_rows is not None and not len(trainer.eval_dataset):
        raise Failed(f"No evaluation row fits into the maximum length of {params.max_length} tokens. Raise max_length.", "data")
    if dropped and not resume:
        why = "they are longer than" if objective.drops_long else "their prompt alone fills"
        words = f"{dropped} of {len(train_rows.dataset)} rows are left out, because {why} the maximum length of {params.max_length} tokens."
        report.event("rows_dropped", words, dropped=dropped, rows=len(train_rows.dataset))
    made = getattr(trainer, "prepared", None)
    if made and not resume:
        words = (
            f"{made['texts']} texts became {made['pieces']} pieces of at most {params.max_length} tokens, which fill {made['rows']} rows."
        )
        report.event("rows_prepared", words, **made)
    trainable = sum(weight.numel() for weight in trainer.model.parameters() if weight.requires_grad)

    source = eval_rows if eval_rows is not None else train_rows.dataset
    checked = (
        sampling.questions(source, objective.answer, params.answer_check_rows)
        if params.answer_check != "none" and eval_rows is not None
        else []
    )
    checked = [each for each in checked if sampling.last_integer(each.expected) is not None]
    if params.answer_check != "none" and not checked:
        raise Failed(
            "No evaluation row has a whole number in its answer, so answers cannot be checked by it. Set answer_check to none.", "config"
        )
    asks = "prompt" in source.column_names and not objective.head
    samples = sampling.questions(source, objective.answer, int(spec["sample_prompts"])) if asks else []
    offsets = spec["offsets"]
    progress = Progress(tokens=float(offsets.get("tokens", 0)), clock=Clock(float(offsets.get("elapsed_seconds", 0))))
    checks = Checks(tokenizer, samples, checked, params.eval_steps, params.sample_tokens)

    def _finish(folder: Path, step: int) -> dict[str, Any]:
        if objective.head:
            facts = json.dumps({"task": objective.produces, **job.facts}, indent=2, sort_keys=True)
            (folder / HEAD_FILE).write_text(facts + "\n", encoding="utf-8")
        attached.saved(trainer.model, folder)
        if tuner.family == "adapter":
            (bits or rounded).keep(folder)
        return finish_checkpoint(folder, step, spec, config_hash) | tuning.reshaped(trainer.model, tuner, folder)

    reporter = Reporter(report, progress, checks, _finish, objective.produces)
    reporter.trainer = trainer
    trainer.remove_callback(PrinterCallback)
    for callback in (*attached.callbacks(), reporter):
        trainer.add_callback(callback)
    report.send(
        "resolved",
        config={
            "method": objective.name,
            "tuner": tuner.name,
            "params": params.model_dump(),
            "tuner_params": tuner_params.model_dump(),
            "seed": spec["seed"],
            "device": device,
            "device_name": torch.cuda.get_device_name(0) if device != "cpu" else "cpu",
            "threads": torch.get_num_threads(),
            "allocator": Path(os.environ.get("LD_PRELOAD", "")).name or "of the system",
            "weights": precision.loaded,
            "trained_weights": precision.trained,
            "autocast": "bfloat16" if precision.autocast else None,
            "gradient_checkpointing": checkpointing,
            "batch_size": batch,
            "gradient_accumulation": accumulation,
            "trainable_parameters": trainable,
            "total_parameters": total_parameters,
            "rows": len(train_rows.dataset),
            "rows_dropped": dropped,
            "eval_rows": len(eval_rows) if eval_rows is not None else 0,
            "dataset_sha256": spec["train"].get("sha256"),
            "config_hash": config_hash,
            "trainer": type(trainer).__name__,
            "arguments": _told(trainer.args),
            "versions": {name: importlib.metadata.version(name) for name in _LIBRARIES if _there(name)},
        },
    )

    total = _total_steps(trainer)
    if resume and spec["resume_step"] >= total:
        report.send("total", steps=total)
        return {"outcome": "finished", "step": spec["resume_step"]}
    report.phase("Going on from the checkpoint" if resume else "Starting to train")
    trainer.train(resume_from_checkpoint=resume)
    step = int(trainer.state.global_step)
    if progress.diverged:
        raise Failed(
            f"The run diverged: loss or gradient were no finite numbers up to step {step}. "
            f"Start it again with a lower learning rate, such as {params.learning_rate / 2:g}, from the last good checkpoint or anew.",
            "diverged",
        )
    return {"outcome": "paused" if progress.paused else "finished", "step": step}


def _there(library: str) -> bool:
    return any(importlib.metadata.distributions(name=library))


def _declared(spec: dict[str, Any]) -> tuple[Objective, Tuner, Any, Any]:
    """Objective and tuner of a run with their settings."""
    objective, tuner = methods.registry().get(spec["method"]), tuners.registry().get(spec["tuner"])
    if objective is None or tuner is None:
        missing = spec["method"] if objective is None else spec["tuner"]
        raise Failed(f"This worker does not know “{missing}”. Update it to the version of the web server, then resume the run.", "config")
    try:
        params, tuner_params = settings.validate(
            objective.name, tuner.name, spec["params"], spec["tuner_params"], spec["train"]["shape"], has_eval=bool(spec["eval"])
        )
    except Invalid as error:
        raise Failed(error.message, "config") from error
    return objective, tuner, objective.params.model_validate(params), tuner.params.model_validate(tuner_params)


def _batch(params: Any, objective: Objective, divisor: int) -> tuple[int, int]:
    """Batch size and accumulation after the studio's reaction to a lack of memory; their product stays."""
    if divisor < 1 or params.batch_size % divisor or params.batch_size // divisor < objective.smallest_batch:
        raise Failed(
            f"The batch of {params.batch_size} cannot be divided by {divisor}. Start the run again with a smaller batch size.", "config"
        )
    return params.batch_size // divisor, params.gradient_accumulation * divisor


def _checkpointing(
    asked: str, model: Any, objective: Objective, tuner: Tuner, tuner_params: Any, longest: int, batch: int, loaded: str, device: str
) -> bool:
    """Whether activations are reckoned twice to save memory: when those of a full batch of the longest rows would not fit."""
    if asked != "auto" or "prefix" in tuner.traits:  # it lives in the cache, which checkpointing switches off
        return asked == "on"
    shapes = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    config = model.config.get_text_config().to_dict()
    needed = estimate.memory(
        shapes,
        config,
        trainable=tuner.trainable(shapes, config, tuner_params),
        weight_bytes=2 if loaded == "bfloat16" else 4,
        family=tuner.family,
        tokens=batch * longest * objective.sequences,
    )
    return needed["gradients"] + needed["optimizer"] + needed["activations"] > 0.9 * _free_memory(device)


def _free_memory(device: str) -> int:
    """Memory that can still be had, in bytes."""
    if device != "cpu":
        import torch

        return int(torch.cuda.mem_get_info()[0])
    import psutil

    return int(psutil.virtual_memory().available)


def _arguments(spec: dict[str, Any], params: Any, batch: int, accumulation: int, autocast: bool, checkpointing: bool) -> dict[str, Any]:
    """The arguments all trainers share."""
    on_cpu = spec["device"] == "cpu"
    return {
        "output_dir": spec["work"],
        "seed": spec["seed"],
        "use_cpu": on_cpu,
        "bf16": autocast,
        "fp16": False,
        "gradient_checkpointing": checkpointing,
        "per_device_train_batch_size": batch,
        "per_device_eval_batch_size": batch,
        "gradient_accumulation_steps": accumulation,
        "num_train_epochs": params.epochs,
        "max_steps": params.max_steps or -1,
        "learning_rate": params.learning_rate,
        "lr_scheduler_type": params.scheduler,
        "warmup_steps": params.warmup if params.warmup < 1 else int(params.warmup),
        "weight_decay": params.weight_decay,
        "max_grad_norm": params.max_grad_norm,
        "logging_strategy": "steps",
        "logging_steps": params.logging_steps,
        "logging_nan_inf_filter": False,
        "eval_strategy": "steps" if spec["eval"] else "no",
        "eval_steps": params.eval_steps if spec["eval"] else None,
        "prediction_loss_only": True,
        "save_strategy": "steps",
        "save_steps": params.save_steps,
        "dataloader_pin_memory": not on_cpu,
        "report_to": "none",
        "disable_tqdm": True,
    }


def _total_steps(trainer: Any) -> int:
    """Steps of the whole run, as the trainer will count them."""
    return int(trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())[-1])


def finish_checkpoint(folder: Path, step: int, spec: dict[str, Any], config_hash: str) -> dict[str, Any]:
    """Make a folder the trainer saved into a checkpoint: nothing that is not needed, the base by its absolute path, a manifest. Returns
    its kind, and PEFT's name for that of an adapter."""
    for name in _NOT_KEPT:
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "ref", ignore_errors=True)  # the adapter as it was, which the reference of DPO is; it stays where it came from
    adapter = folder / "adapter_config.json"
    facts = {"tuner_kind": "full"}
    if adapter.is_file():
        config = json.loads(adapter.read_text(encoding="utf-8"))
        config["base_model_name_or_path"] = str(Path(spec["model"]["path"]).absolute())
        adapter.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        facts = {"tuner_kind": "adapter", "peft_type": config["peft_type"]}
    elif not (folder / "config.json").is_file():  # only what was fitted on a model, which stays where it is
        facts = {"tuner_kind": "adapter", "peft_type": FEATURES}
    manifests.write_manifest(folder, run_id=spec["run_id"], step=step, attempt=spec["attempt"], config_hash=config_hash)
    return facts


def _config_hash(spec: dict[str, Any]) -> str:
    """Hash over all that makes a run what it is, and over nothing that may change between its attempts."""
    identity = {name: spec[name] for name in ("method", "tuner", "params", "tuner_params", "seed")}
    identity["dataset"] = spec["train"].get("sha256") or spec["train"]["shape"]
    for name in ("path", "adapter"):
        folder = spec["model"][name]
        try:
            identity[name] = manifests.weights_sha256(manifests.read_manifest(Path(folder))) if folder else None
        except ValueError:  # a plain folder, as tests use them
            identity[name] = Path(folder).name
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _told(arguments: Any) -> dict[str, Any]:
    """The trainer's arguments that differ from the library's defaults: what a script of one's own has to set."""
    values = {each.name: (getattr(arguments, each.name), each.default) for each in fields(arguments) if each.name != "output_dir"}
    return {
        name: json.loads(json.dumps(value))
        for name, (value, default) in values.items()
        if isinstance(value, str | int | float) and value != default
    }
