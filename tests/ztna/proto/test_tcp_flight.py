"""Transmissions in the network: what later deliveries say about earlier ones."""

from ztna.proto.tcp_flight import Flight, Transmission


def fly(flight: Flight, count: int, now: float = 0.0) -> list[Transmission]:
    records = [Transmission(1 + 100 * n, 101 + 100 * n, now) for n in range(count)]
    for record in records:
        flight.enter(record, now)
    return records


def test_three_later_deliveries_make_a_loss() -> None:
    flight = Flight()
    records = fly(flight, 6)
    assert flight.bytes == 600
    for record in records[1:3]:
        flight.delivered(record, 0.1, 0.0)
        assert not flight.lose_overtaken()
    flight.delivered(records[3], 0.1, 0.0)
    assert flight.lose_overtaken()
    assert flight.first_lost() is records[0]
    assert flight.bytes == 200
    assert len(flight) == 2


def test_lost_retransmission_is_lost_again() -> None:
    flight = Flight()
    records = fly(flight, 8)
    for record in records[1:4]:
        flight.delivered(record, 0.1, 0.05)
    flight.lose_overtaken()
    again = flight.first_lost()
    assert again is records[0]
    again.retransmitted = True
    flight.enter(again, 0.1)
    assert flight.first_lost() is None
    later = [Transmission(801 + 100 * n, 901 + 100 * n, 0.1) for n in range(3)]
    for record in later:
        flight.enter(record, 0.1)
    for record in (*records[4:8], *later):
        flight.delivered(record, 0.2, 0.05)
    assert flight.lose_overtaken()
    assert flight.first_lost() is records[0]


def test_delivery_sooner_than_a_round_trip_proves_nothing_of_the_retransmission() -> None:
    flight = Flight()
    records = fly(flight, 4)
    flight.lose(records[0])
    records[0].retransmitted = True
    flight.enter(records[0], 0.1)
    flight.delivered(records[0], 0.11, 0.05)
    assert not flight.lose_overtaken()
    assert len(flight) == 3


def test_time_out_loses_everything_and_reneged_deliveries_too() -> None:
    flight = Flight()
    records = fly(flight, 3)
    flight.delivered(records[0], 0.1, 0.0)
    records[0].delivered = True
    flight.lose_all(1)
    starts = []
    while (record := flight.first_lost()) is not None:
        starts.append(record.start)
        flight.enter(record, 0.2)
    assert starts == [1, 101, 201]
    assert flight.bytes == 300


def test_large_segment_is_split_when_sent_again() -> None:
    flight = Flight()
    record = fly(flight, 1)[0]
    flight.lose(record)
    flight.split(record, 60)
    assert (record.start, record.end) == (1, 61)
    flight.enter(record, 0.1)
    rest = flight.first_lost()
    assert rest is not None
    assert (rest.start, rest.end) == (61, 101)


def test_partly_acknowledged_segment_keeps_its_rest() -> None:
    flight = Flight()
    record = flight.records.pop(fly(flight, 1)[0].start)
    flight.shorten(record, 41)
    assert flight.bytes == 60
    assert flight.records[41] is record
    lost = flight.records.pop(41)
    flight.lose(lost)
    flight.shorten(lost, 81)
    assert flight.first_lost() is lost


def test_latest_transmission_can_be_taken_back() -> None:
    flight = Flight()
    assert flight.take_latest() is None
    records = fly(flight, 3)
    assert flight.take_latest() is records[2]
    assert flight.bytes == 200
    assert flight.starts_between(1, 300) == [101, 201]
