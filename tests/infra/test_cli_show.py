"""What `up` prints of a cloud stack: how its agents get their files, and which path their traffic can take."""

import io
from dataclasses import replace

from rich.console import Console

from infra.cli_show import prediction_lines, show_stack, usage_lines
from infra.config_overlay import OverlaySettings, service_settings
from infra.outputs import PathPrediction, Place, StackOutputs
from infra.overlay import Overlay

SERVICES = (
    service_settings("echo-service", "127.0.0.1:9999", "udp/9999", "icmp"),
    service_settings("http-app", "127.0.0.1:8080", "tcp/80"),
)
OVERLAY = Overlay(
    stack="do-nyc1",
    run="do-nyc1",
    settings=OverlaySettings(services=SERVICES, agents=("laptop",), run="do-nyc1"),
)


def outputs() -> StackOutputs:
    """Return a stack with one agent elsewhere, whose path depends on its NAT."""
    direct = PathPrediction(
        service="http-app", connector="connector", peer_nat="public", path="direct", reason="The connector is public."
    )
    predicted = [
        direct,
        replace(direct, peer_nat="full-cone"),
        replace(direct, peer_nat="udp-blocked", path="none", reason="No UDP leaves."),
    ]
    return OVERLAY.outputs("203.0.113.5", ca_pem="CA", profiles={}, expected_path=predicted)


def test_an_agent_elsewhere_is_given_its_files_and_not_reached_by_exec() -> None:
    lines = list(usage_lines(outputs()))
    assert lines[:4] == [
        "ztna profile laptop --stack do-nyc1 --out laptop",
        "ztna agent --config agent.json   on laptop, with the files of laptop/",
        "ping -c 3 100.64.0.100   on laptop",
        "curl http://100.64.0.101/get   on laptop",
    ]
    assert not [line for line in lines if "ztna exec" in line]


def test_an_agent_in_a_place_of_the_stack_is_reached_by_exec() -> None:
    stack = outputs()
    placed = replace(
        stack,
        agents=(replace(stack.agents[0], place="agent"),),
        places={"agent": Place(kind="agent", address="192.0.2.1")},
    )
    assert next(iter(usage_lines(placed))) == "ztna exec --stack do-nyc1 agent -- ping -c 3 100.64.0.100"


def test_agents_that_fare_alike_share_a_line() -> None:
    assert list(prediction_lines(outputs())) == [
        "Path possible to http-app - connector: direct for agents behind public, full-cone (The connector is public)",
        "Path possible to http-app - connector: none for agents behind udp-blocked (No UDP leaves)",
    ]


def test_all_of_it_is_printed() -> None:
    out = io.StringIO()
    show_stack(outputs(), Console(file=out, width=200))
    assert "Path possible to http-app" in out.getvalue()
    assert "ztna profile laptop" in out.getvalue()
