"""Replacement parts of aioquic's connection, alone."""

from aioquic import tls
from aioquic.quic.packet import QuicPacketType
from aioquic.quic.packet_builder import QuicSentPacket

from ztna.io.quic_parts import FRAME_TABLE, BatchPacer, SizeAwareReno


def packet(number: int, size: int, sent_time: float = 1.0) -> QuicSentPacket:
    return QuicSentPacket(
        epoch=tls.Epoch.ONE_RTT,
        in_flight=True,
        is_ack_eliciting=True,
        is_crypto_packet=False,
        packet_number=number,
        packet_type=QuicPacketType.ONE_RTT,
        sent_bytes=size,
        sent_time=sent_time,
    )


def sent(reno: SizeAwareReno, *packets: QuicSentPacket) -> None:
    for each in packets:
        reno.on_packet_sent(packet=each)


def test_lost_size_probe_is_no_congestion() -> None:
    reno = SizeAwareReno(max_datagram_size=1200)
    window = reno.congestion_window
    probe = packet(1, 1350)
    sent(reno, probe)
    reno.on_packets_lost(now=2.0, packets=[probe])
    assert (reno.congestion_window, reno.bytes_in_flight, reno.large_lost) == (window, 0, 0)


def test_lost_data_is_congestion_and_large_losses_in_a_row_are_counted() -> None:
    reno = SizeAwareReno(max_datagram_size=1350)
    window = reno.congestion_window
    large, small = packet(1, 1340, sent_time=5.0), packet(2, 300, sent_time=5.1)
    sent(reno, large, small)
    reno.on_packets_lost(now=6.0, packets=[large])
    assert reno.congestion_window == window // 2
    assert (reno.large_lost, reno.large_lost_since, reno.small_passed) == (1, 5.0, False)
    reno.on_packet_acked(now=6.1, packet=small)
    assert reno.small_passed
    again = packet(3, 1340)
    sent(reno, again)
    reno.on_packet_acked(now=6.2, packet=again)
    assert reno.large_lost == 0


def test_packets_given_up_on_a_probe_timeout_count_too() -> None:
    reno = SizeAwareReno(max_datagram_size=1350)
    lost = [packet(number, 1340) for number in range(4)]
    sent(reno, *lost)
    reno.on_packets_expired(packets=iter(lost))
    assert (reno.large_lost, reno.bytes_in_flight) == (4, 0)


def test_pacer_reaches_its_rate_with_a_timer_of_one_millisecond() -> None:
    pacer = BatchPacer(max_datagram_size=1200)
    pacer.update_rate(congestion_window=24_000, smoothed_rtt=0.001)
    now, packets = 1.0, 0
    for _ in range(100):
        now += 0.001
        while pacer.next_send_time(now=now) is None:
            pacer.update_after_send(now=now)
            packets += 1
    assert 1900 <= packets <= 2100


def test_slow_pacer_lets_no_more_than_the_initial_window_out_at_once() -> None:
    pacer = BatchPacer(max_datagram_size=1200)
    pacer.update_rate(congestion_window=12_000, smoothed_rtt=0.5)
    burst = 0
    while pacer.next_send_time(now=100.0) is None:
        pacer.update_after_send(now=100.0)
        burst += 1
    assert burst in (10, 11)


def test_epochs_hash_consistently() -> None:
    assert len(set(tls.Epoch)) == len(tls.Epoch)
    assert all(epoch in {epoch: 1} for epoch in tls.Epoch)
    assert tls.Epoch.ONE_RTT in FRAME_TABLE[0x31][1]
    assert tls.Epoch.INITIAL not in FRAME_TABLE[0x31][1]
