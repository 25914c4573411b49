"""What goes to a host: the bundle has sources alone, and units hold nothing of the planted secrets."""

from pathlib import Path

from infra import bundle, units
from tests.secrets.markers import NAMES, found_in, plant, secret_of
from tests.support.project import ROOT

CORNERS = (
    *(".env", "Pulumi.do-nyc1.yaml", ".ztna/stacks/do-nyc1.json", ".pulumi/stacks/aws.json", ".git/config"),
    *("ztna/key.pem", "ztna/io/agent.json", "infra/pki.env", "infra/echo.key", "ztna/__pycache__/cli.cpython-312.pyc"),
)


def test_a_bundle_holds_sources_and_no_secret_that_lies_beside_them(tmp_path: Path) -> None:
    marks = plant()
    (tmp_path / "infra").mkdir()
    for name in ("ztna", "infra"):
        for path in (ROOT / name).glob("*.py"):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / path.name).write_bytes(path.read_bytes())
    for name in CORNERS:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("".join(secret_of(each, marks[each]) for each in NAMES))
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.2.3"\n')
    files = dict(bundle._own_files(tmp_path))
    assert {"bin/ztna", "lib/ztna/cli.py"} <= files.keys()
    assert {name: found for name, content in files.items() if (found := found_in(content, marks))} == {}
    assert {name for name in files if name.startswith("lib/") and not name.endswith(".py")} == {
        "lib/ztna-1.2.3.dist-info/METADATA"
    }


def test_units_name_files_and_hold_no_secret() -> None:
    for unit in (units.INTERMEDIATE, units.CONNECTOR, units.BACKEND_HTTP, units.BACKEND_ECHO):
        text = units.unit_text(unit)
        assert "PRIVATE KEY" not in text
        assert [line for line in text.splitlines() if line.startswith("Environment=")] == [
            "Environment=PYTHONDONTWRITEBYTECODE=1"
        ]
