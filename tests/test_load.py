"""Many streams at once between two processes on loopback: the server is this file, run as a program."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from random import Random

import pytest
import uvloop
from click.testing import CliRunner

import eloquent
from eloquent.protocol.content import encode
from netem.__main__ import main

STREAMS = 200
RATE = 50.0  # tokens per second of each stream
TIMEOUT_S = 120.0  # for what must happen; nothing waits that long unless it fails

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
COST_KEYS = {
    "cpu_us_per_token",
    "cpu_us_per_token_net",
    "datagrams_per_token",
    "acks_per_token",
    "p50_ms",
    "p99_ms",
    "client_cpu_share",
}
ALPHABET = "etaoin shrdlu \u00e9\u4e16\U0001f642\n\0"


def answer_tokens(seed: int, count: int) -> list[bytes]:
    """The same in both processes; tokens of 1 to 12 bytes, of which some end inside a character."""
    random = Random(seed)
    text = "".join(random.choices(ALPHABET, k=6 * count)).encode()
    tokens = []
    for _ in range(count - 1):
        size = random.randint(1, 12)
        tokens.append(text[:size])
        text = text[size:]
    return [token for token in [*tokens, text] if token]


async def answer(stream: eloquent.ServerStream) -> AsyncIterator[bytes]:
    prompt = await stream.prompt()
    assert isinstance(prompt, str)
    seed, count = map(int, prompt.split())
    loop = asyncio.get_running_loop()
    start = loop.time()
    for number, token in enumerate(answer_tokens(seed, count)):
        await asyncio.sleep(max(start + number / RATE - loop.time(), 0.0))
        yield token


async def serve(connections: int) -> None:
    async with eloquent.serve(
        answer, "127.0.0.1", 0, keys=eloquent.KeyRing.generate(Random(1).randbytes)
    ) as server:
        for _ in range(connections):
            print(server.issue(), flush=True)
        # The parent closes its end when it is done.
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


@contextmanager
def server_process(loop: str, connections: int) -> Iterator[list[str]]:
    """Tickets of a server in a process of its own."""
    command = [sys.executable, __file__, loop, str(connections)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield [process.stdout.readline().strip() for _ in range(connections)]
            process.stdin.close()
            assert process.wait(TIMEOUT_S) == 0
        finally:
            process.kill()


async def ask(connection: eloquent.Connection, seed: int, count: int) -> None:
    tokens = answer_tokens(seed, count)
    async with connection.ask(f"{seed} {count}") as reply:
        text = await reply.read()
        # `is_complete`: the digest of the log that came is that of the log that was sent.
        assert reply.is_complete, f"seed {seed}"
        assert text.encode() == b"".join(tokens), f"seed {seed}"
        assert reply.offset == sum(len(encode(token)) for token in tokens), f"seed {seed}"


async def converse(ticket: str, seeds: range, count: int) -> None:
    async with eloquent.connect(ticket, timeout=TIMEOUT_S) as connection:
        await asyncio.gather(*(ask(connection, seed, count) for seed in seeds))


def check(loop: str, *, connections: int, tokens: int) -> None:
    each = STREAMS // connections

    async def ask_all(tickets: list[str]) -> None:
        async with asyncio.timeout(TIMEOUT_S), asyncio.TaskGroup() as group:
            for number, ticket in enumerate(tickets):
                group.create_task(converse(ticket, range(number * each, (number + 1) * each), tokens))

    with server_process(loop, connections) as tickets, asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(ask_all(tickets))


@pytest.mark.parametrize("loop", LOOPS)
def test_every_log_of_200_streams_at_once_arrives_byte_by_byte(loop: str) -> None:
    check(loop, connections=40, tokens=50)


@pytest.mark.slow
@pytest.mark.parametrize("connections", [20, 200])
@pytest.mark.parametrize("loop", LOOPS)
def test_200_streams_for_10_seconds(loop: str, connections: int) -> None:
    check(loop, connections=connections, tokens=500)


@pytest.mark.slow
def test_the_cost_benchmark_reports_what_its_page_says() -> None:
    options = [
        "--streams",
        "20",
        "--streams-per-connection",
        "2",
        "--seconds",
        "0.5",
        "--runs",
        "1",
        "--json",
    ]
    result = CliRunner().invoke(main, ["cost", *options], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    rows = json.loads(result.stdout)["rows"]
    assert [(row["loop"], row["streams"]) for row in rows] == [("asyncio", 20), ("uvloop", 20)]
    for row in rows:
        assert row.keys() >= COST_KEYS
        assert row["plain_us_per_token"] > 0
        assert 0 < row["cpu_us_per_token_net"] < row["cpu_us_per_token"]
        assert 0 < row["p50_ms"] <= row["p99_ms"]
        # Two streams share a datagram at best, and what comes late rides with the next token.
        assert 0.1 < row["datagrams_per_token"] < 2
        assert 0.01 < row["acks_per_token"] < row["datagrams_per_token"]
        assert 0 < row["client_cpu_share"] < 1


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=LOOPS[sys.argv[1]]) as runner:
        runner.run(serve(int(sys.argv[2])))
