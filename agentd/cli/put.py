"""`agentd put`: a file, a directory or standard input into the sandbox; what breaks off can be resumed."""

import argparse
import asyncio
import shlex
import sys
from collections.abc import Sequence

from agentd.cli import connection, progress, showing
from agentd.cli.parser import Parser
from agentd.client import ApiError, SourceChanged, Uploaded, open_source


def parser() -> argparse.ArgumentParser:
    made = Parser(
        prog="agentd put",
        description="Uploads in concurrent parts. When it breaks off it prints the command line that goes on.",
    )
    made.add_argument("source", metavar="FILE", help="a file, a directory, or - for standard input")
    made.add_argument("target", metavar="TARGET", help="where it goes in the sandbox")
    made.add_argument("--resume", metavar="UPLOAD_ID", help="go on with this upload")
    made.add_argument("--conflict", choices=("merge", "replace", "error"), default="merge", help="if TARGET exists")
    made.add_argument(
        "--concurrency", type=connection.positive, metavar="N", help="parts in flight (default: what the daemon allows)"
    )
    connection.add_json(made)
    connection.add_options(made)
    return made


def main(arguments: Sequence[str]) -> int:
    args = parser().parse_args(arguments)
    watch = progress.UploadProgress()

    def failed(error: Exception | None) -> None:
        upload_id = watch.upload_id or args.resume
        gone = isinstance(error, SourceChanged) or (isinstance(error, ApiError) and error.status == 404)
        if upload_id and not gone:
            same_input = ", giving it the same standard input," if args.source == "-" else ""
            print(f"upload id: {upload_id}\nresume{same_input} with: {_again(args, upload_id)}", file=sys.stderr)

    return connection.carry_out("put", lambda: _put(args, watch), failed)


def _put(args: argparse.Namespace, watch: progress.UploadProgress) -> None:
    client = connection.connect(args)
    with open_source(args.source, sys.stdin.buffer) as source:

        async def upload() -> Uploaded:
            async with client:
                return await client.upload(
                    source,
                    args.target,
                    conflict=args.conflict,
                    user=args.user,
                    concurrency=args.concurrency,
                    resume=args.resume,
                    progress=watch,
                )

        with watch.shown(source.name, source.size):
            done = asyncio.run(upload())
    session = done.session
    if args.json:
        told = {"path": session.target_path, "bytes": session.content_length, "sha256": done.sha256}
        showing.put_json({"upload_id": session.upload_id, **told})
    else:
        showing.put_out(f"{session.target_path}: {session.content_length} bytes, sha256 {done.sha256}")


def _again(args: argparse.Namespace, upload_id: str) -> str:
    options = ["--resume", upload_id, *connection.given(args), *(["--json"] if args.json else [])]
    if args.concurrency:
        options += ["--concurrency", str(args.concurrency)]
    return shlex.join(["agentd", "put", *options, "--", args.source, args.target])
