"""Reading the pages: sections, tables, links, console blocks."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
EVERY_PAGE = (*PAGES, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs" / "adr").glob("*.md")))
CODE = re.compile(r"`([^`]+)`")
_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)

Rows = list[dict[str, str]]


def prose(text: str) -> str:
    """A page without its fenced blocks."""
    return _FENCED.sub("", text)


def links(text: str) -> list[str]:
    """Targets of all links."""
    return _LINK.findall(prose(text))


def anchors(text: str) -> set[str]:
    """Anchors of the headings, as code hosts make them."""
    titles = (CODE.sub(r"\1", title).strip().lower() for title in _HEADING.findall(prose(text)))
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}


def tables(text: str) -> dict[str, Rows]:
    """Rows of each table, by the last line of text before it (a heading without its marks, or a sentence)."""
    found: dict[str, Rows] = {}
    title, header, rows = "", [""], None
    for line in prose(text).splitlines():
        if not line.startswith("|"):
            rows = None
            title = line.lstrip("# ").strip() or title
            continue
        cells = [cell.strip() for cell in line.strip("|").replace(r"\|", "\0").split("|")]
        cells = [cell.replace("\0", "|") for cell in cells]
        if rows is None:
            header, rows = cells, found.setdefault(title, [])
        elif not set(line) <= set("|-: "):
            rows.append(dict(zip(header, cells, strict=True)))
    return found


def codes(cell: str) -> list[str]:
    """What stands between backticks in a cell."""
    return CODE.findall(cell)


@dataclass(frozen=True, slots=True)
class Command:
    """One `$ ` line of a console block."""

    page: str
    line: int
    text: str


def commands(page: Path) -> list[Command]:
    """The commands of a page, in order."""
    text = page.read_text()
    found = []
    for block in _CONSOLE.finditer(text):
        first = text.count("\n", 0, block.start(1)) + 1
        for number, line in enumerate(block[1].splitlines(), first):
            if line.startswith("$ "):
                found.append(Command(str(page.relative_to(ROOT)), number, line[2:]))
    return found
