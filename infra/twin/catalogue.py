"""What the twin models and what not, by type: the table of docs/twin.md, made from the types' own tables.

python -m infra.twin.catalogue          prints it; put it between the page's two markers
"""

from collections.abc import Iterable
from typing import Final

from infra.twin.interface import TwinType
from infra.twin.packages import MODULES, package

BEGIN: Final = "<!-- types: made by `python -m infra.twin.catalogue` -->"
END: Final = "<!-- end of types -->"


def limits_of(tokens: Iterable[str]) -> list[str]:
    """Return what the twin does not model of these types, one sentence each, those without limits left out."""
    types = {kind.type_name: kind for name in MODULES for kind in package(name).types}
    found = [types[token] for token in dict.fromkeys(tokens) if token in types]
    return [f"{kind.type_name.rpartition(':')[2]}: {sentence}" for kind in found for sentence in kind.limits]


def markdown() -> str:
    """Return the section of the page."""
    lines = [BEGIN]
    for name in MODULES:
        lines += [
            "",
            f"### {name}",
            "",
            "| type | is here | replaced by a change of | not modelled |",
            "|---|---|---|---|",
        ]
        lines += [_row(kind) for kind in package(name).types]
    return "\n".join([*lines, "", END])


def _row(kind: TwinType) -> str:
    names = ", ".join(f"`{name}`" for name in sorted(kind.force_new)) or "-"
    missing = [*kind.limits, *(f"`{name}`: {entry.why}" for name, entry in sorted(kind.left_out.items()))]
    return f"| `{kind.type_name}` | {kind.model} | {names} | {'; '.join(missing) or '-'} |"


if __name__ == "__main__":
    print(markdown())
