"""A daemon of a warm pool: ready before it is anybody's, and then made one sandbox's by ``POST /v1/init``, once.

What it was given is kept in the reserved tree, on the workspace's volume: a pod that is suspended and started again,
with the same volume, is the same sandbox at once, and resumes its uploads.
"""

import asyncio
import re
from collections.abc import Callable, Mapping
from typing import Annotated

import msgspec

from agentd.config import Config, ConfigError
from agentd.errors import Conflict, InvalidRequest, NoSpace, Unauthorized, Unavailable
from agentd.http.access import Access
from agentd.http.endpoint import Call, Endpoint
from agentd.http.signing import HASHED, digest_of
from agentd.linux.oserrors import os_errors
from agentd.linux.threads import in_thread
from agentd.linux.workspace import keep, kept

NAME = "init"

Word = Annotated[str, msgspec.Meta(min_length=1)]
# What a header can carry, and what `Access` can find; a token that begins as a digest would never be.
TOKEN = rf"^({HASHED}|(?!sha256:)[!-~]{{1,4096}})(?![\s\S])"
TOLD = "1 to 4096 printable ASCII characters without spaces, or sha256: and 64 hex digits, lower case"
# Checked by `Init` itself: of a pattern msgspec says nothing but the pattern.
Token = Annotated[str, msgspec.Meta(extra_json_schema={"pattern": TOKEN})]
VariableName = Annotated[str, msgspec.Meta(pattern=r"^[^=\0]+(?![\s\S])")]
Text = Annotated[str, msgspec.Meta(pattern=r"^[^\0]*(?![\s\S])")]


class Init(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What makes a daemon one sandbox's. sandbox_id, cwd, default_user: as the configuration's keys. token: valid from
    now on, in place of those of the token file; printable ASCII, or a digest as there. environment: of every process,
    above processes.environment_file."""

    sandbox_id: Word | None = None
    token: Token | None = None
    environment: Mapping[VariableName, Text] = {}
    cwd: Annotated[str, msgspec.Meta(pattern=r"^/[^\0]*(?![\s\S])")] | None = None
    default_user: Word | None = None

    def __post_init__(self) -> None:
        if self.token is not None and not re.match(TOKEN, self.token):
            raise ValueError(f"token: {TOLD}")

    def __repr__(self) -> str:
        return "Init(...)"  # whatever logs it tells no secret

    def kept(self) -> "Init":
        """With its token's digest in place of the token: whoever can read what is kept cannot ask for anything."""
        if self.token is None:
            return self
        return msgspec.structs.replace(self, token=digest_of(self.token.encode()).decode())

    def within(self, config: Config) -> Config:
        """The configuration with what is said here. InvalidRequest for a value that no flag could have either."""
        named = {"sandbox_id": self.sandbox_id, "cwd": self.cwd, "default_user": self.default_user}
        changed = {key: value for key, value in named.items() if value is not None}
        try:
            return msgspec.convert({**msgspec.structs.asdict(config), **changed}, Config)
        except msgspec.ValidationError as error:
            raise InvalidRequest(str(error)) from None


class Initialized(msgspec.Struct, frozen=True):
    """sandbox_id: null where none was given."""

    sandbox_id: str | None


class Claim:
    """check: blocks; raises ConfigError for what cannot be had here. access: who may make the claim.

    given: set once there is `init`. served: to be set once requests are taken.
    """

    def __init__(self, reserved: int, access: Access, check: Callable[[Init], object]) -> None:
        self.init: Init | None = None
        self.given = asyncio.Event()
        self.served = asyncio.Event()
        self._reserved = reserved
        self._access = access
        self._check = check
        self._closed = False
        self._turn = asyncio.Lock()

    @property
    def token(self) -> tuple[bytes, ...]:
        """The sandbox's own; empty where it was given none."""
        return (self.init.token.encode(),) if self.init is not None and self.init.token else ()

    async def recover(self) -> None:
        """Takes what was kept. ConfigError where it is damaged."""
        content = await in_thread(kept, self._reserved, NAME)
        if content is None:
            return
        try:
            self.init = msgspec.json.decode(content, type=Init)
        except msgspec.MsgspecError:
            what = f"{NAME} in the reserved tree is damaged; delete it, and POST /v1/init again"
            raise ConfigError("await_init", what) from None
        self.given.set()

    def endpoint(self) -> Endpoint:
        return Endpoint(
            *("POST", "/v1/init", "init", self._post),
            body=Init,
            result=Initialized,
            access=self._access,  # the token file's tokens are good for this alone, once the sandbox has one of its own
            errors=(Unauthorized, InvalidRequest, Conflict, NoSpace, Unavailable),
            summary="Make a daemon that waits (await_init) one sandbox's, once; the same again is no harm",
        )

    def close(self) -> None:
        """The daemon ends: it becomes nobody's any more, and whoever waits is told so."""
        self._closed = True
        self.served.set()

    async def _post(self, call: Call) -> Initialized:
        init = call.data.kept()
        async with self._turn:
            if self.init is None:
                if self._closed:
                    raise Unavailable("this daemon ends, and becomes nobody's any more; take another one")
                await self._take(init)
        if init != self.init:
            raise Conflict("this daemon has been made another sandbox's; start a new one")
        await self.served.wait()
        if self._closed:
            raise Unavailable("this daemon ends; it is this sandbox's once it has been started again: repeat then")
        return Initialized(init.sandbox_id)

    async def _take(self, init: Init) -> None:
        try:
            await in_thread(self._check, init)
        except ConfigError as error:
            raise InvalidRequest(str(error)) from None
        self.init = init  # before it is kept: a caller who leaves now changes nothing
        try:
            with os_errors("write", NAME):
                await in_thread(keep, self._reserved, NAME, msgspec.json.encode(init))
        except BaseException as error:
            if not isinstance(error, asyncio.CancelledError) or error.__cause__ is not None:
                self.init = None
            raise
        finally:
            if self.init is not None:
                self.given.set()
