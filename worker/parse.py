"""Child process that imports a dataset: reads the source, writes the usable rows, lists the problems. Touches no database."""

from __future__ import annotations

import os

# Before numpy: its thread pool reserves address space for every core, and this process has a limit on that.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import re
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

import orjson

from app import shapes
from worker.parsers import EXCERPT, Limits, clean, open_records, unit_of
from worker.reporting import Failed, Report
from worker.rowfile import RowFile, plain

KEPT_PROBLEMS = 1000
_SAMPLE_ROWS = 1000
_SAMPLE_BYTES = 32 * 1024**2
_PREVIEW_ROWS, _PREVIEW_TEXT = 3, 400
_MAX_COLUMNS = 200


class _Problems:
    """Counts problems and keeps the first ones of each severity."""

    def __init__(self, mapping: dict[str, str] | None) -> None:
        self.errors = self.warnings = 0
        self._kept: list[dict[str, Any]] = []
        self._mapping = mapping or {}

    def add(self, severity: str, line: int, field: str, message: str, excerpt: str) -> None:
        number = self.errors if severity == "error" else self.warnings
        if severity == "error":
            self.errors += 1
        else:
            self.warnings += 1
        if number < KEPT_PROBLEMS:
            root = re.match(r"[^.\[]*", field)[0] if field else ""  # type: ignore[index]  # the pattern matches anything
            named = self._mapping.get(root, root) + field[len(root) :]
            self._kept.append({"line": line, "severity": severity, "field": named, "message": clean(message), "excerpt": clean(excerpt)})

    def sorted(self) -> list[dict[str, Any]]:
        return sorted(self._kept, key=lambda problem: (problem["severity"] != "error", problem["line"]))


def main(spec: dict[str, Any], report: Report) -> dict[str, Any]:
    """Import one source.

    Args:
        spec: folder (of the dataset), source (file name in it), link_from (folder of the version whose source it shares), format, mapping,
            split, leave_out, compare_with (folder of the version before, or None), max_line_bytes, max_rows, max_bytes.

    Returns:
        shape, form, columns, unit (line or row), counts, problems, checks, sha256; or `failed` (a reason) where no row can be used, with
        columns and the first rows.

    Raises:
        Failed: the source cannot be read at all.
    """
    folder = Path(spec["folder"])
    source = folder / spec["source"]
    _share_source(source, spec.get("link_from"))
    mapping: dict[str, str] | None = spec.get("mapping")
    limits = Limits(spec["max_line_bytes"], spec["max_rows"], spec["max_bytes"])
    report.progress(0, source.stat().st_size, "Looking at the first rows")
    unit = unit_of(source, spec["format"])
    columns, form, preview = _look(source, spec["format"], limits, mapping)
    known = {"columns": columns, "preview": preview, "unit": unit}
    if columns and (form is None or (mapping and not set(mapping.values()) <= set(columns))):
        # What the first rows do not show may come later: nothing is refused before the whole file was looked through.
        columns, later = _look_further(source, spec["format"], limits, mapping, columns, report)
        known["columns"], form = columns, later or form
        missing = [column for column in (mapping or {}).values() if column not in columns]
        if missing:
            return {**known, "failed": f"There is no column “{missing[0]}”. The file has {_listed(columns)}."}
        if form is None:
            return {**known, "failed": _no_form(columns, mapping)}
    problems = _Problems(mapping)
    split = spec.get("split") or {}
    rows = RowFile(folder, int(split.get("seed", 0)))
    try:
        columns = known["columns"] = _fill(rows, problems, source, spec, limits, form, columns, report)
        if len(rows) == 0:
            why = "".join(f" The first problem is in {unit} {first['line']}: {first['message']}" for first in problems.sorted()[:1])
            rows.discard()
            return {**known, "failed": f"The file has no usable row.{why}", "errors": problems.errors, "problems": problems.sorted()}
        assert form is not None
        shape = shapes.FORMS[form].shape
        doubles = _add_doubles(rows, problems, shape, unit)
        rows.choose(split.get("eval"))
        leaks = _add_leaks(rows, problems, shape, unit)
        left_out = problems.errors if spec.get("leave_out") else 0
        found = [problem for problem in problems.sorted() if not (left_out and problem["severity"] == "error")]
        report.progress(source.stat().st_size, source.stat().st_size, "Writing the rows")
        before = spec.get("compare_with")
        changes = rows.changes(Path(before)) if before else None
        lengths = rows.lengths()
        counts = rows.finish()
    except BaseException:
        rows.discard()
        raise
    return {
        **counts,
        "shape": shape,
        "form": form,
        "columns": columns,
        "unit": unit,
        "errors": problems.errors - left_out,
        "warnings": problems.warnings,
        "left_out": left_out,
        "problems": found,
        "checks": {"duplicates": doubles, "leaks": leaks, "characters": lengths, "changes": changes},
    }


def _share_source(source: Path, origin: str | None) -> None:
    """Give a new version the source of the one it was made from: a second name of the same file, or a copy where links are not possible."""
    if source.exists():
        return
    if origin is None or not Path(origin, source.name).is_file():
        raise Failed("The file this is read from is gone; the version it belongs to was deleted. Upload it again.", "data")
    source.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(Path(origin, source.name), source)
    except OSError:
        temporary = source.with_name(f".{source.name}")
        shutil.copyfile(Path(origin, source.name), temporary)
        temporary.rename(source)


def _look(source: Path, kind: str, limits: Limits, mapping: dict[str, str] | None) -> tuple[list[str], str | None, list[dict[str, Any]]]:
    """Columns, the form of most of the first rows, and a preview of the first."""
    columns: dict[str, None] = {}
    forms: Counter[str | None] = Counter()
    preview: list[dict[str, Any]] = []
    for record in open_records(source, kind, limits):
        if record.row is not None:
            columns.update(dict.fromkeys(clean(name)[:200] for name in record.row))
            forms[shapes.detect(shapes.mapped(record.row, mapping))] += 1
            if len(preview) < _PREVIEW_ROWS:
                preview.append({clean(name)[:200]: _short(value) for name, value in list(record.row.items())[:_MAX_COLUMNS]})
        if forms.total() >= _SAMPLE_ROWS or record.at > _SAMPLE_BYTES:
            break
    form = max(forms, key=lambda name: (forms[name], name is not None)) if forms else None
    return list(columns)[:_MAX_COLUMNS], form, preview


def _look_further(
    source: Path, kind: str, limits: Limits, mapping: dict[str, str] | None, known: list[str], report: Report
) -> tuple[list[str], str | None]:
    """Columns of the whole file, and the form of the first row that has all mapped ones (or any form, without a mapping)."""
    columns, form, wanted = dict.fromkeys(known), None, set((mapping or {}).values())
    total, said = source.stat().st_size, time.monotonic()
    for record in open_records(source, kind, limits):
        if time.monotonic() - said > 0.25:
            said = time.monotonic()
            report.progress(min(record.at, total), total, "Looking for columns that come later")
        if record.row is None:
            continue
        if len(columns) < _MAX_COLUMNS and not record.row.keys() <= columns.keys():
            columns.update(dict.fromkeys(clean(name)[:200] for name in record.row))
        if form is None and wanted <= record.row.keys():
            form = shapes.detect(shapes.mapped(record.row, mapping))
        if form is not None and wanted <= columns.keys():
            break
    return list(columns)[:_MAX_COLUMNS], form


def _fill(
    rows: RowFile,
    problems: _Problems,
    source: Path,
    spec: dict[str, Any],
    limits: Limits,
    form: str | None,
    known: list[str],
    report: Report,
) -> list[str]:
    """Read every row; returns the columns of the whole file."""
    mapping = spec.get("mapping")
    columns = dict.fromkeys(known)
    total, said = source.stat().st_size, time.monotonic()
    for record in open_records(source, spec["format"], limits):
        if time.monotonic() - said > 0.25:
            said = time.monotonic()
            report.progress(min(record.at, total), total, f"{len(rows):,} rows read")
        if record.row is None:
            field, message = record.problem or ("", "Cannot be read.")
            problems.add("error", record.line, field, message, record.excerpt)
            continue
        if form is None:
            continue
        if len(columns) < _MAX_COLUMNS and not record.row.keys() <= columns.keys():
            columns.update(dict.fromkeys(clean(name)[:200] for name in record.row))
        row = shapes.mapped(record.row, mapping)
        try:
            finding = shapes.read(row, form)
            prompt = shapes.prompt_of(finding.row, shapes.FORMS[form].shape)
            rows.add(record.line, finding.row, record.row, prompt)
        except shapes.Wrong as wrong:
            problems.add("error", record.line, wrong.place, wrong.message, _excerpt(row, wrong.place))
            continue
        for place, message in finding.warnings:
            problems.add("warning", record.line, place, message, _excerpt(row, place))
        if len(rows) > limits.max_rows:
            raise Failed(f"The file has more than {limits.max_rows:,} rows, the most a dataset may have. Split it.", "data")
    return list(columns)[:_MAX_COLUMNS]


def _add_leaks(rows: RowFile, problems: _Problems, shape: str, unit: str) -> int:
    """Name the rows for evaluation whose prompt is also trained on, but for case and spaces."""
    count, found = rows.leaks(max(0, KEPT_PROBLEMS - problems.warnings))
    for line, other, row in found:
        asked = _asked(row, shape)
        words = f"Kept for evaluation, and {unit} {other:,} for training asks the same but for case and spaces."
        problems.add("warning", line, next(iter(row)), words, _cut(asked, EXCERPT))
    problems.warnings += count - len(found)
    return count


def _asked(row: dict[str, Any], shape: str) -> str:
    asked = shapes.prompt_of(row, shape)
    return str(asked if isinstance(asked, str) else asked[-1]["content"])


def _add_doubles(rows: RowFile, problems: _Problems, shape: str, unit: str) -> int:
    count, found = rows.doubles(max(0, KEPT_PROBLEMS - problems.warnings))
    words = {
        "prompt": "Same prompt",
        "text": "Same text",
        "labelled": "Same text and label",
        "chat": "Same conversation",
        "preference": "Same prompt and answers",
    }
    for line, first, row in found:
        same = f"{words.get(shape, 'Same prompt and answer')} as {unit} {first:,}."
        problems.add("warning", line, next(iter(row)), same, _cut(_asked(row, shape), EXCERPT))
    problems.warnings += count - len(found)
    return count


def _excerpt(row: dict[str, Any], place: str) -> str:
    """The part of a row that a problem is about."""
    name, number = re.match(r"([^.\[]*)(?:\[(\d+)\])?", place).groups()  # type: ignore[union-attr]  # the pattern matches anything
    value = row.get(name, row)
    if number is not None and isinstance(value, list) and int(number) < len(value):
        value = value[int(number)]
    return _cut(value if isinstance(value, str) and value.strip() else _dumps(value if value or value is False else row), EXCERPT)


def _short(value: Any) -> Any:
    """A value for the preview: short text as it is, anything else as JSON where it is long."""
    if isinstance(value, str):
        return clean(_cut(value, _PREVIEW_TEXT))
    text = _dumps(value)
    return orjson.loads(text.replace("\\u0000", "␀")) if len(text) <= 4 * _PREVIEW_TEXT else clean(_cut(text, _PREVIEW_TEXT))


def _dumps(value: Any) -> str:
    return orjson.dumps(value, default=plain, option=orjson.OPT_NON_STR_KEYS).decode()


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[:length] + "…"


def _listed(columns: list[str]) -> str:
    shown = ", ".join(f"“{name}”" for name in columns[:20])
    return f"the column {shown}" if len(columns) == 1 else f"the columns {shown}{' and more' if len(columns) > 20 else ''}"


def _no_form(columns: list[str], mapping: dict[str, str] | None) -> str:
    if mapping:
        return f"The mapped fields {', '.join(mapping)} make no row shape. Map for example prompt and completion, messages, or text."
    example = shapes.suggest(columns) or {"prompt": columns[0], "completion": columns[-1]}
    return (
        f"The file has {_listed(columns)}, and it is not clear which is what. Say so with a mapping, for example "
        f"{orjson.dumps(example).decode()}, or name the columns prompt and completion, messages, or text."
    )
