"""Prometheus text of counters."""

from dataclasses import dataclass

from ztna.io.metrics import Sample, counters_of, render


@dataclass(slots=True)
class Counters:
    sent_packets: int = 3
    dropped_rate: int = 2
    drop_size: int = 1


def test_text_of_samples() -> None:
    text = render(
        [
            Sample("ztna_relay_bytes_total", "Bytes relayed", 7),
            Sample("ztna_uptime_seconds", "Seconds since start", 1.5, "gauge"),
            Sample("ztna_retry_tokens_validated", "Tokens", 4, "unknown"),
        ]
    ).decode()
    assert "# TYPE ztna_relay_bytes_total counter\nztna_relay_bytes_total 7.0\n" in text
    assert "# TYPE ztna_uptime_seconds gauge\nztna_uptime_seconds 1.5\n" in text
    assert "# TYPE ztna_retry_tokens_validated untyped\nztna_retry_tokens_validated 4.0\n" in text


def test_dropped_counters_become_one_metric_with_reasons() -> None:
    text = render(counters_of("ztna_udp", "UDP socket", Counters())).decode()
    assert "ztna_udp_sent_packets_total 3.0\n" in text
    assert 'ztna_udp_dropped_total{reason="rate"} 2.0\n' in text
    assert 'ztna_udp_dropped_total{reason="size"} 1.0\n' in text
    assert text.count("# TYPE ztna_udp_dropped_total counter") == 1
