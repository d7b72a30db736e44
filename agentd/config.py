"""What can be set, and where it was set: defaults < TOML file < AGENTD_* environment < flags.

The Structs are the one list of keys: flags, environment names, ``--print-config`` and the table in the README are made
from them. A key ``part_size`` of the section ``uploads`` is ``uploads.part_size``, ``--uploads-part-size`` and
``AGENTD_UPLOADS_PART_SIZE``. Sizes are bytes, or text such as ``8MiB``; times are seconds. A token is never a value
here, since flags and environment can be read under /proc: only the name of its file is.
"""

import argparse
import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

PREFIX = "AGENTD_"
# Variables that begin like ours but are not settings of `serve`: those of tests and clients, and those that Kubernetes
# sets in every pod beside a Service named "agentd".
NOT_SETTINGS = ("AGENTD_CONFIG", "AGENTD_TEST_", "AGENTD_FAILPOINT", "AGENTD_URL", "AGENTD_SERVICE_", "AGENTD_PORT")

UNITS = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3, "KI": 1 << 10, "MI": 1 << 20, "GI": 1 << 30, "TI": 1 << 40}
SIZE = re.compile(r"(\d+) *([KMG]|[KMGT]i)?B?", re.IGNORECASE)

# What a value has to be, in words, where its type does not tell it.
_SIZE, _RATE, _PATH, _URL = (
    {"wanted": what} for what in ("a size such as 4096 or 8MiB", "a number", "an absolute path", "an http or https URL")
)
_Dialect = Literal["nullspace", "daytona", "duvo", "blackbox", "conway"]


class Limits(msgspec.Struct, frozen=True):
    header_bytes: Annotated[int, Meta(ge=1024, description="request line and headers together", extra=_SIZE)] = 16384
    json_bytes: Annotated[int, Meta(ge=1024, description="a JSON body", extra=_SIZE)] = 1 << 20
    connections: Annotated[int, Meta(ge=1, description="open connections")] = 1024
    unauthenticated_per_second: Annotated[
        float, Meta(gt=0, description="requests without a valid token that a peer may make", extra=_RATE)
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
    min_free_bytes: Annotated[
        int, Meta(ge=0, description="free space that uploads, and writes of 1 MiB and more, leave", extra=_SIZE)
    ] = 64 << 20
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


class Processes(msgspec.Struct, frozen=True):
    max_running: Annotated[int, Meta(ge=1, description="processes that run at once")] = 256
    keep_finished: Annotated[int, Meta(ge=0, description="ended processes that can still be asked for")] = 256
    retention: Annotated[float, Meta(ge=0, description="how long an ended process can be asked for")] = 3600
    output_bytes: Annotated[
        int, Meta(ge=65536, description="output kept of a process: its beginning and the newest", extra=_SIZE)
    ] = 64 << 20
    answer_bytes: Annotated[
        int, Meta(ge=4096, description="output of each stream in one JSON answer; streams give more", extra=_SIZE)
    ] = 4 << 20
    argument_bytes: Annotated[int, Meta(ge=1024, description="arguments and variables", extra=_SIZE)] = 1 << 20
    grace: Annotated[float, Meta(ge=0, description="from SIGTERM to SIGKILL")] = 5
    shell: Annotated[str, Meta(pattern="^/", description="the shell of commands that are for one", extra=_PATH)] = (
        "/bin/sh"
    )
    path: Annotated[str, Meta(description="PATH of what is run")] = (
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    )
    lang: Annotated[str, Meta(description="LANG of what is run")] = "C.UTF-8"
    environment_file: Annotated[
        str | None, Meta(description="file of further variables for what is run, NAME=VALUE a line")
    ] = None
    nice: Annotated[
        Annotated[int, Meta(ge=-20, le=19)] | None, Meta(description="niceness; unset: the daemon's own")
    ] = None
    oom_score_adj: Annotated[
        Annotated[int, Meta(ge=-1000, le=1000)] | None,
        Meta(description="what the kernel kills first; unset: the daemon's own"),
    ] = 500
    cpu_seconds: Annotated[
        Annotated[int, Meta(ge=1)] | None, Meta(description="CPU time each process may use; unset: any")
    ] = None
    memory_bytes: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="address space each process may have; unset: any", extra=_SIZE),
    ] = None
    user_processes: Annotated[
        Annotated[int, Meta(ge=1)] | None, Meta(description="processes a user may have; unset: any")
    ] = None
    open_files: Annotated[
        Annotated[int, Meta(ge=128)] | None,
        Meta(description="files each process may open, at least 128; unset: the soft limit that the daemon got"),
    ] = None
    cgroup: Annotated[
        Literal["off", "auto"],
        Meta(description="a cgroup (v2) for each process, where one can be made; then limits bind all it starts, too"),
    ] = "off"


class Terminals(msgspec.Struct, frozen=True):
    max_open: Annotated[int, Meta(ge=1, description="terminals that are open at once")] = 64
    keep_ended: Annotated[int, Meta(ge=0, description="ended terminals that can still be connected to")] = 64
    scrollback_bytes: Annotated[
        int, Meta(ge=4096, description="output kept of a terminal, the newest, in memory", extra=_SIZE)
    ] = 1 << 20


class Sessions(msgspec.Struct, frozen=True):
    max_open: Annotated[int, Meta(ge=1, description="shell sessions that are open at once")] = 64
    keep_ended: Annotated[int, Meta(ge=0, description="ended sessions that are remembered")] = 64
    keep_commands: Annotated[int, Meta(ge=1, description="commands of a session that are remembered")] = 256
    max_waiting: Annotated[int, Meta(ge=1, description="commands of a session that wait for their turn")] = 16
    command_bytes: Annotated[int, Meta(ge=1024, description="a command of a session", extra=_SIZE)] = 2 << 20
    idle_timeout: Annotated[
        float, Meta(gt=0, description="after which a session is ended in which nothing is done and nothing runs")
    ] = 3600


class Contexts(msgspec.Struct, frozen=True):
    max_open: Annotated[int, Meta(ge=1, description="code contexts that are open at once")] = 32
    max_waiting: Annotated[int, Meta(ge=1, description="pieces of code of a context that wait for their turn")] = 32
    grace: Annotated[
        float, Meta(ge=0, description="from the interrupt of code that ran too long to the end of its interpreter")
    ] = 2


class Watches(msgspec.Struct, frozen=True):
    max_open: Annotated[int, Meta(ge=1, description="watches of files that are open at once")] = 64
    max_directories: Annotated[
        int,
        Meta(ge=3, description="directories that all watches follow, one of them 2/3; 1 KiB of the kernel's for each"),
    ] = 150_000


class Handles(msgspec.Struct, frozen=True):
    max_open: Annotated[int, Meta(ge=1, description="machines or sandboxes that there are at once, stand-alone")] = 64
    lifetime: Annotated[
        float, Meta(gt=0, le=1e9, description="how long one lives whose API cannot say it (duvo), stand-alone")
    ] = 86400


class Config(msgspec.Struct, frozen=True):
    root: Annotated[str, Meta(min_length=1, description="the directory that is the sandbox's /")] = "/"
    listen: Annotated[
        tuple[str, ...],
        Meta(min_length=1, description="HOST:PORT, unix:PATH, systemd or fd:N; repeatable; port 0 picks one"),
    ] = ("127.0.0.1:8811",)
    token_file: Annotated[
        str | None,
        Meta(
            description="file of tokens, one a line, read again on SIGHUP; unset: systemd's credential, or one is made"
        ),
    ] = None
    insecure: Annotated[bool, Meta(description="ask for no token; only on loopback or a unix socket")] = False
    public_url: Annotated[
        Annotated[str, Meta(pattern=r"^https?://[^/?#]+[^?#]*(?![\s\S])")] | None,
        Meta(
            description="where clients reach the daemon, for URLs that it gives out; unset: as the request says",
            extra=_URL,
        ),
    ] = None
    trusted_proxies: Annotated[
        tuple[str, ...],
        Meta(description="networks (CIDR), or unix, whose Forwarded and X-Forwarded headers count; repeatable"),
    ] = ()
    cors_origins: Annotated[
        tuple[str, ...], Meta(description="origins of web pages that may use the daemon, or *; repeatable")
    ] = ()
    dialects: Annotated[
        tuple[_Dialect, ...],
        Meta(description="the APIs that are served, separated by commas; unset: all that there are"),
    ] = ()
    dialect_at_root: Annotated[
        _Dialect | None,
        Meta(description="the API that is served without its prefix too; what others have there gives way to it"),
    ] = None
    sandbox_id: Annotated[str | None, Meta(description="the sandbox's name; unset: any name is answered to")] = None
    standalone: Annotated[
        bool,
        Meta(description="no control plane: sandboxes are made and deleted here; sandbox_id is then the machine's own"),
    ] = False
    await_init: Annotated[
        bool, Meta(description="be ready, and wait for POST /v1/init to say whose sandbox this is (a warm pool)")
    ] = False
    default_user: Annotated[
        str | None, Meta(description="who owns what is created when a call names no user; unset: the daemon's own")
    ] = None
    workspace: Annotated[
        str, Meta(pattern="^/", description="the working directory; made when missing", extra=_PATH)
    ] = "/workspace"
    cwd: Annotated[
        str | None,
        Meta(description="where relative paths begin, made when missing; unset: the user's home, else workspace"),
    ] = None
    user_access: Annotated[
        Literal["open", "kernel"], Meta(description="whether a named user only owns, or is also bound by its rights")
    ] = "open"
    drain_notice: Annotated[
        float, Meta(ge=0, description="how long requests are still taken after readiness has turned")
    ] = 1
    drain_timeout: Annotated[float, Meta(ge=0, description="how long running requests may take to end")] = 30
    console: Annotated[bool, Meta(description="serve the pages for people, /console and /docs")] = True
    keep_processes: Annotated[bool, Meta(description="leave processes running when the daemon ends")] = False
    end_with_command: Annotated[
        bool, Meta(description="when the command that follows -- ends, drain and exit with its status")
    ] = False
    limits: Limits = Limits()
    uploads: Uploads = Uploads()
    watches: Watches = Watches()
    processes: Processes = Processes()
    terminals: Terminals = Terminals()
    sessions: Sessions = Sessions()
    contexts: Contexts = Contexts()
    handles: Handles = Handles()


class ConfigError(Exception):
    """A setting that cannot be used. `str()` is one line that names the key."""

    def __init__(self, key: str, what: str) -> None:
        super().__init__(f"{key}: {what}")
        self.key = key


class Setting(msgspec.Struct, frozen=True):
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

    @property
    def is_list(self) -> bool:
        return self.default.startswith("[")


class Loaded(msgspec.Struct, frozen=True):
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
        elif setting.is_list:
            shape |= {"action": "append", "metavar": "ADDRESS" if setting.key == "listen" else "VALUE"}
        else:
            shape["metavar"] = setting.key.rpartition(".")[2].upper()
        parser.add_argument(setting.flag, **shape)


def load(file: str | None, environment: Mapping[str, str], flags: Mapping[str, object]) -> Loaded:
    """The configuration from a TOML file (None: none), the environment and flags by key. Raises ConfigError."""
    settings = {setting.key: setting for setting in describe()}
    given: dict[str, tuple[object, str]] = {}
    if file is not None:
        given |= {key: (value, f"file {file}") for key, value in _read(file)}
    given = _credential(environment) | given
    names = {setting.environment: setting.key for setting in settings.values()}
    for variable, text in environment.items():
        if variable.startswith(PREFIX) and not variable.startswith(NOT_SETTINGS):
            given[names.get(variable, variable)] = (text, f"environment {variable}")
    given |= {key: (value, f"flag {settings[key].flag}") for key, value in flags.items()}
    for key, (_, origin) in given.items():
        if key in ("token", "AGENTD_TOKEN"):
            what = "a token is never a value here, where others could read it: name its file"
            raise ConfigError(key, f"{what}, with AGENTD_TOKEN_FILE or --token-file ({origin})")
        if key not in settings:
            raise ConfigError(key, f"there is no such key ({origin})")
    values: dict[str, Any] = {key: _converted(settings[key], *found) for key, found in given.items()}
    sections: dict[str, type[msgspec.Struct]]
    sections = {
        "limits": Limits,
        "uploads": Uploads,
        "watches": Watches,
        "processes": Processes,
        "terminals": Terminals,
        "sessions": Sessions,
        "contexts": Contexts,
        "handles": Handles,
    }
    made: dict[str, Any] = {name: _section(kind, f"{name}.", values) for name, kind in sections.items()}
    config = Config(**made, **values)
    if config.dialects and config.dialect_at_root not in (None, *config.dialects):
        what = f"{config.dialect_at_root} is not one of the dialects that are served"
        raise ConfigError("dialect_at_root", f"{what} ({given['dialect_at_root'][1]})")
    return Loaded(config, {key: given[key][1] if key in given else "default" for key in settings})


def _credential(environment: Mapping[str, str]) -> dict[str, tuple[object, str]]:
    """The token that a service manager has for the daemon, if it has one (systemd.exec(5), LoadCredential=)."""
    path = os.path.join(environment.get("CREDENTIALS_DIRECTORY", ""), "token")
    return {"token_file": (path, "credential token")} if os.path.isabs(path) and os.path.exists(path) else {}


def _section(struct: type[msgspec.Struct], prefix: str, values: dict[str, Any]) -> Any:
    """The Struct of a section; its keys are taken out of ``values``."""
    keys = [key for key in values if key.startswith(prefix)]
    return struct(**{key.removeprefix(prefix): values.pop(key) for key in keys})


def _read(file: str) -> Iterator[tuple[str, object]]:
    import tomllib  # only who has a file pays for it

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
    said = value
    if setting.is_list and isinstance(value, str):
        value = value.replace(",", " ").split()
    if setting.key == "dialects" and isinstance(value, list):
        value = [name for names in value for name in str(names).split(",")]
    if setting.is_size and isinstance(value, str) and (match := SIZE.fullmatch(value.strip())):
        value = int(match[1]) * UNITS[(match[2] or "").upper()]
    try:
        return msgspec.convert(value, setting.type, strict=False)
    except msgspec.ValidationError:
        wanted = _wanted(msgspec.inspect.type_info(setting.type))
        raise ConfigError(setting.key, f"{said!r} is not {wanted} ({origin})") from None


def _wanted(kind: msgspec.inspect.Type, told: str = "") -> str:
    """What a value of this type is, in words. told: what its field says of that."""
    match kind:
        case msgspec.inspect.Metadata():
            return _wanted(kind.type, (kind.extra or {}).get("wanted", ""))
        case msgspec.inspect.UnionType():
            return _wanted(next(one for one in kind.types if not isinstance(one, msgspec.inspect.NoneType)), told)
        case msgspec.inspect.VarTupleType():
            some = "a list of one or more," if kind.min_length else "a list"
            return f"{some} whose items are each {_wanted(kind.item_type)}"
        case msgspec.inspect.LiteralType():
            return f"one of {', '.join(map(str, kind.values))}"
        case msgspec.inspect.BoolType():
            return "true or false"
        case msgspec.inspect.StrType():
            return told or ("a text that is not empty" if kind.min_length else "a text")
        case msgspec.inspect.IntType() | msgspec.inspect.FloatType():
            number = "a whole number" if isinstance(kind, msgspec.inspect.IntType) else "a number of seconds"
            bounds = {"at least": kind.ge, "above": kind.gt, "at most": kind.le}
            said = (f", {words} {bound:,.15g}" for words, bound in bounds.items() if bound is not None)
            return (told or number) + "".join(said)
    raise AssertionError(kind)  # no field is of any other type


def _value(config: Config, key: str) -> Any:
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    return value


def _toml(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
