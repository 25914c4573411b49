"""Access to a lab from the shell: `python -m infra.lab exec --run lab agent -- ping 172.20.0.2`.

Commands: exec, start, stop, kill, restart, router, list, reap. Exit codes: 0 done, 1 the lab cannot (the reason is on
standard error), 2 wrong usage; `exec` ends as its command does.
"""

import argparse
import json
import os
import sys
from typing import Any


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m infra.lab", description="Access to a lab on this machine.")
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, text: str, *, run: bool = True) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.add_argument("--run", required=run, default=None, help="name of the lab run")
        return sub

    exec_ = command("exec", "Run a command in a host.")
    exec_.add_argument("host")
    exec_.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- command", help="the command and its arguments")
    for name, text in (
        ("start", "Start a stopped daemon of a host."),
        ("stop", "Stop a daemon: TERM, and KILL after the grace."),
        ("kill", "KILL a daemon."),
        ("restart", "Stop a daemon and start it again."),
    ):
        sub = command(name, text)
        sub.add_argument("host")
        sub.add_argument("process")
    router = command("router", "Bring a router to a specification (JSON, as in the topology of a stack's outputs).")
    router.add_argument("spec")
    command("list", "Show runs, hosts and daemons as JSON.", run=False)
    command("reap", "Remove runs whose owner died; with --run, that run, whoever owns it.", run=False)
    return parser


def _exec(arguments: argparse.Namespace) -> int:
    from infra.lab.errors import tool_environment
    from infra.lab.runtime import Lab

    argv = arguments.argv[1:] if arguments.argv[:1] == ["--"] else arguments.argv
    if not argv:
        print("exec: give a command after --", file=sys.stderr)
        return 2
    command = [*Lab(arguments.run).exec_prefix(arguments.host), *argv]
    try:
        os.execvpe(command[0], command, tool_environment())  # noqa: S606 - a list, no shell
    except OSError as error:
        print(f"cannot run {command[0]!r}: {error.strerror}", file=sys.stderr)
        return 127


def _control(arguments: argparse.Namespace) -> int:
    from infra.lab.runtime import Lab

    lab = Lab(arguments.run)
    lab.require_process(arguments.host, arguments.process)
    getattr(lab, arguments.command)(arguments.host, arguments.process)
    return 0


def _router(arguments: argparse.Namespace) -> int:
    from infra.lab.runtime import Lab
    from infra.lab.topology import Router

    lab = Lab(arguments.run, persistent=True)
    lab.record()
    lab.ensure_router(Router.from_spec(json.loads(arguments.spec)))
    return 0


def _list(arguments: argparse.Namespace) -> int:
    from infra.lab import state
    from infra.lab.process import is_alive
    from infra.lab.runtime import Lab

    runs: list[dict[str, Any]] = []
    for name in [arguments.run] if arguments.run else state.known_runs():
        record = Lab(name).record()
        runs.append(
            {
                "run": name,
                "rung": record.rung.value,
                "persistent": record.persistent,
                "in_use": state.in_use(record),
                "segments": sorted(record.segments),
                "nodes": {node: {"kind": item.kind, "ready": item.ready} for node, item in record.nodes.items()},
                "processes": [
                    {
                        "host": item.host,
                        "name": item.name,
                        "pid": item.pid,
                        "running": is_alive(item.pid, item.start_time),
                        "log": item.log_path,
                    }
                    for item in record.processes.values()
                ],
            }
        )
    print(json.dumps(runs, indent=2))
    return 0


def _reap(arguments: argparse.Namespace) -> int:
    from infra.lab.reap import reap_stale
    from infra.lab.runtime import Lab

    if arguments.run:
        Lab(arguments.run).destroy()
        return 0
    for name in reap_stale():
        print(f"removed what was left of run {name}")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    from infra.lab.errors import LabError

    arguments = _parser().parse_args(argv)
    handler = {"exec": _exec, "list": _list, "reap": _reap, "router": _router}.get(arguments.command, _control)
    try:
        return handler(arguments)
    except (LabError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
