"""Which tests of feedback run on both databases: all but those of its pages, whose services other files test on both."""

from __future__ import annotations

import pytest

PAGES = {"test_pages", "test_pages_judges", "test_pages_rate", "test_train_pages"}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the pages on PostgreSQL."""
    left_out = [item for item in items if _is_page(item) and "postgres" in item.name]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def _is_page(item: pytest.Item) -> bool:
    return "feedback" in item.path.parts and item.path.stem in PAGES
