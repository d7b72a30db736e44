"""Starts programs as anybody, at the same cost whoever that is and however large the daemon has become.

A thread of the pool SPAWN takes on the user's credentials, which the kernel keeps per thread, and calls posix_spawn(3);
the child inherits them. That beats ``subprocess`` with ``user=``, which has to fork (53 ms at 500 MB, against 1),
and an exec through setpriv(1), which is one program more to start and is not in every image.

Limits are the kernel's per process, and nothing runs in the child before the program does. So the soft limits that are
to be there from the first instruction are the daemon's own for the moment of the start: RLIMIT_NOFILE, unless the
daemon itself needs more just then; RLIMIT_NPROC, which root does not feel; and RLIMIT_RTTIME, which binds nobody here
(sched(7), real-time only) and is the mark by which a process is known as a descendant of its leader, whatever it does
with sessions, parents and environment. The hard limits and the other soft ones are set right after the start, to the
program and to what it has forked by then: they bind a little later.
"""

import errno
import fcntl
import logging
import os
import resource
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from agentd.errors import ExecFailed, PermissionDenied, ProgramNotFound, Unavailable
from agentd.linux import syscalls
from agentd.linux.cgroups import Cgroup, Cgroups
from agentd.linux.descendants import find
from agentd.linux.descriptor import Descriptor
from agentd.linux.identity import Identity, becoming
from agentd.linux.oserrors import os_errors
from agentd.linux.posix_spawn import posix_spawn
from agentd.linux.threads import Pool

SPAWN = Pool("spawn", 8)
# resource.h; the module resource has no name for it.
RTTIME = 15
# Fds that the daemon may still open while its soft limit is that of a child.
_SPARE_FDS = 16
_LAST_FD = 2**32 - 1

_moment = threading.Lock()
_log = logging.getLogger("agentd.processes")


@dataclass(frozen=True, slots=True)
class Limits:
    """setrlimit(2), soft and hard. None leaves what the daemon was started with; more than that is not possible.

    cpu_seconds: SIGXCPU, then SIGKILL. memory_bytes: of address space, each process of its own. processes: of the user,
    all together. open_files: also the soft limit. file_bytes: the largest file that may be written. In a cgroup, memory
    and processes are also those of the child and all that it starts, together.
    """

    cpu_seconds: int | None = None
    memory_bytes: int | None = None
    processes: int | None = None
    open_files: int | None = None
    file_bytes: int | None = None

    def within(self, most: "Limits") -> "Limits":
        """Each at most what ``most`` has, which is also what stands where nothing was asked for."""
        pairs = ((getattr(self, name), getattr(most, name)) for name in self.__slots__)
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


@dataclass(frozen=True, slots=True)
class Settings:
    """What all children have in common.

    open_files: soft limit of open files. nice, oom_score_adj: of children (nice(2), proc_pid_oom_score_adj(5)), None
    for the daemon's own; better than the daemon's own is for the privileged alone, and otherwise left. cgroups: where
    each child gets one of its own; None for none.
    """

    open_files: int
    nice: int | None = None
    oom_score_adj: int | None = None
    cgroups: Cgroups | None = None


class Child(Descriptor):
    """A program that was started. fd: its pidfd, readable once it ended (pidfd_open(2)). Not reaped: that is the
    owner's to do (wait4(2)). mark: see `linux.descendants`; 0 where there is none. since: on the monotonic clock.
    cgroup: of its own, the owner's to remove."""

    def __init__(self, pid: int, pidfd: int, mark: int, since: float, cgroup: Cgroup | None = None) -> None:
        super().__init__(pidfd)
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
) -> Child:
    """Starts a program in a session of its own. Blocks until it runs; call it in a thread of SPAWN.

    argv: its first is looked for in ``env["PATH"]``, as the user, unless there is a slash in it. cwd: fd of the working
    directory. fds: by number in the child, our fds, 0 to 2 at least; they stay the caller's. terminal: fd 0 is a
    terminal, which is given to the user and becomes the controlling one.
    Raises ProgramNotFound, PermissionDenied (also where the user may not enter ``cwd``), ExecFailed, Unavailable.
    """
    _check_texts(argv, env)
    with ExitStack() as closing:
        pairs = list(_above(fds, closing))
        with suppress(OSError):  # before Linux 5.11; what is opened here is close-on-exec without it
            syscalls.close_range(3, _LAST_FD, syscalls.CLOSE_RANGE_CLOEXEC)
        _renice(settings.nice)
        if terminal:
            os.fchown(fds[0], identity.uid, -1)
        limits, is_root = limits or Limits(), os.geteuid() == 0
        with becoming(identity):
            with os_errors("enter", f"/proc/self/fd/{cwd}"):
                _enter(cwd, identity)
            files = limits.open_files or settings.open_files
            early: dict[int, int | None] = {resource.RLIMIT_NOFILE: files, RTTIME: mark or None}
            if is_root:
                early[resource.RLIMIT_NPROC] = limits.processes
            if max(fds.values()) + _SPARE_FDS > files:
                del early[resource.RLIMIT_NOFILE]
            with _inherited(early) as inherited:
                since = time.monotonic()
                pid = _started(argv, env, cwd, pairs, terminal)
            if resource.RLIMIT_NOFILE not in inherited:
                _limit(pid, resource.RLIMIT_NOFILE, files, None)
            mark = mark if RTTIME in inherited else 0
            if found := dict(limits.items()):
                _each(pid, mark, lambda one: _limit_all(one, found))
        if settings.oom_score_adj is not None:
            with suppress(OSError), open(f"/proc/{pid}/oom_score_adj", "wb", 0) as file:
                file.write(b"%d" % settings.oom_score_adj)
        cgroup = None if settings.cgroups is None else _entered(settings.cgroups, pid, mark, limits)
        return Child(pid, _pidfd(pid), mark, since, cgroup)


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


def _above(fds: Mapping[int, int], closing: ExitStack) -> Iterator[tuple[int, int]]:
    """(ours, theirs), ours above all of theirs: no dup2 hits what a later one needs."""
    highest = max(fds)
    for theirs, ours in sorted(fds.items()):
        if ours <= highest:
            ours = fcntl.fcntl(ours, fcntl.F_DUPFD_CLOEXEC, highest + 1)
            closing.callback(os.close, ours)
        yield ours, theirs


def _renice(nice: int | None) -> None:
    """This thread, whose niceness the child inherits (setpriority(2))."""
    if nice is not None and os.getpriority(os.PRIO_PROCESS, 0) != nice:
        with suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, nice)


def _enter(cwd: int, identity: Identity) -> None:
    try:
        os.stat(".", dir_fd=cwd)
    except PermissionError:
        raise PermissionDenied(
            f"user {identity.name!r} may not enter the working directory; name another as cwd", user=identity.name
        ) from None


@contextmanager
def _inherited(limits: Mapping[int, int | None]) -> Iterator[frozenset[int]]:
    """The daemon's own soft limits are these until it ends, and so a child's. Gives the numbers of those that are."""
    with _moment, ExitStack() as after:
        changed = set()
        for number, value in limits.items():
            soft, hard = resource.getrlimit(number)
            if value is not None and (hard == resource.RLIM_INFINITY or value <= hard):
                resource.setrlimit(number, (value, hard))
                after.callback(resource.setrlimit, number, (soft, hard))
                changed.add(number)
        yield frozenset(changed)


def _started(
    argv: Sequence[str], env: Mapping[str, str], cwd: int, fds: Sequence[tuple[int, int]], terminal: bool
) -> int:
    """The first of the candidates that can be executed."""
    variables = [f"{name}={value}" for name, value in env.items()]
    refused: OSError | None = None
    for path in _candidates(argv[0], env.get("PATH", ""), cwd):
        try:
            return posix_spawn(path, argv, variables, cwd=cwd, fds=fds, terminal=terminal)
        except OSError as error:
            refused = error
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
                break
    raise _refusal(argv[0], refused)


def _candidates(name: str, path: str, cwd: int) -> Iterator[str]:
    """Where execvp(3) would look, as far as there are files."""
    if "/" in name:
        yield name
        return
    for directory in path.split(":"):
        candidate = f"{directory or '.'}/{name}"
        with suppress(OSError):
            if stat.S_ISREG(os.stat(candidate, dir_fd=cwd).st_mode):
                yield candidate


def _refusal(name: str, error: OSError | None) -> Exception:
    number = error.errno if error else errno.ENOENT
    match number:
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
    return ExecFailed(f"cannot run {name!r}: {error.strerror if error else 'nothing is there'}", program=name)


def _each(pid: int, mark: int, act: Callable[[int], None]) -> None:
    """For the program, which hands it on to whatever it forks from now on, and whatever it has forked already."""
    done: set[int] = set()
    new = {pid}
    while new:
        for one in new:
            act(one)
        done |= new
        new = find([mark], [pid]).keys() - done


def _entered(cgroups: Cgroups, pid: int, mark: int, limits: Limits) -> Cgroup | None:
    """None where the machine gives none: then the process is found and ended by its mark alone."""
    try:
        cgroup = cgroups.make(limits.memory_bytes, limits.processes)
    except OSError as error:
        _log.warning("a process has no cgroup: %s", error.strerror)
        return None

    def enter(one: int) -> None:
        with suppress(OSError):  # it has ended
            cgroup.add(one)

    _each(pid, mark, enter)
    return cgroup


def _limit_all(pid: int, limits: Mapping[int, int]) -> None:
    for number, value in limits.items():
        _limit(pid, number, value, value)


def _limit(pid: int, number: int, soft: int, hard: int | None) -> None:
    """prlimit(2), as the child's own user, which needs no privilege to lower a limit. It may have ended already.

    hard: None leaves it."""
    with suppress(ProcessLookupError, PermissionError):
        _, most = resource.prlimit(pid, number)
        if most != resource.RLIM_INFINITY:
            soft, hard = min(soft, most), most if hard is None else min(hard, most)
        resource.prlimit(pid, number, (soft, most if hard is None else hard))


def _pidfd(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        raise Unavailable("no file descriptor is left to watch the process with; repeat later") from error
