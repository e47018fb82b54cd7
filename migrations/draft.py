"""Drafts a migration from what `app.tables` has and the newest revision has not; run by `make migration m="…"`. Migrates nothing."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from alembic import command
from alembic.operations import ops
from sqlalchemy import JSON, ForeignKeyConstraint

from app import migrations
from app.settings import Settings


def render_item(kind: str, item: Any, _context: Any) -> str | bool:
    """Write the JSON type by the name that the template gives it."""
    return "JSON_" if kind == "type" and isinstance(item, JSON) else False


def _is_circular(item: Any) -> bool:
    return isinstance(item, ForeignKeyConstraint) and item.use_alter


def tidy(_context: Any, _revision: Any, directives: list[ops.MigrationScript]) -> None:
    """Put the operations into the form that runs on both databases and reads well."""
    script = directives[0]
    assert script.upgrade_ops is not None
    tidied: list[ops.MigrateOperation] = []
    late: list[ops.MigrateOperation] = []
    for each in script.upgrade_ops.ops:
        if isinstance(each, ops.CreateTableOp):
            # Two tables that point to each other: one of the keys is added when both are there.
            circular = [item for item in each.columns if _is_circular(item)]
            each.columns = [item for item in each.columns if not _is_circular(item)]
            if circular:
                late.append(ops.ModifyTableOps(each.table_name, [ops.CreateForeignKeyOp.from_constraint(key) for key in circular]))
            tidied.append(each)
        elif isinstance(each, ops.ModifyTableOps) and all(isinstance(part, ops.CreateIndexOp) for part in each.ops):
            tidied.extend(each.ops)  # an index needs no copy of its table
        else:
            tidied.append(each)
    script.upgrade_ops.ops = [*tidied, *late]
    back = script.upgrade_ops.reverse_into(ops.DowngradeOps([]))
    dropped = {each.table_name for each in back.ops if isinstance(each, ops.DropTableOp)}
    back.ops = [each for each in back.ops if not (isinstance(each, ops.DropIndexOp) and each.table_name in dropped)]
    script.downgrade_ops = back


def main() -> None:
    """Write the draft and print its path."""
    message = " ".join(sys.argv[1:])
    if not message:
        sys.exit('Say what changes: python migrations/draft.py "add feedback"')
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(home=Path(folder), database_url="")
        migrations.upgrade(settings)
        number = f"{int(migrations.head() or 0) + 1:04d}"
        with migrations.connect(settings) as connection:
            config = migrations.config(connection)
            config.attributes["render_item"] = render_item
            script = command.revision(config, message, autogenerate=True, rev_id=number, process_revision_directives=tidy)
    assert script is not None and not isinstance(script, list)
    path = Path(script.path)
    lines = [line for line in path.read_text().splitlines(keepends=True) if "Alembic" not in line]
    text = re.sub(r"\b(?:batch_)?op\.f\(('[^']*')\)", r"\1", "".join(lines))  # names are final as the tables give them
    path.write_text(re.sub(r", (?:schema=None|unique=False|use_alter=True)", "", text))
    subprocess.run([sys.executable, "-m", "ruff", "check", "--quiet", "--fix", "--select", "F,I,UP", str(path)], check=False)
    subprocess.run([sys.executable, "-m", "ruff", "format", "--quiet", str(path)], check=False)
    print(path)


if __name__ == "__main__":
    main()
