"""Bind mounts of the reserved tree, made for real in a mount namespace of a child process that ends with it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

CHILD = """
import json, os, subprocess, sys
from agentd.errors import AgentError
from agentd.linux.identity import Identity
from agentd.linux.root import Root

top, use_openat2 = sys.argv[1], sys.argv[2] == "openat2"

def bind(source, target):
    os.makedirs(top + target, exist_ok=True)
    subprocess.run(["mount", "--bind", top + source, top + target], check=True)

def outcome(path):
    try:
        with root.open(path, os.O_RDONLY) as opened:
            opened = opened.path
    except AgentError as error:
        opened = type(error).__name__
    try:
        with root.locate(path, make_parents=Identity(0, 0, (), "root", "/")) as location:
            return [opened, location.path]
    except AgentError as error:
        return [opened, type(error).__name__]

if "own" in sys.argv[3]:
    bind("/workspace", "/workspace")
if "tmpfs" in sys.argv[3]:
    subprocess.run(["mount", "-t", "tmpfs", "none", top + "/workspace"], check=True)
os.makedirs(top + "/workspace/.nullspace/uploads/one")
os.makedirs(top + "/workspace/x y")
for name in ("/workspace/.nullspace/uploads/one/data", "/workspace/x y/data", "/workspace/file"):
    open(top + name, "w").close()
root = Root(top, use_openat2=use_openat2)
root.reserve(os.open(top + "/workspace/.nullspace", os.O_PATH))
bind("/workspace/.nullspace", "/whole")
bind("/workspace/.nullspace/uploads", "/part")
bind("/workspace", "/again")
bind("/workspace/x y", "/in nocent")
bind("/in nocent", "/part/one")
subprocess.run(["mount", "--bind", top + "/workspace/.nullspace/uploads/one/data", top + "/workspace/file"], check=True)
if "moved" in sys.argv[3]:
    os.rename(top + "/workspace/.nullspace", top + "/workspace/moved")
print(json.dumps({path: outcome(path) for path in sys.argv[4:]}))
assert os.listdir(top + "/part") == ["one"]
"""

REFUSED = [
    *("/whole", "/whole/", "/whole/uploads", "/whole/uploads/one/data", "/whole/new"),
    *(
        "/part",
        "/part/new",
        "/part/made/new",
        "/part/one/data",
        "/again/.nullspace",
        "/again/.nullspace/uploads/one/data",
    ),
    *("/workspace/file", "/again/../part/x"),
]
FREE = ["/in nocent", "/in nocent/data", "/again/x y/data", "/workspace/x y/data", "/again", "/proc"]


def outcomes(top: Path, resolver: str, scene: str, paths: list[str]) -> dict[str, list[str]]:
    (top / "proc").mkdir()
    for secret in (top / "workspace/.nullspace").iterdir():
        secret.unlink()
    (top / "workspace/.nullspace").rmdir()
    unshare = ["unshare", "--mount", "--propagation", "private"]
    command = [*unshare, sys.executable, "-c", CHILD, str(top), resolver, scene, *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result: dict[str, list[str]] = json.loads(done.stdout)
    return result


@pytest.mark.parametrize("resolver", ["openat2", "walk"])
@pytest.mark.parametrize("scene", ["same mount", "own mount", "tmpfs"])
def test_mounts_that_show_the_reserved_tree_are_refused_and_no_others(top: Path, resolver: str, scene: str) -> None:
    seen = outcomes(top, resolver, scene, REFUSED + FREE)
    assert {path: seen[path][1] for path in REFUSED} == dict.fromkeys(REFUSED, "PathReserved")
    assert {path: seen[path] for path in FREE} == {path: [path, path] for path in FREE}


def test_mount_of_a_part_is_refused_after_the_tree_was_moved(top: Path) -> None:
    paths = ["/part/new", "/whole/uploads", "/workspace/moved/uploads", "/workspace/file"]
    seen = outcomes(top, "openat2", "moved", paths)
    assert seen == {path: ["PathReserved", "PathReserved"] for path in paths}
