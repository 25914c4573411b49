"""Processes of the twin that make namespaces themselves: with the network of a host, and this machine's own mounts.

Those that `Lab.spawn` starts have a mount namespace of their own: a network namespace that is made there has a name
that nobody else sees.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from infra.lab import state
from infra.lab.errors import LabError
from infra.lab.netns import Place
from infra.lab.plan import namespace
from infra.lab.process import is_alive, launch
from infra.lab.state import ProcessRecord
from infra.twin.site import Site

ROOT: Final = Path(__file__).resolve().parents[2]


def ensure(site: Site, host: str, name: str, argv: Sequence[str]) -> None:
    """Start a process of a host, unless it runs. It goes with the host and with the run.

    Raises:
        LabError: there is no such run or host, or the command cannot be run.
    """
    run, key = site.run, f"{host}/{name}"
    with state.locked(run):
        record = state.load(run)
        if record is None or host not in record.nodes:
            raise LabError(f"lab run {run!r} has no host {host!r} for the process {name!r}: run up again")
        old = record.processes.get(key)
        if old is not None and is_alive(old.pid, old.start_time):
            return
        log = state.run_dir(run) / "log" / f"{host}-{name}.log"
        env = {"ZTNA_LAB_STATE": str(state.base_dir())}
        command = [*Place().quick(namespace(run, host)), *argv]
        info = launch(command, env=env, cwd=str(ROOT), log_path=log, run_dir=state.run_dir(run))
        record.processes[key] = ProcessRecord(
            host, name, command, env, str(ROOT), str(log), info.pid, info.start_time
        )  # fmt: skip
        state.save(record)
