"""The machine: Python and its packages, the kernel, limits, what is around the daemon, programs."""

import importlib.metadata
import importlib.util
import os
import platform
import resource
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from agentd import __version__
from agentd.cli.diagnosis import BROKEN, DEGRADED, NOTE, OK, Check, Finding, Place, said
from agentd.errors import AgentError, NotSupported
from agentd.linux.cgroups import own_directory
from agentd.linux.features import missing_calls
from agentd.linux.inotify import Inotify

OLDEST_PYTHON = (3, 11)
PACKAGES = {"aiohttp": "aiohttp", "uvloop": "uvloop", "msgspec": "msgspec", "xxhash": "xxhash", "google-re2": "re2"}
MIN_FILES = 256  # beside the connections
MIN_WATCHES = 8192
MIN_INSTANCES = 16
WITHOUT = {
    "pidfd": "commands end with the daemon, and their ends are looked for",
    "memfd": "sessions, code for a shell and credentials for git are refused, and each command takes 20 ms more",
}


def python(_: Place) -> Iterator[Finding]:
    what = f"agentd {__version__}, Python {platform.python_version()}"
    level = OK if sys.version_info >= OLDEST_PYTHON else BROKEN
    yield Finding("python", level, what, "" if level == OK else "install Python 3.11 or later")
    missing = [name for name, module in PACKAGES.items() if importlib.util.find_spec(module) is None]
    if missing:
        advice = "install agentd with its dependencies: pip install agentd"
        yield Finding("packages", BROKEN, f"not installed: {', '.join(missing)}", advice)
    else:
        yield Finding("packages", OK, ", ".join(f"{name} {_version(name)}" for name in PACKAGES))


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # as in a tree that was copied without it
        return "of unknown version"


def kernel(_: Place) -> Iterator[Finding]:
    release = f"Linux {os.uname().release}"
    missing = missing_calls()
    if not missing:
        yield Finding("kernel", OK, release)
    for name in missing:
        advice = "Linux 5.3 or later has it, and a seccomp profile has to let it"
        yield Finding("kernel", DEGRADED, f"{release} has no {name}: {WITHOUT[name]}", advice)
    if not os.path.exists("/proc/self/fd"):
        yield Finding("proc", BROKEN, "/proc is not mounted", "mount it: mount -t proc proc /proc")
    elif not os.path.exists("/proc/1/stat"):
        what = "/proc shows only processes of one's own user (hidepid): what other users leave running is not found"
        yield Finding("proc", DEGRADED if os.geteuid() == 0 else NOTE, what, "mount /proc without hidepid")


def around(_: Place) -> Iterator[Finding]:
    found = []
    marks = {"/.dockerenv": "Docker", "/run/.containerenv": "Podman", "/var/run/secrets/kubernetes.io": "Kubernetes"}
    found += [name for path, name in marks.items() if os.path.exists(path)]
    with suppress(OSError):
        found += [name for name in [Path("/run/systemd/container").read_text().strip()] if name]
    place = f"in a container ({', '.join(found)})" if found else "in no container that is known"
    manager = "systemd manages services" if os.path.isdir("/run/systemd/system") else "no systemd"
    yield Finding("surroundings", NOTE, f"{place}; {manager}")


def open_files(place: Place) -> Iterator[Finding]:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = place.config.limits.connections + MIN_FILES
    if hard != resource.RLIM_INFINITY and hard < wanted:
        what = f"at most {hard}, while {place.config.limits.connections} connections and their files need {wanted}"
        yield Finding(
            "open files", DEGRADED, what, "raise it (ulimit -Hn, LimitNOFILE=), or lower --limits-connections"
        )
    else:
        yield Finding("open files", OK, "any number" if hard == resource.RLIM_INFINITY else f"at most {hard}")


def inotify(_: Place) -> Iterator[Finding]:
    try:
        Inotify().close()
        limits = Path("/proc/sys/fs/inotify")
        watches, instances = (int((limits / f"max_user_{name}").read_text()) for name in ("watches", "instances"))
    except NotSupported as error:
        yield Finding("inotify", DEGRADED, error.detail, "have the calls of inotify(7) allowed")
        return
    except AgentError as error:
        yield Finding("inotify", DEGRADED, error.detail, "raise fs.inotify.max_user_instances (sysctl)")
        return
    except (OSError, ValueError):
        yield Finding("inotify", NOTE, "its limits cannot be read")
        return
    what = f"{watches} directories, {instances} watches at once"
    if watches < MIN_WATCHES or instances < MIN_INSTANCES:
        advice = "raise fs.inotify.max_user_watches and fs.inotify.max_user_instances (sysctl)"
        yield Finding("inotify", DEGRADED, f"{what}: a large tree cannot be watched", advice)
    else:
        yield Finding("inotify", OK, what)


def cgroups(place: Place) -> Iterator[Finding]:
    if place.config.processes.cgroup == "off":
        yield Finding("cgroups", OK, "not asked for: descendants are found by a mark that they inherit")
        return
    advice = "delegate one to the daemon (Delegate=yes in a systemd unit), or leave processes.cgroup off"
    try:
        path = own_directory()
    except OSError as error:
        yield Finding("cgroups", DEGRADED, said(error), advice)
        return
    if not os.path.exists(f"{path}/cgroup.type"):
        what = f"{path} is the machine's own cgroup, which is delegated to nobody"
        yield Finding("cgroups", DEGRADED, what, advice)
    elif not os.access(path, os.W_OK):
        yield Finding("cgroups", DEGRADED, f"{path} may not be written to: processes get none", advice)
    else:
        yield Finding("cgroups", OK, path)


def programs(place: Place) -> Iterator[Finding]:
    settings = place.config.processes
    if not os.access(settings.shell, os.X_OK):
        advice = "name another with --processes-shell, or install it"
        yield Finding("shell", DEGRADED, f"{settings.shell} is not there: commands for a shell will fail", advice)
    else:
        yield Finding("shell", OK, settings.shell)
    if shutil.which("git", path=settings.path) is None:
        yield Finding("git", NOTE, "is not in processes.path: the routes for repositories will fail")


CHECKS: tuple[Check, ...] = (python, kernel, around, open_files, inotify, cgroups, programs)
