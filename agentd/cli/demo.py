"""`agentd demo`: an upload, a daemon killed half way, and proof that nothing acknowledged was lost."""

import argparse
import asyncio
import hashlib
import os
import re
import secrets
import shutil
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import BinaryIO

from agentd.cli import connection, progress, showing
from agentd.cli.connection import CommandFailed
from agentd.cli.parser import Parser
from agentd.cli.progress import say, size
from agentd.client import Client, Session, Source, Unreachable, open_source

MIB = 1 << 20
PARTS = 32
TARGET = "/workspace/demo.bin"
START_SECONDS = 20.0


def parser() -> argparse.ArgumentParser:
    made = Parser(
        prog="agentd demo",
        description="Starts a daemon of its own on a temporary root, kills it half way through an upload, resumes.",
    )
    made.add_argument("--size", type=connection.positive, default=256, metavar="MIB", help="default: 256")
    made.add_argument("--keep", action="store_true", help="leave the temporary directory behind")
    connection.add_json(made, "what came of it, and no story")
    return made


def main(arguments: Sequence[str]) -> int:
    args = parser().parse_args(arguments)

    def work() -> None:
        with progress.silent() if args.json else nullcontext():
            outcome = _in_scratch(args.size * MIB, keep=args.keep)
        if args.json:
            showing.put_json(outcome)

    return connection.carry_out("demo", work)


def _in_scratch(length: int, *, keep: bool) -> dict[str, object]:
    scratch = Path(tempfile.mkdtemp(prefix="agentd-demo-"))
    try:
        return asyncio.run(_tell(scratch, length))
    finally:
        if keep:
            say(f"   Everything is kept in {scratch}.")
        else:
            shutil.rmtree(scratch)


class _Daemon:
    """A real daemon in a process of its own, on a root that is a directory of ours."""

    def __init__(self, scratch: Path, part_size: int) -> None:
        self._part_size = part_size
        self.root = scratch / "root"
        (self.root / "workspace").mkdir(parents=True)
        self._log = scratch / "daemon.log"
        self._token_file = scratch / "token"
        self._token_file.write_text(secrets.token_urlsafe(32))
        self._token_file.chmod(0o600)
        self._process: Process | None = None

    async def start(self) -> Client:
        """Starts it and returns a client that does not retry: a death shall be seen, not smoothed over."""
        where = ("--root", self.root, "--listen", "127.0.0.1:0", "--token-file", self._token_file)
        parts = ("--uploads-part-size", str(self._part_size))
        with self._appended() as log:
            # A process group of its own: Ctrl-C reaches the demo alone, which then kills the daemon.
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "agentd", "serve", *where, *parts),
                stdout=PIPE,
                stderr=log,
                process_group=0,
                env={name: value for name, value in os.environ.items() if not name.startswith("AGENTD_")},
            )
        assert self._process.stdout
        with suppress(TimeoutError):
            async with asyncio.timeout(START_SECONDS):
                line = (await self._process.stdout.readline()).decode()
                if ready := re.search(r"ready on (http://\S+)", line):
                    return Client(ready[1], token=self._token_file.read_text(), retries=0)
        raise CommandFailed(f"the daemon did not start; its log ends with:\n{self._log.read_text()[-2000:]}")

    def _appended(self) -> BinaryIO:
        return open(self._log, "ab")

    def kill(self) -> None:
        if self._process and self._process.returncode is None:
            self._process.kill()

    async def gone(self) -> None:
        if self._process:
            await self._process.wait()


class _Witness(progress.UploadProgress):
    """Writes down which parts were acknowledged and which had bytes on the wire; may kill half way."""

    def __init__(self, daemon: _Daemon | None = None) -> None:
        super().__init__()
        self._daemon = daemon
        self.acknowledged: set[int] = set()
        self.sent: set[int] = set()
        self.session: Session

    @property
    def in_flight(self) -> set[int]:
        return self.sent - self.acknowledged

    def opened(self, session: Session) -> None:
        self.session = session
        super().opened(session)

    def sending(self, number: int, sent: int) -> None:
        self.sent.add(number)
        super().sending(number, sent)
        if self._daemon and len(self.acknowledged) >= self.session.part_count // 2:
            self._daemon.kill()

    def accepted(self, number: int, session: Session) -> None:
        self.acknowledged.add(number)
        super().accepted(number, session)


async def _tell(scratch: Path, length: int) -> dict[str, object]:
    daemon = _Daemon(scratch, length // PARTS)
    try:
        say(("agentd demo: an upload that survives the death of the daemon", "bold"))
        _step(1, "A daemon starts on an empty root, listening on loopback.")
        before = await _started(daemon)

        _step(2, f"A file of {size(length)} of random bytes is made.")
        path = scratch / "source.bin"
        digest = _make_random(path, length)
        say(f"   SHA-256 {digest}")

        with open_source(str(path)) as source:
            first, first_seconds = await _until_killed(daemon, before, source)

            _step(4, "The daemon starts again on the same root and reads its journal.")
            second, second_seconds = await _resumed(await _started(daemon), source, first)
        _judge(daemon.root, digest, first, second)
        seconds = first_seconds + second_seconds
        say(f"   {size(length / seconds)}/s, with every part and the whole file hashed.")
        sent = {"acknowledged_before": len(first.acknowledged), "sent_after": len(second.sent), "sent_twice": 0}
        return {"bytes": length, "sha256": digest, "parts": PARTS, **sent, "seconds": round(seconds, 3)}
    finally:
        daemon.kill()
        await daemon.gone()


def _step(number: int, text: str) -> None:
    say("")
    say((f"{number}. {text}", "bold"))


async def _started(daemon: _Daemon) -> Client:
    began = time.monotonic()
    client = await daemon.start()
    say(f"   Ready in {time.monotonic() - began:.2f} s.")
    return client


def _make_random(path: Path, length: int) -> str:
    digest = hashlib.sha256()
    with open(path, "wb") as file:
        for done in range(0, length, MIB):
            piece = os.urandom(min(MIB, length - done))
            file.write(piece)
            digest.update(piece)
    return digest.hexdigest()


async def _until_killed(daemon: _Daemon, client: Client, source: Source) -> tuple[_Witness, float]:
    _step(3, "The file is uploaded in concurrent parts. Half way the daemon is killed with SIGKILL: no farewell.")
    witness = _Witness(daemon)
    began = time.monotonic()
    with witness.shown("   uploading", source.size), suppress(Unreachable):
        async with client:
            await client.upload(source, TARGET, progress=witness)
        raise CommandFailed("the upload was over before the daemon could be killed: choose a larger --size")
    seconds = time.monotonic() - began
    await daemon.gone()
    say(("   The daemon is dead.", "red"), " What the client knows, part by part:")
    _show_parts(witness)
    return witness, seconds


async def _resumed(client: Client, source: Source, first: _Witness) -> tuple[_Witness, float]:
    witness = _Witness()
    async with client:
        session = await client.upload_status(first.session.upload_id)
        say(f"   It knows the upload and holds {size(session.accepted_bytes)} of it.")
        _step(5, "The client resumes: only what was never acknowledged is sent.")
        began = time.monotonic()
        with witness.shown("   resuming ", source.size):
            await client.upload(source, TARGET, resume=session.upload_id, progress=witness)
    return witness, time.monotonic() - began


def _show_parts(witness: _Witness) -> None:
    """One sign for each part: acknowledged, in flight when the daemon died, not begun."""
    session, done, in_flight = witness.session, witness.acknowledged, witness.in_flight
    signs = "█▒·" if (sys.stdout.encoding or "").lower().startswith("utf") else "#~."
    styles = ("green", "yellow", "dim")
    kinds = [0 if number in done else 1 if number in in_flight else 2 for number in range(session.part_count)]
    say("   ", *((signs[kind], styles[kind]) for kind in kinds))
    words = ("acknowledged", "in flight", "not begun")
    counts = [f"{signs[kind]} {kinds.count(kind)} {words[kind]}" for kind in range(3)]
    say(f"   {'   '.join(counts)}   ({session.part_count} parts of {size(session.part_size)})")


def _judge(root: Path, digest: str, first: _Witness, second: _Witness) -> None:
    again = first.acknowledged & second.sent
    say(f"   Sent: {len(second.sent)} parts, of which {len(second.sent & first.in_flight)} had been in flight.")
    say(f"   Acknowledged before the kill and sent again: {len(again) or 'none'}.")
    _step(6, "Source and target are compared.")
    with open(root / TARGET.removeprefix("/"), "rb") as target:
        arrived = hashlib.file_digest(target, "sha256").hexdigest()
    say(f"   SHA-256 {arrived}")
    if again:
        raise CommandFailed(f"parts {sorted(again)} were acknowledged and had to be sent again")
    if arrived != digest:
        raise CommandFailed(f"the target differs from the source (SHA-256 {digest})")
    say(("   Identical: nothing that was acknowledged was lost, or sent twice.", "bold green"))
