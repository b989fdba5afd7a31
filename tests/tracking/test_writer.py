import logging
import threading
import time

import pytest

from kdflow.errors import KdflowError
from kdflow.tracking.writer import BATCH, Writer


def test_values_arrive_in_order_and_in_batches():
    sent: list[list[int]] = []
    writer: Writer[int] = Writer(lambda values: sent.append(list(values)), full=10_000)
    writer.add(range(BATCH + 5))
    assert sent == []
    writer.close()
    assert [len(batch) for batch in sent] == [BATCH, 5]
    assert [value for batch in sent for value in batch] == list(range(BATCH + 5))


def test_a_full_buffer_is_sent_without_waiting_for_the_store():
    gate = threading.Event()
    sent: list[int] = []

    def slow(values):
        gate.wait(5)
        sent.extend(values)

    writer: Writer[int] = Writer(slow, full=2)
    began = time.monotonic()
    for value in range(6):
        writer.add([value])
    assert time.monotonic() - began < 1
    assert sent == []
    gate.set()
    writer.close()
    assert sent == list(range(6))


def test_old_values_are_sent_although_they_are_few():
    sent: list[int] = []
    writer: Writer[int] = Writer(sent.extend, full=100, seconds=0.0)
    writer.add([1])
    assert writer.finish()
    assert sent == [1]
    writer.close()


def test_a_batch_that_is_refused_is_sent_again_in_order(caplog: pytest.LogCaptureFixture):
    calls: list[list[int]] = []

    def refuses_once(values):
        calls.append(list(values))
        if len(calls) == 1:
            raise OSError("database is locked")

    writer: Writer[int] = Writer(refuses_once, full=2)
    with caplog.at_level(logging.WARNING, "kdflow.tracking"):
        writer.add([1, 2])
        writer.add([3])
        writer.close()
    assert calls[0] == [1, 2]
    assert calls[1] == [1, 2, 3]
    assert "database is locked" in caplog.text


def test_what_a_batch_did_not_reach_is_kept():
    calls: list[int] = []

    def refuses_the_second(values):
        calls.append(len(values))
        if len(calls) == 2:
            raise OSError("gone")

    writer: Writer[int] = Writer(refuses_the_second, full=10_000)
    writer.add(range(2 * BATCH))
    writer.close()
    assert calls == [BATCH, BATCH, BATCH], "the first batch is not sent twice"


def test_values_that_never_arrive_are_counted_in_the_error(monkeypatch):
    monkeypatch.setattr("kdflow.tracking.writer.time.sleep", lambda seconds: None)

    def refuses(values):
        raise OSError("no space left\non device")

    writer: Writer[int] = Writer(refuses)
    writer.add([1, 2, 3])
    assert not writer.finish()
    with pytest.raises(KdflowError, match=r"3 values could not be written to the tracking store: no space left$"):
        writer.close()


def test_nothing_to_send_makes_no_thread():
    before = threading.active_count()
    writer: Writer[int] = Writer(lambda values: None)
    writer.close()
    assert threading.active_count() == before
