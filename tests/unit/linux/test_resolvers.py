"""Path texts and farms of links: what the two resolvers open, judged by /proc/self/fd and by the kernel's own walk."""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from agentd.errors import AgentError, PathReserved
from agentd.linux import syscalls
from agentd.linux.root import Root

BOB = 40001
RESERVED = "workspace/.nullspace"
DIRECTORIES = ("", "workspace", "workspace/d", "private", RESERVED)
# Names of what is there, links among them, and ways from one to another.
_PLACES = [f"{name}/{end}" for name in DIRECTORIES for end in ("", *("file", "a", "b", "c") * 2)]
_STEPS = ("", "", "", ".", "..", "../d", "../..", "../workspace", "file", "a", "b", "c", "../../../..", ".nullspace")
TEXTS = st.builds(
    lambda start, place, steps, end: (start + "/".join((place.strip("/"), *steps)) + end) or ".",
    st.sampled_from(["/", "/", "//", "/./", "../", "../../", ""]),
    st.sampled_from(_PLACES),
    st.lists(st.sampled_from(_STEPS), max_size=3),
    st.sampled_from(["", "", "", "/", "/."]),
)
# A slash at the end of a link's text means nothing here; to the kernel it means that a file there is refused.
_TARGETS = TEXTS.map(lambda text: re.sub(r"(?<=.)(/\.?)+$", "", text))
FARMS = st.dictionaries(
    st.tuples(st.sampled_from(DIRECTORIES[:-1]), st.sampled_from("abc")), _TARGETS, min_size=4, max_size=12
)


@contextmanager
def sandbox(farm: dict[tuple[str, str], str], owner: int) -> Iterator[Path]:
    """Everything is root's and open to none, but for the links, which are the ``owner``'s."""
    with tempfile.TemporaryDirectory() as place:
        top = Path(place, "top")
        for name in DIRECTORIES:
            (top / name).mkdir(parents=True, exist_ok=True)
            (top / name / "file").write_text(name)
            (top / name).chmod(0o700 if name in ("private", RESERVED) else 0o755)
        Path(place, "file").write_text("outside")
        for (directory, name), target in farm.items():
            (top / directory / name).symlink_to(target)
            os.chown(top / directory / name, owner, owner, follow_symlinks=False)
        yield top


def found(top: Path, path: str, *, openat2: bool) -> str:
    """What is opened, by its path on this machine, or the error's name."""
    root = Root(str(top), use_openat2=openat2)
    reserved = os.open(top / RESERVED, os.O_PATH)
    root.reserve(reserved)
    os.close(reserved)
    try:
        with root.open(path, os.O_RDONLY) as opened:
            place = os.readlink(f"/proc/self/fd/{opened.fd}")
            assert opened.path == place.removeprefix(str(top)) or (opened.path, place) == ("/", str(top))
            return place
    except AgentError as error:
        return type(error).__name__
    finally:
        root.close()


def judged(top: Path, path: str, flags: int = 0) -> str | None:
    """What the kernel opens for root in a root of its own (openat2(2), RESOLVE_IN_ROOT); None where it refuses."""
    fd = os.open(top, os.O_PATH)
    try:
        opened = syscalls.openat2(fd, path, os.O_RDONLY, syscalls.RESOLVE_IN_ROOT | flags)
    except OSError:
        return None
    finally:
        os.close(fd)
    place = os.readlink(f"/proc/self/fd/{opened}")
    os.close(opened)
    return place


def within(place: str, directory: Path) -> bool:
    return f"{place}/".startswith(f"{directory}/")


@settings(max_examples=150, deadline=None)
@given(FARMS, st.lists(TEXTS, min_size=1, max_size=6))
def test_both_resolvers_open_what_the_kernel_would_and_nothing_of_the_reserved_tree(
    farm: dict[tuple[str, str], str], paths: list[str]
) -> None:
    with sandbox(farm, 0) as top:
        for path in (f"/{text}" for text in paths):
            outcomes = {found(top, path, openat2=openat2) for openat2 in (True, False)}
            assert len(outcomes) == 1, (path, outcomes)
            (outcome,) = outcomes
            judge = judged(top, path)
            if judge is not None and within(judge, top / RESERVED):
                assert outcome == PathReserved.__name__
            elif judge is not None and outcome != PathReserved.__name__:
                assert outcome == judge
            else:
                assert not outcome.startswith("/")


@settings(max_examples=150, deadline=None)
@given(FARMS, st.lists(TEXTS, min_size=1, max_size=6))
def test_a_users_links_open_what_that_user_may_open(farm: dict[tuple[str, str], str], paths: list[str]) -> None:
    with sandbox(farm, BOB) as top:
        for path in (f"/{text}" for text in paths):
            outcomes = {found(top, path, openat2=openat2) for openat2 in (True, False)}
            assert len(outcomes) == 1, (path, outcomes)
            (outcome,) = outcomes
            if judged(top, path, syscalls.RESOLVE_NO_SYMLINKS) is not None or not outcome.startswith("/"):
                continue
            assert outcome == judged(top, path)
            assert not within(outcome, top / "private")
            assert not within(outcome, top / RESERVED)
