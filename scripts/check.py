"""Run every static check and say in one table which of them hold.

Usage: .venv/bin/python scripts/check.py [--fix]
Exit code: 0 when all hold, 1 otherwise.
"""

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CODE = ["ztna", "infra", "components", "stacks", "scripts", "tests"]


def checks(fix: bool) -> list[tuple[str, list[str]]]:
    """Return (name, argv) of each check; `fix` lets the formatter and linter write."""
    bin_dir = Path(sys.executable).parent
    return [
        ("format", [str(bin_dir / "ruff"), "format", *([] if fix else ["--check"]), "--quiet", *CODE]),
        ("lint", [str(bin_dir / "ruff"), "check", *(["--fix"] if fix else []), "--quiet", *CODE]),
        ("types", [str(bin_dir / "mypy"), "--no-error-summary"]),
        ("imports", [str(bin_dir / "lint-imports"), "--no-cache"]),
    ]


def main() -> int:
    failed = []
    for name, argv in checks("--fix" in sys.argv[1:]):
        began = time.monotonic()
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)
        verdict = "ok" if done.returncode == 0 else "FAILED"
        print(f"check {name:8} {verdict:7} {time.monotonic() - began:5.1f} s", flush=True)
        if done.returncode != 0:
            failed.append(name)
            print(done.stdout + done.stderr)
    if failed:
        print(f"check: failed: {', '.join(failed)} (scripts/check.py --fix mends formatting and simple lint)")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
