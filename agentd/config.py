"""What can be set, and where it was set: defaults < TOML file < AGENTD_* environment < flags.

The Structs are the one list of keys: flags, environment names, ``--print-config`` and the table in the README are made
from them. A key ``part_size`` of the section ``uploads`` is ``uploads.part_size``, ``--uploads-part-size`` and
``AGENTD_UPLOADS_PART_SIZE``. Sizes are bytes, or text such as ``8MiB``; times are seconds. A token is never a value
here, since flags and environment can be read under /proc: only the name of its file is.
"""

import argparse
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

PREFIX = "AGENTD_"
# Variables that begin like ours but are not settings of `serve`: those of tests and clients, and those that Kubernetes
# sets in every pod beside a Service named "agentd".
NOT_SETTINGS = ("AGENTD_CONFIG", "AGENTD_TEST_", "AGENTD_FAILPOINT", "AGENTD_URL", "AGENTD_SERVICE_", "AGENTD_PORT")

UNITS = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3, "KI": 1 << 10, "MI": 1 << 20, "GI": 1 << 30, "TI": 1 << 40}
SIZE = re.compile(r"(\d+) *([KMG]|[KMGT]i)?B?", re.IGNORECASE)

_SIZE: dict[str, str] = {"unit": "bytes"}


class Limits(msgspec.Struct, frozen=True):
    header_bytes: Annotated[int, Meta(ge=1024, description="request line and headers together", extra=_SIZE)] = 16384
    json_bytes: Annotated[int, Meta(ge=1024, description="a JSON body", extra=_SIZE)] = 1 << 20
    connections: Annotated[int, Meta(ge=1, description="open connections")] = 1024
    unauthenticated_per_second: Annotated[
        float, Meta(gt=0, description="requests without a valid token that a peer may make")
    ] = 20
    keepalive_timeout: Annotated[
        float, Meta(gt=0, description="how long a connection may be idle; longer than a proxy's")
    ] = 75
    body_stall_timeout: Annotated[
        float, Meta(gt=0, description="how long a body, received or sent, may rest, and how long headers may take")
    ] = 30
    body_min_rate: Annotated[
        int, Meta(ge=0, description="a second's least bytes of a body, over each body_stall_timeout", extra=_SIZE)
    ] = 1024


class Uploads(msgspec.Struct, frozen=True):
    part_size: Annotated[int, Meta(ge=1, description="bytes of a part", extra=_SIZE)] = 8 << 20
    max_parts: Annotated[int, Meta(ge=1, description="parts of an upload; the part size grows beyond it")] = 10_000
    parts_per_upload: Annotated[int, Meta(ge=1, description="parts of one upload at once")] = 4
    parts_at_once: Annotated[int, Meta(ge=1, description="parts of all uploads at once")] = 16
    max_upload_bytes: Annotated[int, Meta(ge=0, description="the largest upload", extra=_SIZE)] = 64 << 30
    quota_bytes: Annotated[
        int | None,
        Meta(description="declared bytes of all open uploads; unset: 90 % of the free space at start", extra=_SIZE),
    ] = None
    min_free_bytes: Annotated[int, Meta(ge=0, description="free space that uploads leave", extra=_SIZE)] = 64 << 20
    lifetime: Annotated[float, Meta(gt=0, description="how long an upload may rest before it expires")] = 86400
    retention: Annotated[float, Meta(ge=0, description="how long an ended upload is remembered")] = 86400
    durability: Annotated[
        Literal["process", "power"],
        Meta(description="what an acknowledged part survives: the daemon's death, power loss"),
    ] = "process"
    max_sessions: Annotated[int, Meta(ge=1, description="open uploads")] = 1000
    archive_max_entries: Annotated[int, Meta(ge=1, description="entries of an archive")] = 1_000_000
    archive_max_bytes: Annotated[
        int | None, Meta(description="bytes of an unpacked archive; unset: 64 GiB", extra=_SIZE)
    ] = None
    archive_max_depth: Annotated[int, Meta(ge=1, description="directories above one another in an archive")] = 64


class Config(msgspec.Struct, frozen=True):
    root: Annotated[str, Meta(min_length=1, description="the directory that is the sandbox's /")] = "/"
    listen: Annotated[
        tuple[str, ...], Meta(min_length=1, description="HOST:PORT, unix:PATH or fd:N; repeatable; port 0 picks one")
    ] = ("127.0.0.1:8811",)
    token_file: Annotated[
        str | None, Meta(description="file of tokens, one a line, read again on SIGHUP; unset: one is made and kept")
    ] = None
    insecure: Annotated[bool, Meta(description="ask for no token; only on loopback or a unix socket")] = False
    sandbox_id: Annotated[str | None, Meta(description="the sandbox's name; unset: any name is answered to")] = None
    default_user: Annotated[
        str | None, Meta(description="who owns what is created when a call names no user; unset: the daemon's own")
    ] = None
    workspace: Annotated[str, Meta(pattern="^/", description="the working directory; made when missing")] = "/workspace"
    cwd: Annotated[
        str | None, Meta(description="where relative paths begin; unset: the user's home, else workspace")
    ] = None
    user_access: Annotated[
        Literal["open", "kernel"], Meta(description="whether a named user only owns, or is also bound by its rights")
    ] = "open"
    drain_notice: Annotated[
        float, Meta(ge=0, description="how long requests are still taken after readiness has turned")
    ] = 1
    drain_timeout: Annotated[float, Meta(ge=0, description="how long running requests may take to end")] = 30
    limits: Limits = Limits()
    uploads: Uploads = Uploads()


class ConfigError(Exception):
    """A setting that cannot be used. `str()` is one line that names the key."""

    def __init__(self, key: str, what: str) -> None:
        super().__init__(f"{key}: {what}")
        self.key = key


@dataclass(frozen=True, slots=True)
class Setting:
    """One key. default: as text, empty where there is none. type: what its value must be."""

    key: str
    default: str
    meaning: str
    type: Any
    is_size: bool

    @property
    def flag(self) -> str:
        return "--" + re.sub(r"[._]", "-", self.key)

    @property
    def environment(self) -> str:
        return PREFIX + self.key.replace(".", "_").upper()

    @property
    def is_switch(self) -> bool:
        return self.default in ("true", "false")


@dataclass(frozen=True, slots=True)
class Loaded:
    """The configuration, and by key where each value came from."""

    config: Config
    origins: Mapping[str, str]

    def text(self) -> str:
        """TOML that gives the same configuration, with the origin of each value."""
        lines: list[str] = []
        for setting in describe():
            section, _, name = setting.key.rpartition(".")
            if section and f"[{section}]" not in lines:
                lines += ["", f"[{section}]"]
            value = _value(self.config, setting.key)
            line = f"# {name} is unset" if value is None else f"{name} = {_toml(value)}"
            lines.append(f"{line}  # {self.origins[setting.key]}")
        return "\n".join(lines) + "\n"


def describe() -> list[Setting]:
    """Every key, in the order of the Structs: plain keys first, then the sections."""
    return list(_settings(Config, ""))


def _settings(struct: type[msgspec.Struct], section: str) -> Iterator[Setting]:
    info = msgspec.inspect.type_info(struct)
    assert isinstance(info, msgspec.inspect.StructType)
    for shape, field in zip(info.fields, msgspec.structs.fields(struct), strict=True):
        if isinstance(shape.type, msgspec.inspect.StructType):
            yield from _settings(shape.type.cls, field.name + ".")
            continue
        assert isinstance(shape.type, msgspec.inspect.Metadata)
        meaning = (shape.type.extra_json_schema or {})["description"]
        default = "" if field.default is None else _toml(field.default)
        yield Setting(section + field.name, default, meaning, field.type, shape.type.extra == _SIZE)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """A flag for each key. Their values stay text until `load` converts everything at once."""
    for setting in describe():
        shape: dict[str, Any] = {"dest": setting.key, "default": argparse.SUPPRESS}
        shape["help"] = setting.meaning.replace("%", "%%") + (
            f" (default {setting.default})" if setting.default else ""
        )
        if setting.is_switch:
            shape["action"] = argparse.BooleanOptionalAction
        elif setting.key == "listen":
            shape |= {"action": "append", "metavar": "ADDRESS"}
        else:
            shape["metavar"] = setting.key.rpartition(".")[2].upper()
        parser.add_argument(setting.flag, **shape)


def load(file: str | None, environment: Mapping[str, str], flags: Mapping[str, object]) -> Loaded:
    """The configuration from a TOML file (None: none), the environment and flags by key. Raises ConfigError."""
    settings = {setting.key: setting for setting in describe()}
    given: dict[str, tuple[object, str]] = {}
    if file is not None:
        given |= {key: (value, f"file {file}") for key, value in _read(file)}
    names = {setting.environment: setting.key for setting in settings.values()}
    for variable, text in environment.items():
        if variable.startswith(PREFIX) and not variable.startswith(NOT_SETTINGS):
            given[names.get(variable, variable)] = (text, f"environment {variable}")
    given |= {key: (value, f"flag {settings[key].flag}") for key, value in flags.items()}
    for key, (_, origin) in given.items():
        if key not in settings:
            raise ConfigError(key, f"there is no such key ({origin})")
    values: dict[str, Any] = {key: _converted(settings[key], *found) for key, found in given.items()}
    config = Config(limits=_section(Limits, "limits.", values), uploads=_section(Uploads, "uploads.", values), **values)
    return Loaded(config, {key: given[key][1] if key in given else "default" for key in settings})


def _section(struct: type[msgspec.Struct], prefix: str, values: dict[str, Any]) -> Any:
    """The Struct of a section; its keys are taken out of ``values``."""
    keys = [key for key in values if key.startswith(prefix)]
    return struct(**{key.removeprefix(prefix): values.pop(key) for key in keys})


def _read(file: str) -> Iterator[tuple[str, object]]:
    try:
        with open(file, "rb") as opened:
            table = tomllib.load(opened)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError("config", f"{file}: {getattr(error, 'strerror', None) or error}") from None
    for name, value in table.items():
        if isinstance(value, dict):
            yield from ((f"{name}.{key}", inner) for key, inner in value.items())
        else:
            yield name, value


def _converted(setting: Setting, value: object, origin: str) -> object:
    if setting.key == "listen" and isinstance(value, str):
        value = value.replace(",", " ").split()
    if setting.is_size and isinstance(value, str) and (match := SIZE.fullmatch(value.strip())):
        value = int(match[1]) * UNITS[(match[2] or "").upper()]
    try:
        return msgspec.convert(value, setting.type, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(setting.key, f"{error} ({origin})") from None


def _value(config: Config, key: str) -> Any:
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    return value


def _toml(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
