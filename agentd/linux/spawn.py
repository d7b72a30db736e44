"""Starts programs as anybody, at the same cost whoever that is and however large the daemon has become.

Each begins as a launcher (see `linux.launcher`), by posix_spawn(3). That beats ``subprocess`` with ``user=``, which has
to fork (53 ms at 500 MB, against 1), and an exec through setpriv(1), which is not in every image and cannot wait until
all is ready: its limits (setrlimit(2)), its mark (see `linux.descendants`), its cgroup and what the kernel kills first
are those of the program from its first instruction on.
"""

import errno
import logging
import os
import resource
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress

import msgspec

from agentd.errors import AgentError, ExecFailed, PermissionDenied, ProgramNotFound, Unavailable
from agentd.linux import launching, syscalls
from agentd.linux.cgroups import Cgroup, Cgroups
from agentd.linux.descendants import put_mark
from agentd.linux.descriptor import Descriptor
from agentd.linux.identity import Identity, acting_as, change_to, refusal
from agentd.linux.launcher import Launcher, Refused, launcher
from agentd.linux.reaping import ending
from agentd.linux.steps import Steps
from agentd.linux.threads import Pool

SPAWN = Pool("spawn", 8)

_log = logging.getLogger("agentd.processes")


class Limits(msgspec.Struct, frozen=True):
    """setrlimit(2), soft and hard. None leaves what the daemon was started with; more than that is not possible.

    cpu_seconds: SIGXCPU, then SIGKILL. memory_bytes: of address space, each process of its own. processes: of the user,
    all together, but for the one that is started itself. open_files: also the soft limit. file_bytes: the largest file
    that may be written. In a cgroup, memory and processes are also those of the child and all that it starts, together.
    """

    cpu_seconds: int | None = None
    memory_bytes: int | None = None
    processes: int | None = None
    open_files: int | None = None
    file_bytes: int | None = None

    def within(self, most: "Limits") -> "Limits":
        """Each at most what ``most`` has, which is also what stands where nothing was asked for."""
        pairs = ((getattr(self, name), getattr(most, name)) for name in self.__struct_fields__)
        return Limits(*(min((n for n in pair if n is not None), default=None) for pair in pairs))

    def items(self) -> Iterator[tuple[int, int]]:
        """(number of the limit, value) of those that are set."""
        named = {
            resource.RLIMIT_CPU: self.cpu_seconds,
            resource.RLIMIT_AS: self.memory_bytes,
            resource.RLIMIT_NPROC: self.processes,
            resource.RLIMIT_NOFILE: self.open_files,
            resource.RLIMIT_FSIZE: self.file_bytes,
        }
        yield from ((number, value) for number, value in named.items() if value is not None)


class Settings(msgspec.Struct, frozen=True):
    """What all children have in common.

    open_files: soft limit of open files. nice, oom_score_adj: of children (nice(2), proc_pid_oom_score_adj(5)), None
    for the daemon's own; better than the daemon's own is for the privileged alone, and otherwise left. cgroups: where
    each child gets one of its own; None for none. launcher: None for the best that runs here.
    """

    open_files: int
    nice: int | None = None
    oom_score_adj: int | None = None
    cgroups: Cgroups | None = None
    launcher: Launcher | None = None


class Child(Descriptor):
    """A program that was started. fd: readable once it ended, see `reaping.ending`. Not reaped: that is the
    owner's to do (wait4(2)). mark: see `linux.descendants`; 0 where there is none. since: on the monotonic clock.
    cgroup: of its own, the owner's to remove."""

    def __init__(self, pid: int, fd: int, mark: int, since: float, cgroup: Cgroup | None = None) -> None:
        super().__init__(fd)
        self.pid = pid
        self.mark = mark
        self.since = since
        self.cgroup = cgroup


def spawn(
    argv: Sequence[str],
    *,
    identity: Identity,
    cwd: int,
    env: Mapping[str, str],
    fds: Mapping[int, int],
    settings: Settings,
    limits: Limits | None = None,
    terminal: bool = False,
    mark: int = 0,
) -> Steps[Child]:
    """Starts a program in a session of its own, and is done when that runs; for the pool SPAWN.

    argv: its first is looked for in ``env["PATH"]``, as the user, unless there is a slash in it. cwd: fd of the working
    directory. fds: by number in the child, our fds, 0 to 2 at least; they stay the caller's. terminal: fd 0 is a
    terminal, which is given to the user and becomes the controlling one.
    Raises ProgramNotFound, PermissionDenied (also where the user may not enter ``cwd``), ExecFailed, Unavailable.
    """
    _check_texts(argv, env)
    change, limits = change_to(identity), limits or Limits()
    if identity.uid != 0:
        _hand_nothing_on()
    paths = list(_candidates(argv[0], env.get("PATH", "")))
    try:
        launch = (settings.launcher or launcher()).begin(paths, argv, env, cwd=cwd, fds=fds, terminal=terminal)
    except OSError as error:
        raise _refusal(argv[0], error) from None
    child, cgroup = None, None
    with closing(launch):
        try:
            if settings.cgroups is not None:
                cgroup = _entered(settings.cgroups, launch.pid, limits)
            if terminal:
                os.fchown(fds[0], identity.uid, -1)
            mark = put_mark(launch.pid, mark) if mark else 0
            _bound(launch.pid, settings, limits)
            child = Child(launch.pid, _ending(launch.pid), mark, time.monotonic(), cgroup)
            if (refused := (yield from launch.go(change))) is not None:
                raise _meaning(refused, argv[0], paths, cwd, identity)
        except BaseException:
            launch.kill()
            if child is not None:
                child.close()
            if cgroup is not None:
                cgroup.remove()
            raise
    return child


def _check_texts(argv: Sequence[str], env: Mapping[str, str]) -> None:
    if not argv or not argv[0]:
        raise ExecFailed("there is no command; name a program")
    for text in (*argv, *env, *env.values()):
        try:
            if b"\0" in os.fsencode(text):
                raise ExecFailed(f"{text[:80]!r} has a NUL byte in it, which no argument or variable can have")
        except UnicodeEncodeError:
            raise ExecFailed(f"{text[:80]!r} has characters that cannot be passed on; send UTF-8") from None
    for name in env:
        if not name or "=" in name:
            raise ExecFailed(f"{name[:80]!r} is no name of a variable; it has to have characters, and none is '='")


def _hand_nothing_on() -> None:
    """No capability of this thread is handed on to a program of another user by way of its file's (capabilities(7)).

    The ambient ones go with the inheritable ones. The others go with the uid."""
    own = syscalls.capget()
    if own.inheritable:
        syscalls.capset(own._replace(inheritable=0))


def _candidates(name: str, path: str) -> Iterator[str]:
    """Where execvp(3) would look."""
    if "/" in name:
        yield name
    else:
        yield from (f"{directory or '.'}/{name}" for directory in path.split(":"))


def _entered(cgroups: Cgroups, pid: int, limits: Limits) -> Cgroup | None:
    """None where the machine gives none: then the process is found and ended by its mark alone."""
    cgroup = None
    try:
        cgroup = cgroups.make(limits.memory_bytes, limits.processes)
        cgroup.add(pid)
    except OSError as error:
        _log.warning("a process has no cgroup: %s", error.strerror)
        if cgroup is not None:
            cgroup.remove()
        return None
    return cgroup


def _bound(pid: int, settings: Settings, limits: Limits) -> None:
    """A process that is the daemon's own still, so that lowering takes no privilege."""
    _limit(pid, resource.RLIMIT_NOFILE, settings.open_files, None)
    for number, value in limits.items():
        _limit(pid, number, value, value)
    if settings.nice is not None:
        with suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, pid, settings.nice)
    if settings.oom_score_adj is not None:
        with suppress(OSError), open(f"/proc/{pid}/oom_score_adj", "wb", 0) as file:
            file.write(b"%d" % settings.oom_score_adj)


def _limit(pid: int, number: int, soft: int, hard: int | None) -> None:
    """prlimit(2). hard: None leaves it."""
    with suppress(PermissionError):  # gVisor, for some of them
        _, most = resource.prlimit(pid, number)
        if most != resource.RLIM_INFINITY:
            soft, hard = min(soft, most), most if hard is None else min(hard, most)
        resource.prlimit(pid, number, (soft, most if hard is None else hard))


def _ending(pid: int) -> int:
    try:
        return ending(pid)
    except OSError:
        raise Unavailable("no file descriptor is left to watch the process with; repeat later") from None


def _meaning(refused: Refused, name: str, paths: Sequence[str], cwd: int, identity: Identity) -> AgentError:
    """What the launcher reported, of the program of that name."""
    error, step = refused
    if step == launching.IDS:
        return refusal(identity, f"the kernel refuses ({error.strerror})")
    if step == launching.DIRECTORY:
        what = f"user {identity.name!r} may not be in the working directory ({error.strerror}); name another as cwd"
        return PermissionDenied(what, user=identity.name)
    if error.errno == errno.EACCES and "/" not in name and not _is_one_there(paths, cwd, identity):
        error = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    return _refusal(name, error)


def _is_one_there(paths: Sequence[str], cwd: int, identity: Identity) -> bool:
    """A file, as far as the user sees it; or there are only directories that it may not enter."""
    with acting_as(identity):
        for path in paths:
            with suppress(OSError):
                if stat.S_ISREG(os.stat(path, dir_fd=cwd).st_mode):
                    return True
    return False


def _refusal(name: str, error: OSError) -> AgentError:
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            where = "it, or the interpreter that it asks for, is not there" if "/" in name else "it is not in PATH"
            return ProgramNotFound(f"cannot run {name!r}: {where}; install it, or give its path", program=name)
        case errno.EACCES | errno.EPERM:
            what = "the user may not execute it, or not enter a directory on the way to it"
            return PermissionDenied(f"cannot run {name!r}: {what}", program=name)
        case errno.ENOEXEC | errno.ELIBBAD:
            what = "it is no program for this machine, and no script that begins with #!"
            return ExecFailed(f"cannot run {name!r}: {what}", program=name)
        case errno.E2BIG:
            return ExecFailed(f"cannot run {name!r}: arguments and variables are too long; pass a file", program=name)
        case errno.EAGAIN | errno.ENOMEM | errno.EMFILE | errno.ENFILE:
            what = "no process, memory or file descriptor is left for it"
            return Unavailable(f"cannot run {name!r}: {what}; end something and repeat", program=name)
    return ExecFailed(f"cannot run {name!r}: {error.strerror}", program=name)
