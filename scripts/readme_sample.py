"""Put the last report of `ztna verify` between the marks in README.md; every check must have passed.

Usage: .venv/bin/python scripts/readme_sample.py [build/reports/lab/report.json]
"""

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
REPORT = ROOT / "build" / "reports" / "lab" / "report.json"
BEGIN, END = "<!-- verify:begin -->\n", "<!-- verify:end -->"
MEASURED_COLUMNS = 88


def sample(report: dict[str, Any]) -> str:
    """Return the report as a text block of one line per check, long values cut."""
    lines = []
    for check in report["checks"]:
        measured = check["measured"]
        if len(measured) > MEASURED_COLUMNS:
            measured = f"{measured[: MEASURED_COLUMNS - 4].rsplit(' ', 1)[0]} ..."
        lines.append(f"{check['title']:33} {check['status']:7} {measured}\n")
    return f"```text\n{''.join(lines)}```\n"


def main(path: Path) -> int:
    """Rewrite the block; 1 when the report is not one of a complete pass."""
    report = json.loads(path.read_text())
    if {check["status"] for check in report["checks"]} != {"passed"}:
        print(f"readme_sample: not every check of {path} passed; README.md is left as it was", file=sys.stderr)
        return 1
    readme = ROOT / "README.md"
    head, rest = readme.read_text().split(BEGIN)
    readme.write_text(head + BEGIN + sample(report) + END + rest.split(END, 1)[1])
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else REPORT))
