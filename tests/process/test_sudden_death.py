"""A daemon that is killed, or told to end, in the middle of parts."""

import random
import signal
import socket
import time

import pytest

from tests.conftest import UNIT, Daemon
from tests.process.harness.crowd import Crowd
from tests.process.harness.sender import Sender
from tests.process.harness.shapes import CONTENT, PART_SIZE
from tests.process.harness.site import Site
from tests.process.harness.waiting import eventually

LARGE = ("--uploads-quota-bytes", "64MiB")
DEATHS = 5


@pytest.mark.parametrize(("seed", "durability"), [(1, "process"), (2, "power")])
def test_no_accepted_part_is_lost_however_often_the_daemon_is_killed(site: Site, seed: int, durability: str) -> None:
    chance = random.Random(seed)
    site.durability = durability
    sender = Sender(site.place / "target", chance.randbytes(600 * PART_SIZE - 17))
    sender.create(site.start("", *LARGE))
    for _ in range(DEATHS):
        with Crowd(site.daemon, sender, _missing(sender, chance)):
            time.sleep(chance.uniform(0.0, 0.2) * UNIT)  # noqa: TID251 - the moment is the test
            site.daemon.kill9()
        sender.status(site.start("", *LARGE))
    sender.send(site.daemon)
    assert sender.complete(site.daemon)["session"]["status"] == "completed"
    assert sender.target.read_bytes() == sender.content


def test_what_is_sent_while_the_daemon_is_told_to_end_is_kept_if_it_was_accepted(site: Site) -> None:
    chance = random.Random(3)
    sender = Sender(site.place / "target", chance.randbytes(600 * PART_SIZE))
    sender.create(site.start("", *LARGE))
    with Crowd(site.daemon, sender, _missing(sender, chance)):
        assert eventually(lambda: len(sender.accepted) > 20)
        assert site.daemon.term() == 0
    sender.status(site.start("", *LARGE))
    sender.send(site.daemon)
    sender.complete(site.daemon)
    assert sender.target.read_bytes() == sender.content


def test_a_part_that_is_under_way_at_sigterm_is_accepted_before_the_daemon_ends(site: Site) -> None:
    sender = Sender(site.place / "target", CONTENT)
    sender.create(site.start())
    with _half_a_part(site.daemon, sender) as connection:
        site.daemon.signal(signal.SIGTERM)
        assert eventually(lambda: "draining" in str(site.daemon.log()))
        connection.sendall(sender.part(0)[100:])
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
    assert site.daemon.wait() == 0
    sender.accepted.add(0)
    assert sender.status(site.start())["next_part"] == 1


def test_a_part_that_stalls_does_not_hold_up_the_end(site: Site) -> None:
    sender = Sender(site.place / "target", CONTENT)
    sender.create(site.start("", "--drain-timeout", "0.5"))
    sender.put(site.daemon, 1)
    with _half_a_part(site.daemon, sender):
        began = time.monotonic()
        assert site.daemon.term() == 0
        assert time.monotonic() - began < 5 * UNIT
    assert sender.status(site.start())["accepted_bytes"] == PART_SIZE
    sender.send(site.daemon)
    sender.complete(site.daemon)
    assert sender.target.read_bytes() == CONTENT


def test_what_ends_while_the_sweep_is_at_work_is_forgotten_in_its_turn(site: Site) -> None:
    first = [Sender(site.place / f"target-{number}", b"") for number in range(150)]
    site.start()
    for sender in first:
        sender.create(site.daemon)
        sender.abort(site.daemon)
    site.daemon.term()
    late = Sender(site.place / "late", b"")
    late.create(site.start("", "--uploads-retention", "0"))
    late.abort(site.daemon)
    assert eventually(lambda: not site.left())


def test_a_second_daemon_on_the_same_root_is_refused_and_disturbs_nothing(site: Site) -> None:
    sender = Sender(site.place / "target", CONTENT)
    sender.create(site.start())
    sender.put(site.daemon, 0)
    second = Site(site.start_daemon, site.place, site.away)
    with pytest.raises(RuntimeError, match=r"agentd: workspace: .*/workspace: another daemon serves this"):
        second.start()
    sender.send(site.daemon)
    sender.complete(site.daemon)
    assert sender.target.read_bytes() == CONTENT


def _missing(sender: Sender, chance: random.Random) -> list[int]:
    numbers = sorted(set(range(sender.session["part_count"])) - sender.accepted)
    chance.shuffle(numbers)
    return numbers


def _half_a_part(daemon: Daemon, sender: Sender) -> socket.socket:
    """A connection over which 100 bytes of part 0 went, and are in the hands of the daemon."""
    connection = daemon.connect()
    head = (
        f"PUT {sender.url}/parts/0 HTTP/1.1\r\nHost: x\r\nContent-Length: {PART_SIZE}\r\nExpect: 100-continue\r\n\r\n"
    )
    connection.sendall(head.encode())
    assert connection.recv(4096).startswith(b"HTTP/1.1 100")
    connection.sendall(sender.part(0)[:100])
    return connection
