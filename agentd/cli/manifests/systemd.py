"""Units for a virtual machine: systemd 252 or later, and what stands beside them.

The daemon runs as root, since it acts as whichever user it is told; what it starts has to find the machine as it is, so
hardly any of systemd's confinement is possible here. One of the drop-ins gives that up, and gets all of it.
"""

import argparse
import ipaddress
import os
import re
import shutil
import sys

from agentd.cli.manifests.systemd_examples import examples

UNITS = "/etc/systemd/system"
# What needs no quoting in any of the files.
_WORD = re.compile(r"[^\s\"'\\%$:;#,*?\[\]]+")
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,30}")

SERVICE = """\
[Unit]
Description=agentd, the toolbox daemon of a sandbox
# The sockets are systemd's: while the daemon is away, at a restart or after a crash, clients wait there.
Requires=agentd.socket
# A disk of its own for the workspace is there first.
RequiresMountsFor={workspace}
# It is started again however often it dies.
StartLimitIntervalSec=0

[Service]
# It says when it is ready, what it does (systemctl status), and that its loop still turns.
Type=notify
NotifyAccess=main
ExecStart={program} serve
# Tokens are read again. Those that systemd hands over only change with a restart.
ExecReload=/bin/kill -HUP $MAINPID

# Any key of the configuration may stand here, or in the file. What the daemon starts sees none of it.
Environment=AGENTD_LISTEN=systemd
Environment=AGENTD_WORKSPACE={workspace}
Environment=AGENTD_DEFAULT_USER={user}
EnvironmentFile=-/etc/agentd/environment
# The token, in a copy that the daemon alone can read. A name without a path is one of the machine's own credentials
# (systemd.exec(5)), or a file in /etc/credstore; without any the daemon makes a token, in .nullspace of the workspace.
LoadCredential=token:{token}

# Opening the uploads of earlier may take a while.
TimeoutStartSec=5min
# Longer than drain_notice, drain_timeout and processes.grace together.
TimeoutStopSec=60
Restart=always
RestartSec=500ms
# EX_CONFIG of sysexits.h: it would fail again. Clients that wait still have it tried, see agentd.socket.
RestartPreventExitStatus=78
# A loop that has not turned for so long is ended; where it hung is in the journal then.
WatchdogSec=30
Environment=PYTHONFAULTHANDLER=1
# No memory, with the token in it, on a disk. What the daemon starts may ask for core dumps again.
LimitCORE=0:infinity

{survival}
# The sandbox runs out of memory, not the daemon; and that one of its processes did is no reason to end the others.
OOMScoreAdjust=-900
Environment=AGENTD_PROCESSES_OOM_SCORE_ADJ=0
OOMPolicy=continue
# All of the sandbox's processes are in this unit; the default is 15 %.
TasksMax=80%

# What nobody needs who works in a sandbox, root in it included: the kernel's modules, memory, clock and switch.
CapabilityBoundingSet=~CAP_SYS_MODULE CAP_SYS_RAWIO CAP_SYS_TIME CAP_SYS_BOOT CAP_WAKE_ALARM CAP_BLOCK_SUSPEND
CapabilityBoundingSet=~CAP_MAC_ADMIN CAP_MAC_OVERRIDE CAP_SYSLOG CAP_AUDIT_CONTROL CAP_SYS_PACCT CAP_LEASE
# A busy real-time process would keep the machine from everything else, this daemon included.
RestrictRealtime=yes
# The rest would break what the daemon is there for:
# NoNewPrivileges=, RestrictSUIDSGID=            sudo, and packages with setuid programs
# ProtectSystem=, ProtectHome=, ReadOnlyPaths=   installing software, everybody's files
# PrivateTmp=, ProtectProc=, PrivateUsers=       another machine than the one that users see when they log in
# PrivateDevices=, DevicePolicy=, ProtectClock=  /dev/fuse, /dev/kvm, /dev/net/tun
# ProtectKernelTunables=, ProtectControlGroups=  containers in the sandbox; with them RestrictNamespaces=
# MemoryDenyWriteExecute=, LockPersonality=      compilers at run time, debuggers
# SystemCallArchitectures=, SystemCallFilter=    programs of 32 bits; whatever is asked for next
# An example beside this file, confined.conf, has most of them, for one user without root.

[Install]
WantedBy=multi-user.target
Also=agentd.socket
"""

SURVIVAL = """\
# Terminals and processes outlive the daemon: systemd ends nothing but the daemon itself, and keeps what it holds open
# for the next one. At `systemctl stop` the daemon ends them; at `systemctl restart` and after a crash they go on.
KillMode=process
RestartKillSignal=SIGUSR2
FileDescriptorStoreMax=4096
"""

SOCKET = """\
[Unit]
Description=Where agentd listens

[Socket]
{streams}
# Of those that are files: for root alone, as the token does not say who asks.
SocketMode=0600
RemoveOnStop=yes
# Addresses that the machine only gets later.
FreeBind=yes
# Who waits starts the daemon. Where it fails again and again, systemd gives up, and those who wait are told.
TriggerLimitIntervalSec=60
TriggerLimitBurst=20

[Install]
WantedBy=sockets.target
"""

SYSUSERS = """\
# Who owns what is made, and runs what is started, when a call names nobody (sysusers.d(5)).
u {user} - "Sandbox" /home/{user} /bin/bash
"""

TMPFILES = """\
# tmpfiles.d(5)
d {workspace} 0755 {user} {user} -
{home}# Of the administrator: `environment`, with further settings; and {token_where}, with the token.
d /etc/agentd 0755 root root -
d /etc/credstore 0700 root root -
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--program", default=_own_command(), metavar="COMMAND", help="what is run (default: this installation)")
    add("--user", default="sandbox", help="whose what is made is, when a call names nobody (default: %(default)s)")
    add("--workspace", default="/workspace", metavar="DIR", help="the working directory (default: %(default)s)")
    what = "IP:PORT or unix:PATH; repeatable (default: 127.0.0.1:8811 and unix:/run/agentd.sock)"
    add("--listen", action="append", metavar="ADDRESS", help=what)
    what = "a file with the token (default: the machine's credential agentd.token, or one is made and kept)"
    add("--token-file", metavar="FILE", help=what)


def files(options: argparse.Namespace) -> dict[str, str]:
    """By path. ValueError for a value that cannot stand in a unit."""
    user, workspace = options.user, _path("workspace", options.workspace)
    if not _USER.fullmatch(user):
        raise ValueError(f"--user: {user!r} is no name for a user of the system")
    program = options.program.split(" ")
    if not program[0].startswith("/") or not all(map(_WORD.fullmatch, program)):
        raise ValueError(f"--program: {options.program!r} is no absolute path with plain arguments")
    if not workspace.strip("/"):
        raise ValueError("--workspace: the whole machine would be the user's; name a directory in it")
    token = "agentd.token" if options.token_file is None else _path("token-file", options.token_file)
    values = {
        "program": options.program,
        "user": user,
        "workspace": workspace,
        "token": token,
        "token_where": "/etc/credstore/agentd.token" if options.token_file is None else token,
        "home": "" if user == "root" else f"d /home/{user} 0750 {user} {user} -\n",
        "streams": "\n".join(map(_stream, options.listen or ["127.0.0.1:8811", "unix:/run/agentd.sock"])),
        "survival": SURVIVAL,
    }
    found = {
        f"{UNITS}/agentd.service": SERVICE.format(**values),
        f"{UNITS}/agentd.socket": SOCKET.format(**values),
        "/etc/sysusers.d/agentd.conf": SYSUSERS.format(**values),
        "/etc/tmpfiles.d/agentd.conf": TMPFILES.format(**values),
    }
    if user == "root":
        del found["/etc/sysusers.d/agentd.conf"]
    return found | {f"{UNITS}/{name}": text for name, text in examples(user, workspace).items()}


def _own_command() -> str:
    script = shutil.which("agentd", path=os.path.dirname(sys.executable))
    return script or f"{sys.executable} -m agentd"


def _path(option: str, text: str) -> str:
    if not text.startswith("/") or not _WORD.fullmatch(text):
        raise ValueError(f"--{option}: {text!r} is no absolute path of plain characters")
    return text


def _stream(address: str) -> str:
    """The line for an address as the daemon's own ``listen`` has it."""
    if address.startswith("unix:"):
        return f"ListenStream={_path('listen', address.removeprefix('unix:'))}"
    host, _, port = address.rpartition(":")
    try:
        where = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        raise ValueError(f"--listen: {address!r} is not IP:PORT or unix:PATH; systemd looks up no names") from None
    if "%" in host:
        raise ValueError(f"--listen: {address!r} names an interface; BindToDevice= of the socket can")
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"--listen: {address!r} has no port from 1 to 65535")
    return f"ListenStream={f'[{where}]' if where.version == 6 else where}:{int(port)}"
