"""Draw each cloud stack's graph into docs/architecture.md, between its marks. Usage: python -m scripts.diagrams"""

from pathlib import Path

from infra.graph_mermaid import flowchart
from tests.support.preview import preview_graph

PAGE = Path(__file__).resolve().parent.parent / "docs" / "architecture.md"
STACKS = ("do-nyc1", "aws-us-east-2", "pi-home")


def drawn(page: str) -> str:
    """Return the page with the drawing of each stack made anew."""
    for stack in STACKS:
        begin, end = f"<!-- graph:{stack}:begin -->", f"<!-- graph:{stack}:end -->"
        if begin not in page or end not in page:
            raise SystemExit(f"{PAGE}: the marks {begin} and {end} are missing")
        text = f"{begin}\n```mermaid\n{flowchart(preview_graph(stack))}```\n{end}"
        page = page[: page.index(begin)] + text + page[page.index(end) + len(end) :]
    return page


if __name__ == "__main__":
    PAGE.write_text(drawn(PAGE.read_text()))
