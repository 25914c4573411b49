"""The configuration keys of every stack, by stack: what `ztna config` lists and docs/configuration.md documents.

A table lies beside the reader of its stack and is imported when it is asked for, so that one stack's command does not
load the others.
"""

import importlib
from collections.abc import Iterator, Mapping
from typing import Final

from infra.config import Key

TABLES: Final[dict[str, tuple[str, str]]] = {
    "lab": ("infra.config", "LAB_KEYS"),
    "do-nyc1": ("infra.config_do", "DO_KEYS"),
    "aws-us-east-2": ("infra.config_aws", "AWS_KEYS"),
    "pi-home": ("infra.config_pi", "PI_KEYS"),
}
"""Module and name of each stack's table."""


class _Tables(Mapping[str, tuple[Key, ...]]):
    def __getitem__(self, stack: str) -> tuple[Key, ...]:
        module, name = TABLES[stack]
        keys: tuple[Key, ...] = getattr(importlib.import_module(module), name)
        return keys

    def __iter__(self) -> Iterator[str]:
        return iter(TABLES)

    def __len__(self) -> int:
        return len(TABLES)


CONFIG_KEYS: Final[Mapping[str, tuple[Key, ...]]] = _Tables()
"""Keys of each stack under the namespace of its name. Raises KeyError for a stack that the project does not have."""
