"""The stack's topology as SVG: the public segment, the NATs under it, the LANs and hosts under those."""

from dataclasses import dataclass
from html import escape
from typing import Any

Json = dict[str, Any]

_CELL, _BOX_W, _BOX_H, _BAR_H = 170, 150, 46, 26
_ROWS = {"top": 16, "public": 88, "router": 150, "lan": 232, "host": 296}
_HEIGHT = 366


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle with a name and a second line; `kind` is its style class."""

    x: float
    y: float
    name: str
    note: str
    kind: str

    def svg(self) -> str:
        middle = self.x + _BOX_W / 2
        return (
            f'<rect class="box {self.kind}" x="{self.x:.0f}" y="{self.y:.0f}" '
            f'width="{_BOX_W}" height="{_BOX_H}" rx="8"/>'
            f'<text class="name" x="{middle:.0f}" y="{self.y + 20:.0f}" text-anchor="middle">{escape(self.name)}</text>'
            f'<text class="note" x="{middle:.0f}" y="{self.y + 36:.0f}" text-anchor="middle">{escape(self.note)}</text>'
        )


def topology_svg(topology: Json) -> str:
    """A drawing of `StackOutputs.topology` (segments, routers, hosts); empty text when it has no segments."""
    segments = {str(segment["name"]): str(segment.get("cidr", "")) for segment in topology.get("segments", [])}
    if not segments:
        return ""
    routers, hosts = list(topology.get("routers", [])), list(topology.get("hosts", []))
    inside = {str(link["segment"]) for router in routers for link in router.get("inside", [])}
    top = next((name for name in segments if name not in inside), next(iter(segments)))
    columns = _columns([name for name in segments if name != top], hosts)
    public_hosts = [host for host in hosts if _segment_of(host) == top]
    width = max([end for _, end in columns.values()] + [_CELL * max(len(public_hosts), 1)])
    parts = [_bar(0, width, _ROWS["public"], f"{top}  {segments[top]}")]
    parts += _row(public_hosts, width, _ROWS["top"], _ROWS["top"] + _BOX_H, _ROWS["public"])
    for name, (start, end) in columns.items():
        parts.append(_bar(start + 8, end - 8, _ROWS["lan"], f"{name}  {segments[name]}"))
        members = [host for host in hosts if _segment_of(host) == name]
        parts += _row(members, end - start, _ROWS["host"], _ROWS["lan"] + _BAR_H, _ROWS["host"], offset=start)
        parts += [_router(router, start, end) for router in routers if name in _inside(router)]
    title = "Topology of the stack"
    return (
        f'<svg class="topology" viewBox="-8 0 {width + 16:.0f} {_HEIGHT}" role="img" aria-label="{title}">'
        f"<title>{title}</title>{''.join(parts)}</svg>"
    )


def _columns(lans: list[str], hosts: list[Json]) -> dict[str, tuple[float, float]]:
    """The horizontal extent of each LAN, as wide as its hosts need."""
    columns: dict[str, tuple[float, float]] = {}
    start = 0.0
    for name in lans:
        end = start + _CELL * max(1, sum(_segment_of(host) == name for host in hosts))
        columns[name] = (start, end)
        start = end
    return columns


def _segment_of(host: Json) -> str:
    links = host.get("links") or [{}]
    return str(links[0].get("segment", ""))


def _inside(router: Json) -> list[str]:
    return [str(link["segment"]) for link in router.get("inside", [])]


def _address(link: Json) -> str:
    return str(link.get("address", "")).partition("/")[0]


def _row(
    hosts: list[Json], width: float, y: float, line_from: float, line_to: float, *, offset: float = 0.0
) -> list[str]:
    """Hosts evenly over `width`, each with a line to its segment's bar."""
    parts = []
    for number, host in enumerate(hosts):
        middle = offset + width * (number + 0.5) / len(hosts)
        links = host.get("links") or [{}]
        parts.append(_line(middle, line_from, line_to, _impairment(links[0])))
        parts.append(Box(middle - _BOX_W / 2, y, str(host.get("name", "")), _address(links[0]), "host").svg())
    return parts


def _router(router: Json, start: float, end: float) -> str:
    middle = (start + end) / 2
    nat = router.get("nat") or []
    kind = "nat" if nat else "router"
    box = Box(
        middle - _BOX_W / 2, _ROWS["router"], str(router.get("name", "")), _address(router.get("outside", {})), kind
    )
    label = " + ".join(_nat_words(level) for level in nat)
    below = _ROWS["router"] + _BOX_H + 13
    text = f'<text class="note" x="{middle + 8:.0f}" y="{below}">{escape(label)}</text>'
    up = _line(middle, _ROWS["public"] + _BAR_H, _ROWS["router"], _impairment(router.get("outside", {})))
    return up + _line(middle, _ROWS["router"] + _BOX_H, _ROWS["lan"], "") + box.svg() + text


def _nat_words(level: Any) -> str:
    if not isinstance(level, dict):
        return str(level)
    short = {"endpoint-independent": "EI", "address-dependent": "AD", "address-and-port-dependent": "APD"}
    mapping, filtering = str(level.get("mapping", "?")), str(level.get("filtering", "?"))
    return f"{short.get(mapping, mapping)}M / {short.get(filtering, filtering)}F"


def _impairment(link: Json) -> str:
    """What the link does to packets, in a few words."""
    words = []
    for direction, arrow in (("up", "↑"), ("down", "↓")):
        effect = link.get(direction) or {}
        parts = []
        if effect.get("delay_ms"):
            parts.append(f"{effect['delay_ms']:g} ms")
        if effect.get("loss"):
            parts.append(f"{effect['loss'] * 100:g} % loss")
        if effect.get("rate_bps"):
            parts.append(f"{effect['rate_bps'] / 1e6:g} Mbit/s")
        if parts:
            words.append(f"{arrow} {', '.join(parts)}")
    return "  ".join(words)


def _bar(start: float, end: float, y: float, label: str) -> str:
    return (
        f'<rect class="segment" x="{start:.0f}" y="{y:.0f}" width="{end - start:.0f}" height="{_BAR_H}" rx="5"/>'
        f'<text class="segment-name" x="{(start + end) / 2:.0f}" y="{y + 17:.0f}" text-anchor="middle">'
        f"{escape(label)}</text>"
    )


def _line(x: float, y1: float, y2: float, label: str) -> str:
    text = f'<text class="note" x="{x + 6:.0f}" y="{(y1 + y2) / 2 + 4:.0f}">{escape(label)}</text>' if label else ""
    return f'<line class="wire" x1="{x:.0f}" x2="{x:.0f}" y1="{y1:.0f}" y2="{y2:.0f}"/>{text}'
