"""Run by an interpreter that has kubernetes-validate: each object on standard input is what its schema says, strictly.

The engine's own objects are told by their API reference (agents.x-k8s.io/v1beta1): their fields here, what is
Kubernetes' own in them by Kubernetes' schemas.
"""

import sys
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

VERSIONS = ("1.30", "1.37")


def closed(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


TEXT, WHOLE, OBJECT = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "object"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
METADATA = closed([], name=TEXT, labels=TEXTS, annotations=TEXTS)
BLUEPRINT = {
    "podTemplate": closed(["spec"], metadata=closed([], labels=TEXTS, annotations=TEXTS), spec=OBJECT),
    "volumeClaimTemplates": {"type": "array", "items": closed(["spec"], metadata=METADATA, spec=OBJECT)},
    "service": {"type": "boolean"},
}
SPECS = {
    ("agents.x-k8s.io/v1beta1", "Sandbox"): closed(
        ["podTemplate"],
        **BLUEPRINT,
        shutdownTime=TEXT,
        shutdownPolicy={"enum": ["Delete", "Retain"]},
        operatingMode={"enum": ["Running", "Suspended"]},
    ),
    ("extensions.agents.x-k8s.io/v1beta1", "SandboxTemplate"): closed(
        ["podTemplate"],
        **BLUEPRINT,
        networkPolicy=OBJECT,
        networkPolicyManagement={"enum": ["Managed", "Unmanaged"]},
        envVarsInjectionPolicy={"enum": ["Allowed", "Overrides", "Disallowed"]},
        volumeClaimTemplatesPolicy={"enum": ["Allowed", "Overrides", "Disallowed"]},
    ),
    ("extensions.agents.x-k8s.io/v1beta1", "SandboxWarmPool"): closed(
        ["sandboxTemplateRef"],
        replicas=WHOLE,
        ttlSecondsAfterCreated=WHOLE,
        sandboxTemplateRef=closed(["name"], name=TEXT),
    ),
}


def check(found: Any) -> None:
    spec = SPECS.get((found["apiVersion"], found["kind"]))
    if spec is None:
        for version in VERSIONS:
            kubernetes_validate.validate(found, version, strict=True)
        return
    whole = closed(["apiVersion", "kind", "metadata", "spec"], apiVersion=TEXT, kind=TEXT, metadata=METADATA, spec=spec)
    jsonschema.validate(found, whole)
    if "podTemplate" in found["spec"]:
        template = found["spec"]["podTemplate"]
        check(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": "it", **template["metadata"]},
                "spec": template["spec"],
            }
        )
    for claim in found["spec"].get("volumeClaimTemplates", []):
        check({"apiVersion": "v1", "kind": "PersistentVolumeClaim", **claim})


for one in yaml.safe_load_all(sys.stdin):
    check(one)
    print(one["kind"])
