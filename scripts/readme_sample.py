"""Put the present output of `ztna verify` between the marks in README.md; the stack must be up and pass completely.

Usage: .venv/bin/python scripts/readme_sample.py
"""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- verify:begin -->\n", "<!-- verify:end -->"
MEASURED_COLUMNS = 78


def sample(report: dict[str, list[dict[str, str]]]) -> str:
    """Return the report as a text block of one line per check, long values cut."""
    lines = []
    for check in report["checks"]:
        measured = check["measured"]
        if len(measured) > MEASURED_COLUMNS:
            measured = f"{measured[: MEASURED_COLUMNS - 4].rsplit(' ', 1)[0]} ..."
        lines.append(f"{check['title']:33} {check['status']:7} {measured}")
    return "```text\n" + "\n".join(lines) + "\n```\n"


def main() -> int:
    done = subprocess.run(
        [str(ROOT / ".venv/bin/ztna"), "verify", "--stack", "lab", "--json"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode != 0:
        print("readme_sample: verify did not pass; README.md is left as it was", file=sys.stderr)
        return 1
    readme = ROOT / "README.md"
    head, rest = readme.read_text().split(BEGIN)
    readme.write_text(head + BEGIN + sample(json.loads(done.stdout)) + END + rest.split(END, 1)[1])
    return 0


if __name__ == "__main__":
    sys.exit(main())
