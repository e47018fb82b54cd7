"""${message[0].upper() + message[1:]}."""

import sqlalchemy as sa
from alembic import op
% if "postgresql." in (upgrades + downgrades) or "JSON_" in (upgrades + downgrades):
from sqlalchemy.dialects import postgresql
% endif

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}
% if "JSON_" in (upgrades + downgrades):

JSON_ = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
% endif


def upgrade() -> None:
    """Go to this revision."""
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    """Go back to the revision before it."""
    ${downgrades if downgrades else "pass"}
