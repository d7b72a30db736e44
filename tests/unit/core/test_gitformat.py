"""What git says, taken apart; and what may be said to it."""

import pytest

from agentd.core.gitformat import Change, check_name, check_url, is_ssh, log, scrubbed, site, status
from agentd.errors import InvalidRequest

HASH = "0" * 40
TWO = f"{HASH} {HASH}"
THREE = f"{TWO} {HASH}"


def said(*records: str) -> bytes:
    return b"".join(record.encode("utf-8", "surrogateescape") + b"\0" for record in records)


def test_a_clean_tree_has_its_branch_alone() -> None:
    found = status(
        said(f"# branch.oid {HASH}", "# branch.head main", "# branch.upstream origin/main", "# branch.ab +2 -1")
    )
    assert (found.branch, found.ahead, found.behind, found.changes) == ("main", 2, 1, [])


@pytest.mark.parametrize(("line", "branch"), [("(detached)", None), ("feature/x y", "feature/x y")])
def test_a_detached_head_has_no_branch(line: str, branch: str | None) -> None:
    found = status(said("# branch.oid (initial)", f"# branch.head {line}"))
    assert (found.branch, found.ahead, found.behind) == (branch, None, None)


@pytest.mark.parametrize(
    ("records", "change"),
    [
        ([f"1 .M N... 100644 100644 100644 {TWO} a b"], Change("a b", ".M", False, True)),
        ([f"1 A. N... 000000 100644 100644 {TWO} \udcff\n"], Change("\udcff\n", "A.", True, False)),
        ([f"1 MM S.M. 160000 160000 160000 {TWO} sub"], Change("sub", "MM", True, True)),
        (
            [f"2 R. N... 100644 100644 100644 {TWO} R100 new name", "old name"],
            Change("new name", "R.", True, False, "old name"),
        ),
        ([f"u UU N... 100644 100644 100644 100644 {THREE} both"], Change("both", "UU", False, True)),
        (["? # branch.head x"], Change("# branch.head x", "??", False, True)),
        (["! ignored"], None),
        (["z of the future"], None),
    ],
)
def test_each_kind_of_change_is_understood(records: list[str], change: Change | None) -> None:
    assert status(said("# branch.head main", *records)).changes == ([change] if change else [])


def test_commits_keep_their_messages_as_they_are() -> None:
    text = said(HASH, "A B", "a@b", "2026-01-01T00:00:00+01:00", "subject\n\nbody\n", HASH, "", "", "", "")
    first, second = log(text)
    assert (first.author_name, first.message, second.message) == ("A B", "subject\n\nbody", "")
    assert log(b"") == []


@pytest.mark.parametrize("name", ["", "-f", "--upload-pack=touch x", "a\nb", "a\0b"])
def test_a_name_that_git_could_take_for_something_else_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest):
        check_name(name, "branch")


@pytest.mark.parametrize("url", ["https://user:pw@host/x", "http://token@host/x", "HTTPS://a@b", "-u", ""])
def test_a_url_with_credentials_is_refused_before_git_writes_it_down(url: str) -> None:
    with pytest.raises(InvalidRequest):
        check_url(url)


@pytest.mark.parametrize(
    ("url", "where", "ssh"),
    [
        ("https://host.example:8443/a/b@c.git", "https://host.example:8443", False),
        ("http://[::1]:80/", "http://[::1]:80", False),
        ("HTTPS://Host", "https://Host", False),
        ("ssh://git@host/x", None, True),
        ("git@host:x/y.git", None, True),
        ("host:x", None, True),
        ("/srv/x.git", None, False),
        ("./a:b", None, False),
        ("ext::sh -c x", None, False),
        ("git://host/x", None, False),
        ("https://ho st/x", None, False),
    ],
)
def test_credentials_go_to_the_site_of_the_url_alone(url: str, where: str | None, ssh: bool) -> None:
    assert (site(check_url(url)), is_ssh(url)) == (where, ssh)


def test_secrets_are_taken_out_the_longest_first() -> None:
    assert scrubbed("for secret-token: secret, ab", ("secret", "secret-token", "ab")) == "for ***: ***, ab"
