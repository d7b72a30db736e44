"""The daemon dies at every named place, and keeps its promises: see `Story` for what they are."""

import ast
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import agentd
from agentd.failpoints import FAILPOINTS, VARIABLE
from tests.conftest import StartDaemon
from tests.process.harness.mounts import mounted
from tests.process.harness.sender import Refused
from tests.process.harness.shapes import (
    FILE,
    FILE_ELSEWHERE,
    FILE_ERROR,
    FILE_OVER,
    SHAPES,
    TREE_MERGE,
    TREE_MERGE_ELSEWHERE,
    TREE_NEW_ELSEWHERE,
    TREE_REPLACE,
    TREE_REPLACE_ELSEWHERE,
    Shape,
)
from tests.process.harness.site import Site, Story
from tests.process.harness.trees import inodes, seen

pytestmark = pytest.mark.exhaustive

FILES = tuple(shape for shape in SHAPES if shape.is_file)
MERGES = (TREE_MERGE, TREE_MERGE_ELSEWHERE)
ONCE = tuple(shape for shape in SHAPES if shape not in MERGES)
EXPIRING = ("--uploads-lifetime", "0.3")
FORGETTING = ("--uploads-retention", "0")


@dataclass(frozen=True)
class Crash:
    """What is uploaded, how it ends, and which passage of the failpoint is meant. before: where the daemons before it
    die, in order; their upload is completed. flags: of the one that dies at the failpoint."""

    shape: Shape = FILE
    passage: int = 1
    end: str = "complete"
    durability: str = "process"
    before: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "-".join([str(self.shape), str(self.passage), self.end, self.durability, *self.before])


def _each(shapes: tuple[Shape, ...], *passages: int) -> list[Crash]:
    return [Crash(shape, passage) for shape in shapes for passage in passages or (1,)]


# Those of files that are written and moved have their own tests, in tests/faults.
OF_UPLOADS = [name for name in FAILPOINTS if not name.startswith(("write.", "move."))]

# Passages of a commit: four parts, then the intent, then what was published.
COMMITS = [
    Crash(FILE, 3),
    Crash(FILE, 5),
    Crash(FILE_OVER, 6, durability="power"),
    Crash(FILE, 5, end="abort"),
]
TREES = (TREE_REPLACE, TREE_NEW_ELSEWHERE, TREE_MERGE_ELSEWHERE)
SOME = (FILE, FILE_ELSEWHERE, *TREES)

# How each place is reached. A failpoint that is missing here fails its test.
REACHED: dict[str, list[Crash]] = {
    "create.after_mkdir": [Crash(), Crash(durability="power")],
    "create.after_header": [Crash()],
    "create.after_rename": [Crash(), Crash(durability="power")],
    "create.before_ack": [Crash()],
    "part.after_first_write": _each((FILE,), 1, 3),
    "part.after_last_write": [Crash(passage=2)],
    "part.after_digest": [Crash(passage=4), Crash(durability="power")],
    "sync.before_data": COMMITS,
    "sync.after_data": COMMITS,
    "sync.after_journal": COMMITS,
    "sync.before_ack": COMMITS,
    "complete.after_seal": [Crash()],
    "complete.after_hash": _each((FILE, TREE_MERGE)),
    "complete.after_unpack": _each(TREES),
    "complete.after_copy": _each((FILE_ELSEWHERE,)),
    "complete.after_chown": _each(SOME),
    "complete.after_intent": _each(SHAPES),
    "complete.after_rename": [*_each(SHAPES), Crash(TREE_REPLACE, durability="power")],
    "complete.after_published": _each(SOME),
    "complete.mid_cleanup": _each((FILE_ELSEWHERE, TREE_REPLACE, TREE_REPLACE_ELSEWHERE), 1, 2),
    "merge.after_entry": _each(MERGES, 1, 2, 3),
    "abort.after_record": [Crash(end="abort"), Crash(end="abort", durability="power")],
    "abort.mid_unlink": [
        *(Crash(passage=passage, end="abort") for passage in (1, 2)),
        Crash(TREE_MERGE, end="abort", before=("complete.after_unpack",)),
        Crash(end="expire", flags=EXPIRING),
    ],
    "recover.after_scan": [
        Crash(before=("part.after_digest",)),
        Crash(TREE_REPLACE, before=("complete.after_intent",)),
    ],
    "recover.after_redo": [Crash(shape, before=("complete.after_rename",)) for shape in ONCE],
    "recover.mid_cleanup": [Crash(before=("create.after_header",)), Crash(before=("create.after_mkdir",))],
    "sweep.after_record": [Crash(end="expire", flags=EXPIRING)],
    "sweep.after_rename": [
        Crash(end="expire", flags=(*EXPIRING, *FORGETTING)),
        Crash(end="abort", flags=FORGETTING),
    ],
}
CRASHES = [
    pytest.param(name, crash, id=f"{name}-{crash}") for name in OF_UPLOADS for crash in REACHED.get(name, [None])
]

# Deaths while a completion is taken up again that an earlier daemon died in.
AGAIN = [
    *(("complete.after_unpack", "complete.after_intent", shape) for shape in TREES),
    ("complete.after_copy", "complete.after_intent", FILE_ELSEWHERE),
    *(("complete.after_chown", "complete.after_intent", shape) for shape in FILES),
    *(("complete.after_intent", "complete.after_intent", shape) for shape in (FILE_OVER, TREE_NEW_ELSEWHERE)),
    *(("complete.after_rename", "complete.after_intent", shape) for shape in (FILE_ERROR, *SOME)),
    *(("complete.after_unpack", "merge.after_entry", shape) for shape in MERGES),
    *(("merge.after_entry", "merge.after_entry", shape) for shape in MERGES),
    *(("complete.mid_cleanup", "complete.after_rename", shape) for shape in (TREE_REPLACE, TREE_REPLACE_ELSEWHERE)),
]


def _through(site: Site, name: str, crash: Crash) -> Story:
    """Up to the last death, and a daemon after it that does not die."""
    site.durability = crash.durability
    story = Story(site, crash.shape)
    for earlier in crash.before:
        story.die(f"{earlier}=exit", "complete")
    story.die(f"{name}=exit:{crash.passage}", crash.end, *crash.flags)
    site.start()
    return story


@pytest.mark.parametrize(("name", "crash"), CRASHES)
def test_a_daemon_killed_at_a_failpoint_loses_tears_and_leaves_nothing(site: Site, name: str, crash: Crash) -> None:
    assert crash is not None, "no scenario reaches this failpoint"
    story = _through(site, name, crash)
    story.check_kept()
    story.finish(crash.end)
    story.check_gone()
    if crash.end != "complete":
        story.check_forgotten()


@pytest.mark.parametrize("name", [name for name in OF_UPLOADS if not name.startswith("recover.")])
def test_a_fault_at_a_failpoint_is_answered_and_leaves_the_daemon_and_its_promises_whole(site: Site, name: str) -> None:
    crash = REACHED[name][0]
    story = Story(site, crash.shape)
    story.stumble(f"{name}=error:{crash.passage}", crash.end, *crash.flags)
    site.start()
    story.check_kept()
    story.finish(crash.end)
    story.check_gone()


@pytest.mark.parametrize("shape", [FILE_OVER, TREE_REPLACE, FILE_ELSEWHERE], ids=str)
def test_a_fault_after_the_rename_is_made_good_by_the_next_complete(site: Site, shape: Shape) -> None:
    story = Story(site, shape)
    daemon = site.start("complete.after_rename=error")
    story.sender.create(daemon)
    story.sender.send(daemon)
    with pytest.raises(Refused) as refused:
        story.sender.complete(daemon)
    assert refused.value.answer.status == 500
    assert story.sender.complete(daemon)["session"]["status"] == "completed"
    assert seen(story.target) == story.after
    story.check_gone()


@pytest.mark.parametrize(("name", "before", "shape"), AGAIN)
def test_a_completion_may_be_interrupted_in_each_of_its_lives(site: Site, name: str, before: str, shape: Shape) -> None:
    story = _through(site, name, Crash(shape, before=(before,)))
    story.check_kept()
    story.finish("complete")
    story.check_gone()


@pytest.mark.parametrize(
    ("name", "crash"),
    [
        ("complete.after_intent", Crash(FILE_ELSEWHERE, 1)),
        ("complete.after_intent", Crash(FILE_ELSEWHERE, 2)),
        ("complete.after_copy", Crash(FILE_ELSEWHERE)),
        ("complete.after_rename", Crash(FILE_ELSEWHERE)),
        ("complete.after_intent", Crash(TREE_REPLACE_ELSEWHERE, 2)),
        ("complete.after_rename", Crash(TREE_REPLACE_ELSEWHERE)),
        ("merge.after_entry", Crash(TREE_MERGE_ELSEWHERE, 2)),
    ],
    ids=str,
)
def test_nothing_else_holds_where_another_mount_of_one_device_is_found_out_by_the_rename(
    site: Site, bound: Path, name: str, crash: Crash
) -> None:
    site.away = bound
    story = _through(site, name, crash)
    story.check_kept()
    story.finish(crash.end)
    story.check_gone()


@pytest.mark.parametrize("passage", [1, 2, 3])
def test_what_is_copied_into_a_mount_below_the_target_leaves_no_copy_behind(
    site: Site, tmp_path: Path, passage: int
) -> None:
    story = Story(site, TREE_MERGE)
    shutil.copytree(story.target / "sub", tmp_path / "below")
    with mounted(tmp_path / "below", story.target / "sub"):
        story.before, story.after = seen(story.target), story.after | {"sub": seen(story.target)["sub"]}
        story.die(f"complete.after_copy=exit:{passage}", "complete")
        site.start()
        story.check_kept()
        story.sender.send(site.daemon)
        story.sender.complete(site.daemon)
        assert seen(story.target).keys() == story.after.keys()


@pytest.mark.parametrize("name", ["create.after_mkdir", "create.after_header", "create.after_rename"])
def test_a_create_that_failed_leaves_nothing_and_its_key_can_be_used_again(site: Site, name: str) -> None:
    story = Story(site, FILE)
    daemon = site.start(f"{name}=error")
    with pytest.raises(Refused):
        story.sender.create(daemon)
    assert site.left() == []
    story.finish("complete")
    assert len(site.left()) == 1


@pytest.mark.parametrize("name", ["part.after_digest", "complete.after_unpack", "complete.mid_cleanup"])
def test_a_second_recovery_changes_nothing(site: Site, name: str) -> None:
    _through(site, name, Crash(TREE_REPLACE))
    assert site.daemon is not None
    site.daemon.term()
    once = inodes(site.uploads)
    site.start().term()
    assert inodes(site.uploads) == once


def test_a_failpoint_that_does_not_exist_is_refused(start_daemon: StartDaemon, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=rf"ended with {os.EX_CONFIG}: agentd: {VARIABLE}: 'part.nowhere=exit'"):
        start_daemon("--insecure", environment={VARIABLE: "part.nowhere=exit"})


def test_each_failpoint_is_passed_in_the_code_and_each_one_passed_is_listed() -> None:
    named = {text for path in Path(agentd.__file__).parent.rglob("*.py") for text in _failpoints(path)}
    assert named == set(FAILPOINTS)


def _failpoints(path: Path) -> Iterator[str]:
    """What a module gives to ``hit``, and what it gives to others that looks like a failpoint for ``hit``."""
    groups = {name.partition(".")[0] for name in FAILPOINTS}
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        for argument in ast.walk(ast.Module([ast.Expr(one) for one in node.args], [])):
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                group, _, step = argument.value.partition(".")
                hits = isinstance(node.func, ast.Name) and node.func.id == "hit"
                if hits or (group in groups and step.startswith(("mid_", "after_", "before_"))):
                    yield argument.value
