"""A Pod, and for the agent-sandbox engine (kubernetes-sigs, v1beta1) a Sandbox, and a SandboxTemplate with a pool.

Kubernetes 1.30 or later (`preStop` with `sleep`). The objects stand on their own: the daemon asks nothing of the
engine but to be started, probed and stopped.
"""

import argparse
import re
import secrets
import sys
from collections.abc import Mapping
from hashlib import sha256
from textwrap import indent

from agentd import __version__
from agentd.config import Config

KINDS = ("pod", "sandbox", "template")
PRESTOP_SECONDS = 2
SPARE_SECONDS = 10
# In quotes, as `true` and `1e3` are names, too. RFC 1123 label; what is made of it has a suffix of at most 10
# characters, and a label has 63.
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,50}[a-z0-9])?")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]*")
_QUANTITY = re.compile(r"[1-9][0-9]*(Ki|Mi|Gi|Ti)")

TOKENS = """\
apiVersion: v1
kind: Secret
metadata:
  name: "{secret}"
  labels: {labels}
type: Opaque
# The digest of a token that was made just now and told on standard error: what runs in the sandbox as the daemon's own
# user may read this file, and can do nothing with it. One a line: a second one for the time of a rotation.
stringData:
  token: sha256:{digest}
"""

CLAIM = """\
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: {name}-workspace
  labels: {labels}
{claim}
"""

CLAIM_SPEC = """\
spec:
  accessModes: [ReadWriteOnce]
  resources:
    requests:
      storage: {storage}
"""

ONE_USER = """\
# Everything is done as this one user. `agentd manifest kubernetes --users` prints what acting as several takes.
runAsNonRoot: true
runAsUser: 1000
runAsGroup: 1000
"""

MANY_USERS = """\
# Root, with what it takes to act as other users, and no more.
runAsUser: 0
runAsGroup: 0
"""

POD_SPEC = """\
# The sandbox's processes get neither the cluster's credentials nor the names of its services.
automountServiceAccountToken: false
enableServiceLinks: false
# preStop, drain_notice, drain_timeout and processes.grace, and some to spare.
terminationGracePeriodSeconds: {grace}
securityContext:
  # A volume that is mounted again is left as it is: the daemon's own directory on it has to stay 0700.
  fsGroup: 1000
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
containers:
- name: sandbox
  image: "{image}"
  # The sandbox's own command would be here, as args: the daemon runs it beside itself.
  env:
  - name: AGENTD_LISTEN
    value: "0.0.0.0:8811"
  - name: AGENTD_TOKEN_FILE
    value: /run/agentd/token
  - name: AGENTD_WORKSPACE
    value: /workspace
{init}\
  ports:
  - name: agentd
    containerPort: 8811
  # Uploads of earlier are taken up again before it is ready.
  startupProbe:
    httpGet: {{path: /livez, port: agentd}}
    periodSeconds: 1
    failureThreshold: 120
  livenessProbe:
    httpGet: {{path: /livez, port: agentd}}
    periodSeconds: 10
    timeoutSeconds: 5
  # The switch of the engine's router: 503 as soon as the daemon is asked to end.
  readinessProbe:
    httpGet: {{path: /readyz, port: agentd}}
    periodSeconds: 2
    timeoutSeconds: 2
    failureThreshold: 1
  lifecycle:
    preStop:
      # Until nobody sends new requests any more; then SIGTERM, the drain.
      sleep: {{seconds: {prestop}}}
  resources:
    requests: {{cpu: 100m, memory: 128Mi}}
    # What the sandbox may use, all its processes together.
    limits: {{cpu: "2", memory: 2Gi}}
  securityContext:
{user}\
    allowPrivilegeEscalation: {escalation}
    readOnlyRootFilesystem: true
    capabilities:
      drop: [ALL]
{capabilities}\
  volumeMounts:
  - name: workspace
    mountPath: /workspace
  - name: tmp
    mountPath: /tmp
  - name: token
    mountPath: /run/agentd
    readOnly: true
volumes:
{workspace}\
- name: tmp
  emptyDir: {{}}
- name: token
  secret:
    secretName: "{secret}"
    defaultMode: 0440
"""

WORKSPACE = """\
- name: workspace
  persistentVolumeClaim:
    claimName: {name}-workspace
"""

INIT = """\
  # Ready before it is anybody's: POST /v1/init with the token says whose sandbox it is.
  - name: AGENTD_AWAIT_INIT
    value: "true"
"""

ANNOTATIONS = """\
labels: {labels}
annotations:
  # /metrics wants the token as everything does: the scraper's `authorization` has it.
  prometheus.io/scrape: "true"
  prometheus.io/port: "8811"
  prometheus.io/path: /metrics
"""

POD = """\
apiVersion: v1
kind: Pod
metadata:
  name: "{name}"
{annotations}\
spec:
{spec}"""

ENGINE = """\
apiVersion: {group}/v1beta1
kind: {kind}
metadata:
  name: "{name}"
  labels: {labels}
spec:
  # One headless Service, by which the engine's router finds the daemon.
  service: true
  podTemplate:
    metadata:
{annotations}\
    spec:
{spec}\
  # It outlives a suspended sandbox, whose pod is gone: uploads, and what POST /v1/init said, go on from here.
  volumeClaimTemplates:
  - metadata:
      name: workspace
{claim}"""

POOL = """\
apiVersion: extensions.agents.x-k8s.io/v1beta1
kind: SandboxWarmPool
metadata:
  name: {name}-pool
  labels: {labels}
spec:
  replicas: 2
  sandboxTemplateRef:
    name: "{name}"
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kind", choices=(*KINDS, "all"), default="all", help="what to print (default: all)")
    parser.add_argument("--name", default="agentd", help="of the objects (default: agentd)")
    image = f"localhost/agentd:{__version__}"
    parser.add_argument("--image", default=image, help=f"made from the Containerfile (default: {image})")
    parser.add_argument("--storage", metavar="SIZE", default="10Gi", help="of the workspace's volume (default: 10Gi)")
    parser.add_argument("--secret", metavar="NAME", help="a Secret that is there, with the key token; else one is made")
    parser.add_argument("--users", action="store_true", help="as root, so that calls may name a user to act as")


def files(options: argparse.Namespace) -> Mapping[str, str]:
    """One file. ValueError for a name, an image or a size that Kubernetes would not take."""
    for what, pattern, text in (
        ("name", _NAME, options.name),
        ("secret", _NAME, options.secret or options.name),
        ("image", _IMAGE, options.image),
        ("storage", _QUANTITY, options.storage),
    ):
        if not pattern.fullmatch(text):
            raise ValueError(f"--{what} {text!r} is not one that Kubernetes takes")
    kinds = KINDS if options.kind == "all" else (options.kind,)
    facts = {
        "name": options.name,
        "image": options.image,
        "secret": options.secret or f"{options.name}-token",
        "labels": f'{{app.kubernetes.io/name: "{options.name}"}}',
    }
    objects = [] if options.secret else [_token(facts)]
    for kind in kinds:
        objects += _objects(kind, facts, options)
    return {"agentd.yaml": "---\n".join(objects)}


def _token(facts: Mapping[str, str]) -> str:
    token = secrets.token_urlsafe(32)
    print(f"agentd manifest: the token, which is told only now: {token}", file=sys.stderr)
    return TOKENS.format(digest=sha256(token.encode()).hexdigest(), **facts)


def _objects(kind: str, facts: Mapping[str, str], options: argparse.Namespace) -> list[str]:
    claim = CLAIM_SPEC.format(storage=options.storage)
    annotations = ANNOTATIONS.format(**facts)
    spec = _pod_spec(kind, facts, users=options.users)
    if kind == "pod":
        pod = POD.format(annotations=indent(annotations, "  "), spec=indent(spec, "  "), **facts)
        return [CLAIM.format(claim=claim.rstrip(), **facts), pod]
    group = "agents.x-k8s.io" if kind == "sandbox" else "extensions.agents.x-k8s.io"
    engine = ENGINE.format(
        group=group,
        kind="Sandbox" if kind == "sandbox" else "SandboxTemplate",
        annotations=indent(annotations, "      "),
        spec=indent(spec, "      "),
        claim=indent(claim, "    "),
        **facts,
    )
    return [engine] if kind == "sandbox" else [engine, POOL.format(**facts)]


def _pod_spec(kind: str, facts: Mapping[str, str], *, users: bool) -> str:
    config = Config()
    seconds = config.drain_notice + config.drain_timeout + config.processes.grace
    needed = "CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SYS_PTRACE, SYS_RESOURCE"
    return POD_SPEC.format(
        grace=PRESTOP_SECONDS + int(seconds) + SPARE_SECONDS,
        prestop=PRESTOP_SECONDS,
        init=INIT if kind == "template" else "",
        workspace=WORKSPACE.format(**facts) if kind == "pod" else "",
        user=indent(MANY_USERS if users else ONE_USER, "    "),
        escalation="true" if users else "false",
        capabilities=f"      add: [{needed}]\n" if users else "",
        **facts,
    )
