"""What the published client experiences with git: 1.0.x by routes of their own, 0.1.x by commands."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.clients import CURRENT, Client, Refused
from tests.githttp import PASSWORD, USER, Site, serve

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="no git in this machine")

# The version before has no such method, or runs git with paths as they are outside the root.
modern = pytest.mark.parametrize("client", [f"{CURRENT}-sync", f"{CURRENT}-async"], indirect=True)

WHO = {"author_name": "Ann Ö", "author_email": "ann@example.org"}


def git(*arguments: object) -> None:
    subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", *map(str, arguments)], check=True)


@pytest.fixture
def repository(here: Path) -> Path:
    git("init", "-q", "-b", "main", here)
    git("-C", here, "commit", "-q", "--allow-empty", "-m", "first")
    return here


@pytest.fixture
def site(repository: Path, tmp_path: Path) -> Iterator[Site]:
    git("clone", "-q", "--bare", repository, tmp_path / "repositories/r.git")
    with serve(tmp_path / "repositories") as found:
        yield found


def test_changes_are_told_added_and_committed(client: Client, place: str, repository: Path) -> None:
    (repository / "a").write_text("1")
    status = client("git.status", path=place)
    assert (status.branch, status.clean, status.changed_files) == ("main", False, ["a"])
    client("git.add", place, files=["a"])
    client("git.commit", "second: ä", path=place, **WHO)
    assert client("git.status", path=place).clean
    assert subprocess.check_output(["git", "-C", repository, "log", "-1", "--format=%an %s"], text=True) == (
        "Ann Ö second: ä\n"
    )


@modern
def test_branches_are_made_checked_out_listed_and_deleted(client: Client, place: str, repository: Path) -> None:
    client("git.checkout", "side", path=place, create=True)
    client("git.create_branch", place, "third")
    client("git.delete_branch", place, "third")
    found = client("git.branches", place)
    assert (found.current_branch, sorted(found.branches)) == ("side", ["main", "side"])


@modern
def test_commits_are_listed(client: Client, place: str, repository: Path) -> None:
    (commit,) = client("git.log", path=place, limit=5)
    assert (commit.author_name, commit.author_email, commit.message) == ("t", "t@t", "first")


@modern
def test_details_of_the_status_arrive(client: Client, place: str, repository: Path) -> None:
    (repository / "a b").touch()
    status = client("git.status", path=place)
    assert (status.detached, status.ahead, status.behind) == (False, None, None)
    assert [vars(change) for change in status.changed] == [
        {"path": "a b", "status": "??", "staged": False, "unstaged": True, "original_path": None}
    ]


@modern
def test_credentials_let_in_to_clone_push_and_pull(client: Client, place: str, repository: Path, site: Site) -> None:
    auth = {"https": [USER, PASSWORD]}
    for name in ("one", "two"):
        client("git.clone", f"{site.url}/r.git", f"{place}/{name}", branch="main", auth=auth)
    (repository / "one/f").write_text("f")
    client("git.commit", "second", path=f"{place}/one", **WHO)
    client("git.push", path=f"{place}/one", auth=auth, set_upstream=True)
    client("git.pull", path=f"{place}/two", auth=auth)
    assert (repository / "two/f").read_text() == "f"


def test_what_git_says_is_what_the_caller_catches(client: Client, place: str, here: Path) -> None:
    here.mkdir()
    with pytest.raises(Refused) as refused:
        client("git.status", path=place)
    assert refused.value.kind == "GitError"
    assert "not a git repository" in str(refused.value)
