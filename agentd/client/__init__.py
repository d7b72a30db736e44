"""A small asynchronous client of the native API: uploads that survive faults, downloads, entries, commands, terminals.

    async with Client("http://127.0.0.1:8811", token=token) as client:
        with open_source("big.bin") as source:
            uploaded = await client.upload(source, "/workspace/big.bin")

`Client.upload` holds one piece (1 MiB) per concurrent part in memory, whatever the source weighs. It sends what is
missing, each part with its SHA-256; a lost connection, 408, 429 and 503 are repeated with growing pauses, and after a
lost connection the daemon is asked first what it has. A part that the daemon may already have is announced with
`Expect: 100-continue` (RFC 9110 section 10.1.1), so its bytes do not travel twice.

`Client.run`, `Client.watch` and a `Terminal` go on after a lost connection, also with a daemon that took the place of
the one they began with.

ApiError        the daemon said no
Unreachable     it does not answer
FileChanged     the file changed under the download, which could not start over
CommandLost     the daemon was restarted, and does not know the command any more
SourceUnusable  what was named cannot be uploaded
SourceChanged   the file changed under the upload, which is aborted then
SourceDiffers   a resume was given another source
"""

from agentd.client.about import About, Capabilities, Version
from agentd.client.calls import DEFAULT_URL, ApiError, Calls, Entry, FileChanged, Session, Unreachable
from agentd.client.listing import Change, Listed, Listing
from agentd.client.running import CommandLost, Detail, Running, Wanted
from agentd.client.source import Source, SourceChanged, SourceUnusable, open_source
from agentd.client.terminal import Opening, Terminal, Terminals
from agentd.client.uploading import Observer, SourceDiffers, Uploaded, Uploading


class Client(Uploading, Listing, Running, Terminals, About):
    """The native API of one daemon."""


__all__ = [
    "DEFAULT_URL",
    "ApiError",
    "Calls",
    "Capabilities",
    "Change",
    "Client",
    "CommandLost",
    "Detail",
    "Entry",
    "FileChanged",
    "Listed",
    "Observer",
    "Opening",
    "Session",
    "Source",
    "SourceChanged",
    "SourceDiffers",
    "SourceUnusable",
    "Terminal",
    "Unreachable",
    "Uploaded",
    "Version",
    "Wanted",
    "open_source",
]
