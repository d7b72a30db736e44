"""Drop-ins (systemd.unit(5)), under names that systemd does not read before ``.example`` is taken off."""

LISTEN = """\
# Other addresses: the empty one takes away those of agentd.socket.
[Socket]
ListenStream=
ListenStream=0.0.0.0:8811
ListenStream=/run/agentd.sock
# Who may connect to the file.
SocketMode=0660
SocketGroup={user}
"""

WORKSPACE = """\
# Another workspace, on a disk of its own.
[Unit]
RequiresMountsFor=/srv/workspace

[Service]
Environment=AGENTD_WORKSPACE=/srv/workspace
"""

ENCRYPTED = """\
# A token that is encrypted on the disk: systemd-creds encrypt --name=token - /etc/credstore.encrypted/agentd.token
[Service]
LoadCredentialEncrypted=token:/etc/credstore.encrypted/agentd.token
"""

CGROUPS = """\
# A cgroup for each process and all that it starts: its limits bind them together, and it ends in one stroke.
[Service]
Delegate=yes
Environment=AGENTD_PROCESSES_CGROUP=auto
# A cgroup that hands controllers on takes no processes, so the daemon cannot come back above what it left running: all
# of it ends with the daemon. From systemd 254 on write DelegateSubgroup=agentd instead, and nothing has to.
KillMode=mixed
# The daemon and the sandbox together.
MemoryMax=90%
"""

CONFINED = """\
# One user without root, who gets by with what the machine has: the daemon has no rights either, and is nobody else.
[Service]
User={user}
NoNewPrivileges=yes
CapabilityBoundingSet=
RestrictSUIDSGID=yes
# Nothing can be written but these.
ProtectSystem=strict
ReadWritePaths={workspace} /home/{user} /tmp /var/tmp
# Devices, kernel and clock.
PrivateDevices=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
# What belongs to others is not to be seen.
ProtectProc=invisible
RemoveIPC=yes
# The network, and no other families of sockets.
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
"""


def examples(user: str, workspace: str) -> dict[str, str]:
    """By path below the directory of the units."""
    drop_ins = {
        "agentd.socket.d/listen.conf": LISTEN,
        "agentd.service.d/workspace.conf": WORKSPACE,
        "agentd.service.d/token.conf": ENCRYPTED,
        "agentd.service.d/cgroups.conf": CGROUPS,
        "agentd.service.d/confined.conf": CONFINED,
    }
    return {f"{name}.example": text.format(user=user, workspace=workspace) for name, text in drop_ins.items()}
