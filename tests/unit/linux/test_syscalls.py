import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd.linux import syscalls


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_PATH)
    yield fd
    os.close(fd)


def test_openat2_stays_beneath_its_root_and_is_close_on_exec(directory: int, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    fd = syscalls.openat2(directory, "/../../f", os.O_RDONLY, syscalls.RESOLVE_IN_ROOT)
    assert os.read(fd, 9) == b"x"
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_error_of_the_kernel_carries_errno_and_name(directory: int) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        syscalls.openat2(directory, "absent", os.O_PATH, 0)
    assert caught.value.filename == "absent"


def test_openat2_takes_names_that_are_no_utf_8(directory: int, tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff")).touch()
    os.close(syscalls.openat2(directory, "\udcff", os.O_PATH, 0))


def test_rename_noreplace_leaves_what_is_there(directory: int, tmp_path: Path) -> None:
    (tmp_path / "new").write_text("new")
    (tmp_path / "old").write_text("old")
    with pytest.raises(FileExistsError):
        syscalls.renameat2(directory, "new", directory, "old", syscalls.RENAME_NOREPLACE)
    assert (tmp_path / "old").read_text() == "old"


def test_rename_exchange_swaps_two_entries_at_once(directory: int, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "file").touch()
    syscalls.renameat2(directory, "tree", directory, "file", syscalls.RENAME_EXCHANGE)
    assert (tmp_path / "tree").is_file()
    assert (tmp_path / "file").is_dir()


def test_fallocate_keeps_the_size_and_takes_offsets_past_4_gib(tmp_path: Path) -> None:
    with open(tmp_path / "f", "wb") as file:
        syscalls.fallocate(file.fileno(), syscalls.FALLOC_FL_KEEP_SIZE, 5 << 30, 4096)
        status = os.fstat(file.fileno())
    assert (status.st_size, status.st_blocks * 512) == (0, 4096)


def test_sync_file_range_takes_what_was_written(tmp_path: Path) -> None:
    with open(tmp_path / "f", "wb", buffering=0) as file:
        file.write(b"x" * 4096)
        syscalls.sync_file_range(file.fileno(), 0, 4096)
        with pytest.raises(OSError, match="Invalid argument"):
            syscalls.sync_file_range(file.fileno(), -1, 4096)


def test_close_range_closes_the_fds_between_its_ends() -> None:
    first = os.open("/", os.O_PATH)
    syscalls.close_range(first, first)
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        os.fstat(first)
    assert caught.value.errno == errno.EBADF


def test_mount_id_is_the_number_in_mountinfo(directory: int) -> None:
    proc = os.open("/proc", os.O_PATH)
    lines = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    place = {int(line[0]): line[4] for line in lines}
    assert place[syscalls.mount_id(proc) or 0] == "/proc"
    assert syscalls.file_system_type(proc) == syscalls.PROC_SUPER_MAGIC
    os.close(proc)


def test_mount_id_of_an_absent_name_is_an_error(directory: int) -> None:
    with pytest.raises(FileNotFoundError):
        syscalls.mount_id(directory, "absent")


def test_file_system_ids_and_groups_change_in_the_calling_thread_alone() -> None:
    seen: list[tuple[int, int, list[int]]] = []

    def other() -> None:
        syscalls.setgroups([7, 8])
        syscalls.setfsgid(40002)
        syscalls.setfsuid(40001)
        seen.append((syscalls.setfsuid(-1), syscalls.setfsgid(-1), os.getgroups()))

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert seen == [(40001, 40002, [7, 8])]
    assert (syscalls.setfsuid(-1), syscalls.setfsgid(-1)) == (os.geteuid(), os.getegid())


def test_faccessat2_decides_by_the_file_system_ids_of_the_thread(directory: int, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    refused: list[str] = []

    def other() -> None:
        syscalls.setfsuid(40001)
        flags = syscalls.AT_EACCESS | syscalls.AT_EMPTY_PATH
        syscalls.faccessat2(directory, "", os.X_OK, flags)
        with pytest.raises(PermissionError):
            syscalls.faccessat2(directory, "", os.W_OK, flags)
        refused.append("write")

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert refused == ["write"]


def test_capabilities_come_back_from_the_permitted_set() -> None:
    before = syscalls.capget()
    syscalls.capset(before._replace(effective=0))
    assert syscalls.capget().effective == 0
    syscalls.capset(before)
    assert syscalls.capget() == before
