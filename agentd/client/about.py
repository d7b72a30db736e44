"""What a daemon says about itself; beside the mount of the native API, at the daemon's root."""

import msgspec

from agentd.client.calls import Calls, decoded


class Version(msgspec.Struct, frozen=True):
    """The version of agentd, and of the Python it runs under."""

    version: str
    python: str


class Capabilities(msgspec.Struct, frozen=True):
    """kernel: its release. filesystem: the type of the workspace's. features: by name, found by trying. durability:
    what an accepted part survives, ``process`` or ``power``."""

    kernel: str
    filesystem: str
    features: dict[str, bool]
    durability: str


class About(Calls):
    async def version(self) -> Version:
        return decoded(await self._call("GET", "/version", base=self._origin), Version)

    async def capabilities(self) -> Capabilities:
        return decoded(await self._call("GET", "/v1/capabilities", base=self._origin), Capabilities)
