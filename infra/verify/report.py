"""Write a verification's report: results.md, performance.md, nat-classification.md, report.json, index.html."""

import json
import os
from pathlib import Path

from infra.verify import markdown
from infra.verify.html import index_html
from infra.verify.model import Report

REPORTS_DIR = Path("build/reports")


def write_report(report: Report, directory: Path | None = None) -> list[Path]:
    """Write all files of a report and return their paths, index.html first.

    Args:
        report: what was found.
        directory: where to; `build/reports/<stack>` below the current directory when not given.

    Raises:
        OSError: the directory cannot be written.
    """
    directory = directory or REPORTS_DIR / report.stack
    directory.mkdir(parents=True, exist_ok=True)
    texts = {
        "index.html": index_html(report),
        "results.md": markdown.results(report),
        "performance.md": markdown.performance(report),
        "nat-classification.md": markdown.nat_classification(report),
        "report.json": json.dumps(report.to_json(), indent=1) + "\n",
    }
    return [_replace(directory / name, text) for name, text in texts.items()]


def _replace(path: Path, text: str) -> Path:
    """Write beside and rename, so that a reader never sees half a report."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text)
    beside.replace(path)
    return path
