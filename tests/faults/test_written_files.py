"""Files that are written and moved while clients leave, disks fill, mounts refuse and daemons die."""

import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Daemon, StartDaemon
from tests.faults.conftest import Mount, fill, run
from tests.filing import FORM, Filing, code, facts, form
from tests.uploading import content_of, reset

MIB = 1 << 20
NOBODY = 65534
# An access control list (acl(5), linux/posix_acl_xattr.h): tag, permissions and id of each line, the mask among them.
ACL = "system.posix_acl_access"
LINES = [(1, 7, -1), (2, 4, NOBODY), (4, 1, -1), (16, 5, -1), (32, 1, -1)]
LIST = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *line) for line in LINES)
Bind = Callable[[Path, Path], None]
NO_FLOOR = ("--uploads-min-free-bytes", "0")


def filing(daemon: Daemon) -> Filing:
    return Filing(daemon, daemon.root / "workspace")


@pytest.fixture
def files(daemon: Daemon) -> Filing:
    return filing(daemon)


# -- clients


@pytest.mark.parametrize("method", ["PUT", "POST"])
@pytest.mark.parametrize("framing", [b"Content-Length: 1000", b"Transfer-Encoding: chunked"])
def test_a_body_that_ends_early_leaves_the_old_file_and_nothing_else(
    files: Filing, method: str, framing: bytes
) -> None:
    files.write("file", "old")
    head = f"{method} /v1/file?path=file HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {files.daemon.token}\r\n"
    for path, leave in (("file", reset), ("a/new", lambda one: one.close())):
        connection = files.daemon.connect()
        text = head.replace("path=file", f"path={path}").encode() + framing + b"\r\n\r\n"
        connection.sendall(text + (b"64\r\n" if framing.endswith(b"chunked") else b"") + b"x" * 100)
        leave(connection)  # type: ignore[no-untyped-call]
    assert files.daemon.term() == 0
    assert [path.name for path in files.home.iterdir() if path.name != ".nullspace"] == ["file"]
    assert (files.home / "file").read_text() == "old"
    assert files.left() == []


def test_a_form_that_ends_early_writes_nothing(files: Filing) -> None:
    body = form(("file", b"content"))
    for cut in (4, 12, len(body) // 2):
        assert code(files.send("new", body[:-cut], "POST", **FORM))[0] == 400
    assert not (files.home / "new").exists()
    assert files.left() == []


def test_of_a_batch_that_ends_early_whole_files_stay(files: Filing) -> None:
    manifest = b'{"files":[{"path":"one","field":"a"},{"path":"two","field":"b"}]}'
    body = form(("manifest", manifest), ("a", b"1"), ("b", b"2"))
    answer = files.daemon.call("POST", "/v1/files/batch-write", body[: body.rindex(b"2")], FORM)
    assert code(answer) == (400, "invalid_request")
    assert ((files.home / "one").read_bytes(), (files.home / "two").exists()) == (b"1", False)
    assert files.left() == []


# -- other file systems


@pytest.fixture(params=["tmpfs", "bind"])
def away(request: pytest.FixtureRequest, mount: Mount, bind: Bind, tmp_path: Path) -> Path:
    """A directory in the workspace that no rename from the daemon's own tree reaches."""
    made = tmp_path / "root/workspace/away"
    made.mkdir(parents=True)
    if request.param == "tmpfs":
        return mount(place=made)
    (tmp_path / "source").mkdir()
    bind(tmp_path / "source", made)
    return made


def test_files_are_written_there_too(away: Path, start_daemon: StartDaemon) -> None:
    files = filing(start_daemon())
    for content in (b"one", content_of(3 * MIB), b""):
        assert files.put("away/a/file", content, user="nobody").status == 204
        assert (away / "a/file").read_bytes() == content
    assert facts(away / "a/file") == (NOBODY, NOBODY, "0644")
    assert code(files.put("away/a/file", b"x", conflict="error")) == (409, "conflict")
    assert os.listdir(away / "a") == ["file"]


def test_trees_are_moved_there_and_back_with_all_that_they_have(away: Path, start_daemon: StartDaemon) -> None:
    files = filing(start_daemon())
    (files.home / "tree/sub").mkdir(parents=True)
    (files.home / "tree/file").write_text("content")
    os.link(files.home / "tree/file", files.home / "tree/sub/same")
    os.chown(files.home / "tree/file", NOBODY, 7)
    (files.home / "tree/file").chmod(0o4711)
    os.setxattr(files.home / "tree/file", ACL, LIST)
    os.utime(files.home / "tree/sub", ns=(5, 6))
    assert files.rename("tree", "away/tree").status == 200
    assert os.getxattr(away / "tree/file", ACL) == LIST
    assert files.rename("away/tree", "back").status == 200
    assert facts(files.home / "back/file") == (NOBODY, 7, "4751")
    assert os.getxattr(files.home / "back/file", ACL) == LIST
    assert (files.home / "back/file").samefile(files.home / "back/sub/same")
    assert (files.home / "back/sub").stat().st_mtime_ns == 6
    assert sorted(os.listdir(files.home)) == [".nullspace", "away", "back"]
    assert (os.listdir(away), files.left()) == ([], [])


@pytest.mark.parametrize("conflict", ["merge", "replace"])
def test_trees_are_put_over_others_there(away: Path, start_daemon: StartDaemon, conflict: str) -> None:
    files = filing(start_daemon())
    for name in ("tree/sub/new", "tree/f", "away/there/sub/old", "away/there/f"):
        files.write(name, name)
    assert files.move("tree", "away/there", conflict=conflict).status == 200
    assert (away / "there/f").read_text() == "tree/f"
    assert sorted(os.listdir(away / "there/sub")) == (["new", "old"] if conflict == "merge" else ["new"])
    assert (os.listdir(away), files.left()) == (["there"], [])


def test_a_tree_with_a_mount_in_it_stays_whole(away: Path, start_daemon: StartDaemon) -> None:
    files = filing(start_daemon())
    files.write("away/kept")
    assert files.rename("away/kept", "up/kept").status == 200
    files.write("outer/file")
    (files.home / "outer/inner").mkdir()
    run("mount", "--bind", str(away), str(files.home / "outer/inner"))
    try:
        assert code(files.op("remove", "outer")) == (409, "conflict")
        assert code(files.rename("outer", "away/outer")) == (409, "conflict")
    finally:
        run("umount", "--lazy", str(files.home / "outer/inner"))
    assert (files.home / "outer/file").exists()


def test_what_is_to_survive_power_loss_is_synced_wherever_it_goes(away: Path, start_daemon: StartDaemon) -> None:
    files = filing(start_daemon("--uploads-durability", "power"))
    assert files.put("a/file", b"x").status == files.put("away/a/file", b"x").status == 204
    assert files.op("append", "a/file", content="y").status == files.copy("a", "away/b").status == 200
    assert files.move("a", "away/b").status == files.rename("away/b", "c").status == 200
    assert files.op("link", "link", target="x").status == files.rename("link", "away/link").status == 200
    assert (files.home / "c/file").read_text() == "xy"
    assert files.left() == []


# -- mounts that refuse


@pytest.fixture
def mounted_file(bind: Bind, tmp_path: Path) -> Path:
    """A file that is a mount of its own, as containers get /etc/hosts: it is seen through at the returned path."""
    (tmp_path / "root/etc").mkdir(parents=True)
    (tmp_path / "root/etc/hosts").touch()
    (tmp_path / "hosts").write_text("the old content, which is longer")
    (tmp_path / "hosts").chmod(0o640)
    bind(tmp_path / "hosts", tmp_path / "root/etc/hosts")
    return tmp_path / "hosts"


def test_a_file_that_is_a_mount_is_written_in_place_and_that_is_logged_once(
    mounted_file: Path, start_daemon: StartDaemon
) -> None:
    files = filing(start_daemon())
    for content in ("one", "two", "two and more"):
        assert files.write("/etc/hosts", content).json()["size"] == len(content)
        assert mounted_file.read_text() == content
    assert files.op("append", "/etc/hosts", content="!").json()["size"] == len(content) + 1
    assert files.put("/etc/hosts", b"", user="nobody").status == 204
    assert facts(mounted_file) == (NOBODY, NOBODY, "0640")
    assert os.listdir(files.daemon.root / "etc") == ["hosts"]
    assert len([line for line in files.daemon.log() if line["level"] == "warning"]) == 1


def test_a_cut_body_leaves_a_file_that_is_a_mount_as_it_was(mounted_file: Path, start_daemon: StartDaemon) -> None:
    files = filing(start_daemon())
    body = form(("file", b"content"))
    assert code(files.send("/etc/hosts", body[:-5], "POST", **FORM)) == (400, "invalid_request")
    assert mounted_file.read_text() == "the old content, which is longer"


def test_a_file_on_a_read_only_mount_is_told_from_a_forbidden_one(
    mount: Mount, tmp_path: Path, start_daemon: StartDaemon
) -> None:
    place = tmp_path / "root/ro"
    place.mkdir(parents=True)
    mount(place=place)
    (place / "file").write_text("old")
    run("mount", "-o", "remount,ro", str(place))
    files = filing(start_daemon())
    files.write("mine")
    calls = [files.write("/ro/file"), files.write("/ro/new"), files.put("/ro/a/b", b"x"), files.op("mkdir", "/ro/dir")]
    calls += [files.op("remove", "/ro/file"), files.op("permissions", "/ro/file", permissions="0600")]
    calls += [files.rename("/ro/file", "/ro/other"), files.rename("mine", "/ro/mine"), files.copy("mine", "/ro/mine")]
    calls += [files.op("append", "/ro/file", content="x"), files.op("link", "/ro/link", target="x")]
    calls += [files.op("owner", "/ro/file", owner="nobody"), files.rename("/ro/file", "file")]
    calls += [files.op("replace", files=["/ro/file"], pattern="old", replacement="new")]
    assert {code(answer) for answer in calls} == {(403, "volume_read_only")}
    assert (files.home / "mine").read_text() == "new"


def test_a_read_only_directory_may_hold_a_file_that_can_be_written(
    mount: Mount, bind: Bind, tmp_path: Path, start_daemon: StartDaemon
) -> None:
    place = tmp_path / "root/ro"
    place.mkdir(parents=True)
    mount(place=place)
    (place / "file").touch()
    (tmp_path / "source").write_text("old")
    bind(tmp_path / "source", place / "file")
    run("mount", "-o", "remount,ro", str(place))
    assert filing(start_daemon()).write("/ro/file", "new").status == 200
    assert (tmp_path / "source").read_text() == "new"


@pytest.fixture
def proc(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "root/proc"
    place.mkdir(parents=True)
    run("mount", "-t", "proc", "proc", str(place))
    yield place
    run("umount", "--lazy", str(place))


def test_a_file_of_the_kernels_is_written_through_and_what_it_refuses_is_said(
    proc: Path, start_daemon: StartDaemon
) -> None:
    files, knob = filing(start_daemon()), "/proc/sys/kernel/core_pipe_limit"
    value = (proc.parent / knob[1:]).read_text()
    for act in ("write", "append"):
        assert files.op(act, knob, content=value).status == 200
        assert code(files.op(act, knob, content="no number")) == (409, "conflict")
    assert code(files.write("/proc/sys/kernel/no-such")) == (403, "permission_denied")
    assert code(files.op("remove", knob)) == (403, "permission_denied")
    assert not [line for line in files.daemon.log() if line["level"] == "warning"]


def test_a_file_of_the_kernels_is_copied_with_what_it_says_and_not_moved(proc: Path, start_daemon: StartDaemon) -> None:
    files = filing(start_daemon())
    assert files.copy("/proc/sys/kernel/ostype", "type").json()["mode"] == "0444"
    assert (files.home / "type").read_text() == "Linux\n"
    assert code(files.rename("/proc/sys/kernel/ostype", "moved")) == (403, "permission_denied")
    assert not (files.home / "moved").exists()


@pytest.mark.parametrize("act", ["write", "append"])
def test_what_the_kernel_has_of_the_daemon_is_not_written(proc: Path, start_daemon: StartDaemon, act: str) -> None:
    files = filing(start_daemon())
    for name in (str(files.daemon.pid), "self"):
        assert files.op(act, f"/proc/{name}/oom_score_adj", content="1000").status == 403
    assert Path(f"/proc/{files.daemon.pid}/oom_score_adj").read_text() != "1000\n"


# -- disks


def test_a_full_disk_is_told_before_the_body_and_leaves_the_old_file(mount: Mount, start_daemon: StartDaemon) -> None:
    root = mount("ext4", 32)
    files = filing(start_daemon(*NO_FLOOR, root=root))
    files.write("file", "old")
    files.put("/large", content_of(5 * MIB))
    fill(root, 4 * MIB)
    for answer in (files.put("file", bytes(8 * MIB)), files.copy("/large", "copy"), files.put("a/b", bytes(8 * MIB))):
        assert code(answer) == (507, "insufficient_storage")
    assert files.op("append", "file", content="x" * 6 * MIB).status == 507
    fill(root, 100_000)
    assert code(files.write("file", "x" * 900_000)) == (507, "insufficient_storage")
    assert (files.home / "file").read_text() == "old"
    assert (sorted(os.listdir(files.home)), files.left()) == ([".nullspace", "file"], [])


def test_some_space_stays_free(mount: Mount, start_daemon: StartDaemon) -> None:
    root = mount("ext4", 32)
    files = filing(start_daemon("--uploads-min-free-bytes", "8MiB", root=root))
    free = os.statvfs(root).f_bavail * os.statvfs(root).f_frsize
    answer = files.put("file", bytes(free - 8 * MIB + 1))
    assert (code(answer), answer.json()["details"]["limit"]) == ((507, "insufficient_storage"), 8 * MIB)
    assert files.put("file", bytes(free - 10 * MIB)).status == 204


# -- deaths


DEATHS = {
    "write.after_body": lambda files: files.put("file", b"new"),
    "write.before_rename": lambda files: files.put("file", b"new"),
    "move.before_rename": lambda files: files.rename("file", "other"),
}


def die(files: Filing, point: str, act: Callable[[Filing], object], passage: int = 1) -> None:
    """Through ``act`` with a daemon that dies at ``point``, and to one that lives."""
    files.daemon.restart(environment={"AGENTD_FAILPOINT": f"{point}=exit:{passage}"})
    with pytest.raises((ConnectionError, OSError)):
        act(files)
    files.daemon.restart(environment={})


@pytest.mark.parametrize("point", DEATHS)
def test_a_daemon_that_dies_before_the_rename_leaves_the_old_file_and_nothing_else(files: Filing, point: str) -> None:
    files.write("file", "old")
    die(files, point, DEATHS[point])
    assert (sorted(os.listdir(files.home)), files.left()) == ([".nullspace", "file"], [])
    assert (files.home / "file").read_text() == "old"
    assert files.write("file").status == 200


@pytest.mark.parametrize(
    ("point", "left"), [("move.before_rename", ["tree"]), ("move.before_delete", ["away", "tree"])]
)
def test_a_daemon_that_dies_in_a_move_across_leaves_one_or_two_whole_trees(
    files: Filing, mount: Mount, point: str, left: list[str]
) -> None:
    away = mount(place=files.home / "away")
    for name in ("tree/a", "tree/sub/b"):
        files.write(f"away/{name}", name)
    die(files, point, lambda files: files.rename("away/tree", "tree"), 2 if point == "move.before_rename" else 1)
    assert (away / "tree/sub/b").read_text() == "tree/sub/b"
    assert (files.home / "tree").exists() is ("away" in left)
    assert files.left() == []
    assert files.move("away/tree", "tree").status == 200
    assert (files.home / "tree/sub/b").read_text() == "tree/sub/b"


def test_a_merge_that_was_interrupted_is_finished_by_another(files: Filing) -> None:
    for name in ("tree/a", "tree/sub/b", "there/sub/c", "there/a"):
        files.write(name, name)
    die(files, "move.after_entry", lambda files: files.move("tree", "there"))
    assert files.move("tree", "there").status == 200
    found = {str(path.relative_to(files.home / "there")) for path in (files.home / "there").rglob("*")}
    assert found == {"a", "sub", "sub/b", "sub/c"}
    assert (files.home / "there/a").read_text() == "tree/a"
    assert not (files.home / "tree").exists()


def test_a_daemon_that_dies_while_it_writes_elsewhere_leaves_nothing_there(files: Filing, mount: Mount) -> None:
    away = mount(place=files.home / "away")
    files.write("away/file", "old")
    die(files, "write.before_rename", lambda files: files.put("away/file", b"new"))
    assert (os.listdir(away), (away / "file").read_text()) == (["file"], "old")


@pytest.mark.parametrize("whose", ["daemon", "somebody"])
def test_what_a_daemon_that_dies_leaves_beside_a_target_is_deleted_by_the_next(
    files: Filing, mount: Mount, whose: str
) -> None:
    away = mount(place=files.home / "away")
    files.write("tree/file", "old")
    files.daemon.restart(environment={"AGENTD_FAILPOINT": "move.before_rename=exit:2"})
    with pytest.raises((ConnectionError, OSError)):
        files.move("tree", "away/tree")
    [left] = away.iterdir()
    if whose == "somebody":
        left.rename(files.home / "away/moved")
        left.mkdir(mode=0o700)
        (left / "own").touch()
    files.daemon.restart(environment={})
    assert sorted(os.listdir(away)) == ([] if whose == "daemon" else [left.name, "moved"])
    assert whose == "daemon" or os.listdir(left) == ["own"]
