"""The lab stack's program under a recorder, and one real preview under the embedded engine."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.config import ConfigError
from infra.outputs import EXPORT_KEYS, SECRET_KEYS, StackOutputs
from stacks import __main__ as stacks_main
from stacks import lab
from tests.support.pulumi_mocks import Recorder, record

ROOT = Path(__file__).parents[2]
NATS = {"lab:agentNat": "port-restricted", "lab:connectorNat": "symmetric"}
SECRET = "4dabf18193072939515e22adb298388d"
"""The key by which the wire marks a secret."""
COMPUTED = {
    "pulumi-python:dynamic/lab:CertificateAuthority": {"cert_pem": "CA", "key_pem": "CAKEY"},
    "pulumi-python:dynamic/lab:Leaf": {"cert_pem": "LEAF", "key_pem": "LEAFKEY"},
}


def run(**config: str) -> tuple[Recorder, StackOutputs]:
    """Run the program on the loopback rung, which every machine allows."""
    settings = NATS | {"lab:rung": "loopback"} | {f"lab:{key}": value for key, value in config.items()}
    return record(lab.program, config=settings, computed=COMPUTED)


def test_names_are_unique_and_every_child_has_a_component_as_parent() -> None:
    recorder, _ = run()
    names = [found.name for found in recorder.resources]
    assert len(names) == len(set(names)) == 29
    for found in recorder.resources:
        parent = recorder.parents[found.name].rpartition("::")[2]
        assert parent == "ztna-lab" if found.is_component else parent in names


def test_roles_get_their_files_and_nobody_elses_key() -> None:
    recorder, _ = run()
    processes = recorder.of_type("Process")
    assert set(processes) == {
        "relay-process", "connector-process", "agent-process", "echo-process", "httpbin-process", "baseline-process",
    }  # fmt: skip
    assert all(SECRET in inputs["files"] for inputs in processes.values()), "files hold keys: they must be secret"
    files = {name: set(inputs["files"]["value"]) for name, inputs in processes.items()}
    pems = {"cert.pem", "key.pem", "ca.pem"}
    assert files["relay-process"] == {"intermediate.json", "policy.json", *pems}
    assert files["connector-process"] == {"connector.json", *pems}
    assert files["agent-process"] == {"agent.json"}
    assert files["echo-process"] == set()
    assert "CAKEY" not in json.dumps({name: inputs["files"] for name, inputs in processes.items()})
    assert processes["relay-process"]["reload"] == ["ca.pem", "cert.pem", "key.pem", "policy.json"]


def test_the_interpreter_and_the_state_directory_are_no_part_of_the_state() -> None:
    recorder, _ = run()
    for inputs in recorder.of_type("Process").values():
        assert inputs["argv"][0] == "{python}"
        assert str(ROOT) not in json.dumps(inputs["argv"])


def test_it_promises_what_was_configured() -> None:
    _, outputs = run(run="elsewhere")
    assert (outputs.stack, outputs.run, outputs.rung) == ("lab", "elsewhere", "loopback")
    assert json.loads(outputs.agents[0].profile)["key_pem"] == "LEAFKEY"
    assert set(outputs.probes) == {"foreign-connector"}
    assert outputs.ca_pem == "CA"


def test_a_missing_key_stops_it_before_anything_is_registered() -> None:
    with pytest.raises(ConfigError, match="lab:connectorNat is missing"):
        record(lab.program, config={"lab:agentNat": "symmetric"})


def test_exports_are_those_of_the_contract_and_keys_are_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    exported: dict[str, Any] = {}
    monkeypatch.setattr("pulumi.export", exported.__setitem__)

    def program() -> Any:
        import pulumi

        stacks_main.main("lab")
        return pulumi.Output.all(
            **{key: pulumi.Output.from_input(value.is_secret()) for key, value in exported.items()}
        )

    _, secret = record(program, config=NATS | {"lab:rung": "loopback"}, computed=COMPUTED)
    assert tuple(secret) == EXPORT_KEYS
    assert {key for key, is_secret in secret.items() if is_secret} == set(SECRET_KEYS)


def test_an_unknown_stack_is_answered_with_those_there_are() -> None:
    with pytest.raises(Exception, match="there is no stack 'moon'; there are: aws-us-east-2, do-nyc1, lab, pi-home"):
        stacks_main.main("moon")


def test_a_bad_configuration_is_shown_without_a_traceback() -> None:
    import pulumi

    with pytest.raises(pulumi.RunError, match="lab:agentNat is 'simetric': did you mean 'symmetric'"):
        record(lambda: stacks_main.main("lab"), config=NATS | {"lab:agentNat": "simetric"})


def test_the_program_is_short_and_has_no_branches() -> None:
    text = Path(lab.__file__).read_text()
    assert len(text.splitlines()) <= 80
    assert not [word for word in (" if ", " for ", " while ", " try:", " match ") if word in text.split('"""')[-1]]


@pytest.mark.engine
def test_a_real_preview_plans_every_resource(tmp_path: Path) -> None:
    from infra.engine.workspace import Workspace

    project = tmp_path / "project"
    project.mkdir()
    for name in ("Pulumi.yaml", "__main__.py"):
        shutil.copy(ROOT / name, project / name)
    for name in ("stacks", ".venv"):
        (project / name).symlink_to(ROOT / name)
    config = {"config": NATS | {"lab:rung": "loopback", "lab:run": "preview-test"}}
    (project / "Pulumi.lab.yaml").write_text(json.dumps(config))
    result = Workspace(project, "lab", engine="embedded").preview()
    assert result.changes == {"create": 30}


def test_the_official_cli_is_told_which_toolchain_to_use() -> None:
    """It takes the uv.lock beside the program for a wish to have `uv` on PATH, where the set-up puts none."""
    options = yaml.safe_load((ROOT / "Pulumi.yaml").read_text())["runtime"]["options"]
    assert options == {"toolchain": "pip", "virtualenv": ".venv"}
