"""Clients that hardly send: they cost next to nothing, they are let go in the end, and others do not notice them."""

import os
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from tests.conftest import UNIT, Daemon, StartDaemon
from tests.uploading import Client, answer_on, content_of, reason, running, sha256

PART = 256 << 10
CROWD = 500
FLAGS = ("--uploads-part-size", str(PART))
SLOW = ("--limits-body-stall-timeout", "0.5", "--limits-body-min-rate", "2000")


@contextmanager
def dribbling(clients: list[socket.socket], pause: float) -> Iterator[None]:
    """Each sends a byte, again and again after ``pause`` seconds, until the end of the block."""
    over = threading.Event()

    def send() -> None:
        while not over.wait(pause):
            for one in clients:
                one.send(b".")

    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(send)
        try:
            yield
        finally:
            over.set()
            sending.result()
            for one in clients:
                one.close()


def threads(daemon: Daemon) -> int:
    return len(os.listdir(f"/proc/{daemon.pid}/task"))


def seconds_of_an_upload(client: Client, target: str, content: bytes) -> float:
    began = time.perf_counter()
    assert client.put(target, content).status == 200
    return time.perf_counter() - began


def test_a_part_slower_than_the_minimum_rate_is_let_go(start_daemon: StartDaemon) -> None:
    client, content = Client(start_daemon(*FLAGS, *SLOW)), content_of(PART)
    session = client.begin("target", PART)
    slow = running(client, session, 0, PART)
    with ThreadPoolExecutor(1) as pool:
        answered = pool.submit(answer_on, slow)
        while not answered.done():
            try:
                slow.send(b".")
            except OSError:
                break
            threading.Event().wait(0.05)
    answer = answered.result()
    assert answer is not None
    assert reason(answer) == (408, "request_timeout")
    assert client.part(session, 0, content).status == 200


def test_a_part_just_above_the_minimum_rate_is_taken(start_daemon: StartDaemon) -> None:
    client, content = Client(start_daemon("--uploads-part-size", "9000", *SLOW)), content_of(9000)
    session = client.begin("target", 9000)
    slow = running(client, session, 0, 9000)
    for start in range(0, 9000, 500):
        slow.sendall(content[start : start + 500])
        threading.Event().wait(0.05)
    answer = answer_on(slow)
    assert answer is not None
    assert answer.status == 200


def test_dribbling_clients_hold_no_turn_of_their_upload(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(*FLAGS, "--uploads-parts-at-once", "2", "--uploads-parts-per-upload", "1")
    client, content = Client(daemon), content_of(20 * PART)
    session = client.begin("target", len(content))
    slow = [running(client, session, number, PART) for number in range(10)]
    with dribbling(slow, 0.05):
        client.send(session, content, range(10, 20))
    client.send(session, content, range(10))
    assert client.complete(session, sha256(content)).status == 200


def test_a_crowd_of_dribbling_clients_is_hardly_noticed(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(*FLAGS)
    client, content = Client(daemon), content_of(40 * PART)
    alone = statistics.median(seconds_of_an_upload(client, f"alone-{n}", content) for n in range(3))
    before = threads(daemon)
    session = client.begin("slow", CROWD * PART)
    crowd = [client.open_part(session, number, PART) for number in range(CROWD)]
    with dribbling(crowd, 1):
        among = statistics.median(seconds_of_an_upload(client, f"among-{n}", content) for n in range(3))
        more = threads(daemon) - before
    print(f"an upload among {CROWD} dribbling clients took {among / alone:.2f} of its time alone; {more} more threads")
    assert among < 5 * alone + UNIT
    assert more <= 16 + 16


def test_a_session_is_shown_quickly_while_all_workers_are_busy(start_daemon: StartDaemon) -> None:
    client, content = Client(start_daemon("--uploads-parts-at-once", "2")), content_of(32 << 20)
    session = client.begin("target", len(content))
    over = threading.Event()

    def send(target: str) -> Any:
        while not over.is_set():
            client.put(target, content)

    with ThreadPoolExecutor(3) as pool:
        busy = [pool.submit(send, f"busy-{n}") for n in range(3)]
        took = sorted(seconds_of_a_status(client, session) for _ in range(100))
        over.set()
        for one in busy:
            one.result()
    print(f"a session among busy workers: median {took[50] * 1000:.1f} ms, slowest of 100 {took[-1] * 1000:.1f} ms")
    assert took[50] < UNIT


def seconds_of_a_status(client: Client, session: Any) -> float:
    began = time.perf_counter()
    client.status(session)
    return time.perf_counter() - began
