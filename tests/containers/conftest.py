"""Builds of images take minutes: they run when asked for by `-m slow`, and not in `make test`."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out this folder's slow tests unless the command line speaks of them."""
    if "slow" in (config.option.markexpr or ""):
        return
    dropped = [item for item in items if HERE in item.path.parents and item.get_closest_marker("slow")]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if item not in dropped]
