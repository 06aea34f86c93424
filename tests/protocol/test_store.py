"""Where logs wait for a resumption, and the streams of a group."""

import pytest

from eloquent.errors import StreamStopped, UsageError
from eloquent.protocol.streams import LogGroup
from eloquent.store import RETENTION, MemoryStore


def group_of(*answers: bytes, name: bytes = b"group", has_ended: bool = False) -> LogGroup:
    group = LogGroup(name, is_client=False)
    for stream_id, answer in enumerate(answers):
        stream = group.accept(stream_id)
        assert stream is not None
        stream.write(answer, now=0.0)
        if has_ended:
            stream.finish()
    return group


def store_of(*groups: LogGroup) -> MemoryStore:
    store = MemoryStore()
    for group in groups:
        store.add(group)
    return store


def test_a_group_is_found_by_its_id() -> None:
    group = group_of()
    store = store_of(group, group_of(name=b"another"))
    assert store.get(b"group") is group
    assert store.get(b"unknown") is None
    assert store.kept_groups == 2


def test_a_group_that_nobody_comes_back_for_is_let_go_after_5_minutes() -> None:
    store = store_of(group_of(b"answer", has_ended=True))
    group = store.get(b"group")
    assert group is not None
    store.detach(group, now=100.0)
    store.expire(now=100.0 + RETENTION - 0.1)
    assert store.get(b"group") is group
    # protocol 7: the log stays 5 minutes
    assert RETENTION == 300
    store.expire(now=100.0 + RETENTION)
    assert store.get(b"group") is None
    assert store.kept_groups == store.kept_bytes == 0


def test_a_group_in_use_stays() -> None:
    group = group_of(b"answer")
    store = store_of(group)
    store.expire(now=1e6)
    assert store.get(b"group") is group
    store.detach(group, now=100.0)
    store.retain(group)
    store.expire(now=1e6)
    assert store.get(b"group") is group


def test_the_time_runs_from_the_last_connection() -> None:
    group = group_of(b"answer")
    store = store_of(group)
    store.detach(group, now=100.0)
    store.retain(group)
    store.detach(group, now=300.0)
    store.expire(now=500.0)
    assert store.get(b"group") is group


def test_answers_that_go_on_without_a_client() -> None:
    running, done = group_of(b"answer"), group_of(b"answer", name=b"done", has_ended=True)
    store = store_of(running, done, group_of(b"answer", name=b"attended"))
    store.detach(running, now=100.0)
    store.detach(done, now=100.0)
    assert store.running(detached_before=99.0) == []
    assert store.running(detached_before=100.0) == [running]


def test_kept_bytes_are_those_of_all_logs() -> None:
    store = store_of(group_of(b"12345", b"678"), group_of(b"90", name=b"another"))
    store.expire(now=0.0)
    assert store.kept_bytes == 10


def server_group(max_streams: int = 3) -> LogGroup:
    return LogGroup(b"group", is_client=False, max_streams=max_streams)


def end(group: LogGroup, stream_id: int, *, is_acked: bool) -> None:
    """Both sides have said their last word; the peer's acknowledgment may be under way."""
    stream = group.streams[stream_id]
    stream.incoming.on_fin_untrusted(0, 0)
    stream.finish()
    if is_acked:
        stream.outgoing.on_acked(1)


def test_a_client_opens_streams_up_to_the_servers_limit() -> None:
    group = LogGroup(b"group", is_client=True, max_streams=2)
    assert [group.open().id, group.open().id] == [0, 1]
    with pytest.raises(UsageError, match="2 streams"):
        group.open()
    end(group, 0, is_acked=True)
    assert group.open().id == 2


def test_streams_may_arrive_in_any_order() -> None:
    group = server_group()
    assert [group.accept(stream_id) is not None for stream_id in (2, 0, 1)] == [True] * 3
    assert group.next_id == 3
    assert not group.unopened


def test_an_id_works_once() -> None:
    group = server_group()
    group.accept(0)
    group.forget(0)
    assert group.accept(0) is None
    assert group.accept(1) is not None


def test_too_many_streams_are_refused() -> None:
    group = server_group()
    for stream_id in range(3):
        group.accept(stream_id)
    assert group.accept(3) is None
    # The id was not used up: once there is room it works.
    end(group, 0, is_acked=True)
    assert group.accept(3) is not None


def test_a_client_that_saw_an_end_first_may_go_on() -> None:
    group = server_group(max_streams=1)
    group.accept(0)
    end(group, 0, is_acked=False)
    assert group.accept(1) is not None
    end(group, 1, is_acked=False)
    # It cannot go on for ever without acknowledging anything.
    assert group.accept(2) is None


def test_ids_cannot_run_ahead() -> None:
    group = server_group()
    assert group.accept(0) is not None
    assert group.accept(4) is None
    assert group.accept(3) is not None
    assert group.unopened == {1, 2}


def test_the_first_id_of_a_group_may_be_any() -> None:
    group = server_group()
    assert group.accept(500) is not None
    assert group.next_id == 501
    # Streams that were opened shortly before it may still be under way.
    assert group.accept(499) is not None
    assert group.accept(497) is None


def test_ids_that_were_left_out_for_good_block_nothing() -> None:
    group = server_group()
    for stream_id in range(2, 300, 3):
        assert group.accept(stream_id) is not None
        end(group, stream_id, is_acked=True)
        assert len(group.unopened) <= 3
    assert group.accept(294) is None
    assert group.accept(297) is not None


def test_what_a_client_can_make_a_server_remember_is_bounded() -> None:
    group = server_group()
    for stream_id in range(1000):
        if group.accept(stream_id) is not None:
            end(group, stream_id, is_acked=True)
    assert group.next_id == 1000
    assert len(group.streams) <= 12


def test_nothing_is_written_after_a_stop() -> None:
    group = group_of(b"answer")
    stream = group.streams[0]
    stream.stop_received = True
    with pytest.raises(StreamStopped) as stopped:
        stream.write(b"more", now=1.0)
    assert stopped.value.offset == 6


def test_reading_makes_room_for_the_peer() -> None:
    group = group_of(b"")
    stream = group.streams[0]
    stream.incoming.on_tokens_untrusted(0, b"prompt")
    assert group.consumed == 0
    assert stream.read() == b"prompt"
    assert stream.read() == b""
    assert group.consumed == 6


def test_bytes_that_a_stop_makes_superfluous_do_not_use_up_the_connection() -> None:
    group = group_of(b"")
    stream = group.streams[0]
    stream.stop()
    stream.incoming.on_tokens_untrusted(0, b"prom")
    stream.incoming.on_reset_untrusted(1000, 1, is_unwanted=True)
    stream.on_incoming_ended()
    assert not stream.stop_wanted
    assert group.consumed == 1000
