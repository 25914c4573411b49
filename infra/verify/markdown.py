"""The report's Markdown pages: results, performance, NAT classification."""

import math
from collections.abc import Iterable, Sequence

from infra.verify.model import NatObservation, Report, Status

_MARK = {
    Status.PASSED: "✓",
    Status.FAILED: "✗ FAILED",
    Status.NOT_SHOWN: "- not shown",
    Status.ERROR: "! could not run",
}

_MEANING = {
    "endpoint-independent": "one public port whoever it talks to: a peer may be told that port and reach it",
    "address-dependent": "another public port for each destination address: what the relay sees is of no use to a peer",
    "address-and-port-dependent": (
        "another public port for each destination: what the relay sees is of no use to a peer (symmetric NAT)"
    ),
}
_FILTERING = {
    "endpoint-independent": "lets anybody in through an open port",
    "address-dependent": "lets in only addresses that were sent to before",
    "address-and-port-dependent": "lets in only the very address and port that were sent to before",
}


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; pipes and line ends inside cells are made harmless."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    return "\n".join([line(header), line(["---"] * len(header)), *(line(row) for row in rows)])


def summary(report: Report) -> str:
    """One sentence with the counts."""
    passed, failed = report.count(Status.PASSED), report.count(Status.FAILED)
    text = f"{passed} of {len(report.results)} checks passed, {failed} failed"
    if errors := report.count(Status.ERROR):
        text += f", {errors} could not run"
    if unseen := report.count(Status.NOT_SHOWN):
        text += f", {unseen} this stack cannot show"
    return f"{text}, in {report.seconds:.0f} s."


def results(report: Report) -> str:
    """results.md: each check with the measured value beside the expected one."""
    rows = [
        (_MARK[entry.result.status], entry.title, entry.result.measured, entry.result.expected, f"{entry.seconds:.1f}")
        for entry in report.results
    ]
    parts = [_head("Verification", report), summary(report)]
    parts.append(table(("", "check", "measured", "expected", "seconds"), rows))
    details = [
        f"- **{entry.title}** ({entry.result.status.value}): {entry.result.detail}"
        for entry in report.results
        if entry.result.detail and entry.result.status is not Status.PASSED
    ]
    if details:
        parts.append("## Why\n\n" + "\n".join(details))
    if report.limits:
        parts.append("## What this stack cannot show\n\n" + "\n".join(f"- {limit}" for limit in report.limits))
    services = [
        (str(service["id"]), str(service["virtual_ip"]), ", ".join(service["ports"]), str(service["backend"]))
        for service in report.services
    ]
    parts.append("## Services\n\n" + table(("service", "virtual address", "ports", "backend"), services))
    return "\n\n".join(parts) + "\n"


def performance(report: Report) -> str:
    """performance.md: latency and throughput beside the untunnelled baseline, with the conditions."""
    parts = [_head("Performance", report)]
    if report.latency:
        rows = [
            (series.path, str(series.size_bytes), str(len(series.rtt_us)), str(series.lost), ms(series.p50_us),
             ms(series.p99_us))
            for series in report.latency
        ]  # fmt: skip
        header = ("path", "payload bytes", "answers", "lost", "RTT p50 ms", "RTT p99 ms")
        parts.append("## Latency\n\n" + table(header, rows) + _ratio_latency(report))
    if report.throughput:
        rows = [
            (series.path, str(series.size_bytes), f"{series.packets_per_s:,.0f}", f"{series.mbit_per_s:.1f}",
             str(series.lost), str(series.sent))
            for series in report.throughput
        ]  # fmt: skip
        header = ("path", "payload bytes", "packets/s", "Mbit/s", "lost", "sent")
        parts.append("## Throughput\n\n" + table(header, rows) + _ratio_throughput(report))
    if len(parts) == 1:
        parts.append("Nothing was measured: no echo service could be reached.")
    ways = [f"- {series.path}: {series.description}" for series in report.latency]
    parts.append("## What was compared\n\n" + "\n".join(ways) + "\n\n" + _METHOD)
    parts.append("## Conditions\n\n" + table(("", ""), list(report.conditions.items())))
    return "\n\n".join(parts) + "\n"


_METHOD = """Overlay and baseline are probed by the same program from the same place, in turns, and the first round of
each is dropped. Latency: one UDP packet at a time. Throughput: 64 packets outstanding to an echo service, counted as
the answers arrive, so that each counted packet crossed the path in both directions."""


def _ratio_latency(report: Report) -> str:
    by_path = {series.path: series for series in report.latency}
    if len(by_path) < 2:
        return "\n\nNo untunnelled baseline in this stack."
    overlay, baseline = by_path["overlay"], by_path["untunnelled"]
    return f"\n\nThe overlay adds {ms(overlay.p50_us - baseline.p50_us)} ms at p50 and {ms(overlay.p99_us - baseline.p99_us)} ms at p99."  # noqa: E501


def _ratio_throughput(report: Report) -> str:
    by_path = {series.path: series for series in report.throughput}
    if len(by_path) < 2 or not by_path["untunnelled"].packets_per_s:
        return ""
    share = by_path["overlay"].packets_per_s / by_path["untunnelled"].packets_per_s
    return f"\n\nThe overlay delivers {share:.1%} of the untunnelled packets per second."


def nat_classification(report: Report) -> str:
    """nat-classification.md: each side's NAT as configured, as found, and what it means."""
    parts = [_head("NAT classification", report)]
    if not report.nat:
        parts.append("No place of this stack has a NAT in front of it, or it was not asked.")
    for seen in report.nat:
        rows = [
            ("mapping", seen.expected_mapping, seen.mapping),
            ("filtering", seen.expected_filtering, seen.filtering),
            ("public address", seen.public_address, seen.observed_address or "-"),
            ("ports seen", "-", ", ".join(map(str, seen.ports_seen)) or "-"),
        ]
        parts.append(f"## {seen.place}\n\n" + table(("", "configured", "found"), rows) + "\n\n" + plain_words(seen))
    parts.append("Words of RFC 4787; found by the tests of RFC 5780 against the stack's own relay.")
    return "\n\n".join(parts) + "\n"


def plain_words(seen: NatObservation) -> str:
    """What this NAT is and what follows, for people who have never read an RFC."""
    mapping = _MEANING.get(seen.mapping, "a mapping that could not be found out")
    filtering = _FILTERING.get(seen.filtering, "filters in a way that could not be found out")
    direct = seen.mapping == "endpoint-independent"
    verdict = "Direct paths are possible with most peers." if direct else "Expect the relay, unless the peer is public."
    return f"This NAT gives {mapping}; it {filtering}. {verdict}"


def ms(value_us: float) -> str:
    """Microseconds as milliseconds with two decimals, a dash for nan."""
    return "-" if math.isnan(value_us) else f"{value_us / 1000:.2f}"


def _head(title: str, report: Report) -> str:
    return f"# {title}: stack {report.stack}\n\nRun {report.run or '-'}, {report.started_at}."
