"""A small asynchronous client of the native API: uploads that survive faults, downloads, entries.

    async with Client("http://127.0.0.1:8811", token=token) as client:
        with open_source("big.bin") as source:
            uploaded = await client.upload(source, "/workspace/big.bin")

`Client.upload` holds one piece (1 MiB) per concurrent part in memory, whatever the source weighs. It sends what is
missing, each part with its SHA-256; a lost connection, 408, 429 and 503 are repeated with growing pauses, and after a
lost connection the daemon is asked first what it has. A part that the daemon may already have is announced with
`Expect: 100-continue` (RFC 9110 section 10.1.1), so its bytes do not travel twice.

ApiError        the daemon said no
Unreachable     it does not answer
FileChanged     the file changed under the download, which could not start over
SourceUnusable  what was named cannot be uploaded
SourceChanged   the file changed under the upload, which is aborted then
SourceDiffers   a resume was given another source
"""

from agentd.client.calls import DEFAULT_URL, ApiError, Calls, Entry, FileChanged, Session, Unreachable
from agentd.client.source import Source, SourceChanged, SourceUnusable, open_source
from agentd.client.uploading import Client, Observer, SourceDiffers, Uploaded

__all__ = [
    "DEFAULT_URL",
    "ApiError",
    "Calls",
    "Client",
    "Entry",
    "FileChanged",
    "Observer",
    "Session",
    "Source",
    "SourceChanged",
    "SourceDiffers",
    "SourceUnusable",
    "Unreachable",
    "Uploaded",
    "open_source",
]
