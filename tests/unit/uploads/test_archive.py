"""What an uploaded archive becomes, and what it may not contain."""

import os
import random
import shutil
import stat
import subprocess
import tarfile
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentd.errors import (
    ArchiveEntryUnsupported,
    ArchiveLinkInvalid,
    ArchivePathInvalid,
    InsufficientStagingSpace,
    SizeLimitExceeded,
)
from agentd.linux.copying import Stopped
from agentd.uploads.archive import ArchiveLimits, Unpacked, unpack
from tests.archives import END, LIMITS, Place, checked, entry, folder, header, link, pax, record, tar
from tests.descriptors import nothing_stays_open


@pytest.fixture
def place(tmp_path):
    """`place.unpack(archive)` unpacks into the new directory `place.tree`."""
    return Place(tmp_path)


@pytest.fixture
def tmpfs(tmp_path):
    """A small file system of its own, 1 MiB."""
    path = tmp_path / "tmpfs"
    path.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", path]).returncode:
        pytest.skip("may not mount")
    yield path
    subprocess.run(["umount", path], check=True)


def test_files_directories_and_links_come_out_as_they_went_in(place):
    result = place.unpack(
        tar(folder("sub", 0o750), entry("sub/b.bin", content=b"bb"), link("sub/l", "b.bin"), entry("z", mode=0o600))
    )
    assert result == Unpacked(entries=4, files=2, bytes=2)
    assert place.names() == ["sub", "sub/b.bin", "sub/l", "z"]
    assert (place.tree / "sub/l").read_bytes() == b"bb"
    assert os.readlink(place.tree / "sub/l") == "b.bin"
    assert [place.mode(name) for name in ("sub", "sub/b.bin", "z")] == [0o750, 0o644, 0o600]


def test_archive_of_zeros_alone_is_an_empty_directory(place):
    assert place.unpack(bytes(10_240)) == Unpacked(entries=0, files=0, bytes=0)
    assert place.names() == []


def test_top_directory_is_left_to_the_publisher(place):
    place.unpack(tar(folder("./", 0o777), entry("./a")), owner=(1234, 1234))
    assert place.names() == ["a"]
    found = place.tree.stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o700, 0)


def test_names_survive_whatever_their_bytes(place):
    names = ["x" * 255, "d" * 100 + "/" + "e" * 200, "Grüße", os.fsdecode(b"\xff\xfe latin \xe9"), "new\nline", " "]
    place.unpack(tar(*(entry(name, content=b"!") for name in names)))
    assert all(os.path.getsize(os.path.join(place.tree, name)) == 1 for name in names)


def test_link_targets_survive_whatever_their_bytes(place):
    targets = ["t" * 300, os.fsdecode(b"\xff"), ".", "a/../b"]
    place.unpack(tar(*(link(f"l{number}", target) for number, target in enumerate(targets))))
    assert [os.readlink(place.tree / f"l{number}") for number in range(4)] == targets


@pytest.mark.parametrize("tar_format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_names_come_through_in_both_formats(place, tar_format):
    name = "/".join(["n" * 200] * 10)
    place.unpack(tar(entry(name, content=b"1"), link("l", "t/" * 400 + "t"), tar_format=tar_format))
    assert (place.tree / name).read_bytes() == b"1"
    assert os.readlink(place.tree / "l") == "t/" * 400 + "t"


def test_old_ustar_prefix_is_part_of_the_name(place):
    name = "p" * 90 + "/" + "q" * 90
    place.unpack(tar(entry(name, content=b"1"), tar_format=tarfile.USTAR_FORMAT))
    assert (place.tree / name).read_bytes() == b"1"


def test_read_only_directory_before_its_children_gets_its_mode_in_the_end(place):
    place.unpack(tar(folder("d", 0o555), folder("d/e", 0o000), entry("d/e/f", mode=0o400, content=b"x")))
    assert [place.mode(name) for name in ("d", "d/e", "d/e/f")] == [0o555, 0o000, 0o400]


def test_set_id_and_sticky_bits_survive_the_change_of_owner(place):
    modes = {"suid": 0o4755, "sgid": 0o2755, "dir": 0o3777}
    place.unpack(tar(entry("suid", mode=0o4755), entry("sgid", mode=0o2755), folder("dir", 0o3777)), owner=(1, 1))
    assert {name: place.mode(name) for name in modes} == modes


def test_everything_belongs_to_the_owner_even_what_was_made_unasked(place):
    place.unpack(tar(entry("made/f"), link("made/l", "f"), folder("d", 0o500)), owner=(1234, 4321))
    owners = {(found.st_uid, found.st_gid) for found in map(os.lstat, place.tree.rglob("*"))}
    assert owners == {(1234, 4321)}


def test_without_an_owner_all_is_the_process_own(place):
    place.unpack(tar(entry("a/f"), link("l", "a")))
    assert {os.lstat(path).st_uid for path in place.tree.rglob("*")} == {os.geteuid()}


def test_parents_that_no_member_names_are_made_0755(place):
    old = os.umask(0o077)
    try:
        result = place.unpack(tar(entry("a/b/c")))
    finally:
        os.umask(old)
    assert [place.mode(name) for name in ("a", "a/b", "a/b/c")] == [0o755, 0o755, 0o644]
    assert result.entries == 3


def test_children_of_a_set_group_id_directory_keep_their_own_group_and_mode(place):
    place.unpack(tar(folder("d", 0o2775), folder("d/e"), entry("d/f")), owner=(5, 6))
    assert [place.mode(name) for name in ("d", "d/e", "d/f")] == [0o2775, 0o755, 0o644]


def test_times_of_the_archive_are_not_applied(place):
    place.unpack(tar(entry("f")))
    assert (place.tree / "f").stat().st_mtime > 1_000_000_000


def test_unknown_pax_records_are_ignored(place):
    records = {"comment": "hello", "SCHILY.xattr.user.x": "y", "mtime": "1.5", "VENDOR.thing": "z"}
    assert place.unpack(tar(entry("f", content=b"1", **records))).files == 1


def test_hard_link_to_an_earlier_file_shares_it(place):
    place.unpack(tar(entry("a", content=b"1"), entry("d/b", tarfile.LNKTYPE, link="a")))
    assert os.path.samefile(place.tree / "a", place.tree / "d/b")


def test_later_member_replaces_an_earlier_file_or_link_of_its_name(place):
    place.unpack(tar(entry("a", content=b"long"), entry("b", tarfile.LNKTYPE, link="a"), entry("a", content=b"2")))
    assert ((place.tree / "a").read_bytes(), (place.tree / "b").read_bytes()) == (b"2", b"long")
    place.unpack(tar(link("l", "b"), entry("l", content=b"3")))
    assert ((place.tree / "b").read_bytes(), (place.tree / "l").read_bytes()) == (b"long", b"3")


def test_directory_named_twice_has_the_later_mode(place):
    place.unpack(tar(folder("d", 0o500), entry("d/a"), folder("d", 0o711), folder("e", 0o755), folder("e", 0o555)))
    assert (place.mode("d"), place.mode("e")) == (0o711, 0o555)


def test_empty_and_dot_components_are_dropped(place):
    place.unpack(tar(folder("./d//"), entry("./d/.//f")))
    assert place.names() == ["d", "d/f"]


@pytest.mark.parametrize(
    "members",
    [
        [entry("/etc/x")],
        [entry("../x")],
        [entry("a/../x")],
        [folder("..")],
        [entry("a/..")],
        [entry("")],
        [entry(".")],
        [entry("f/")],
        [link("l/.", "x")],
        [entry("n" * 256)],
        [entry("/".join(["n" * 250] * 17))],
        [entry("f"), entry("f/x")],
        [link("l", "."), entry("l/x")],
        [link("l", "d"), folder("d"), entry("l/x")],
        [folder("d"), entry("d")],
        [folder("d"), link("d", "x")],
        [entry("f"), folder("f")],
        [link("l", "."), folder("l")],
    ],
    ids=lambda members: members[-1][0].name[:12] + str(len(members)),
)
def test_name_that_no_tree_should_have_is_refused(place, members):
    with pytest.raises(ArchivePathInvalid) as refusal:
        place.unpack(tar(*members))
    assert refusal.value.facts["path"] == members[-1][0].name[:4096]


def test_nul_in_a_name_is_refused(place):
    with pytest.raises(ArchivePathInvalid):
        place.unpack(pax(record(b"path", b"a\0b")) + header() + END)


@pytest.mark.parametrize("target", ["", "/etc/passwd", "..", "a/../..", "../../x", "x/" * 2050])
def test_link_that_leaves_the_archive_is_refused(place, target):
    with pytest.raises(ArchiveLinkInvalid) as refusal:
        place.unpack(tar(link("l", target)))
    assert refusal.value.facts["path"] == "l"


def test_link_may_climb_to_the_top_but_no_further(place):
    place.unpack(tar(link("a/b/l", "../../x"), link("a/m", "..")))
    with pytest.raises(ArchiveLinkInvalid):
        place.unpack(tar(link("a/b/k", "../../../x")))


@pytest.mark.parametrize("target", ["none", "/etc/passwd", "../f", "d", "l", "self", "f/x", "."])
def test_hard_link_to_anything_but_an_earlier_file_is_refused(place, target):
    members = [entry("f"), folder("d"), link("l", "f"), entry("self", tarfile.LNKTYPE, link=target)]
    with pytest.raises(ArchiveLinkInvalid):
        place.unpack(tar(*members))


@pytest.mark.parametrize(
    "kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.CONTTYPE, b"S", b"D", b"V"]
)
def test_devices_pipes_and_the_rest_are_refused(place, kind):
    with pytest.raises(ArchiveEntryUnsupported) as refusal:
        place.unpack(header("odd", kind) + END)
    assert refusal.value.facts["path"] == "odd"
    assert place.names() == []


def test_sparse_member_is_refused(place):
    with pytest.raises(ArchiveEntryUnsupported, match="sparse"):
        place.unpack(tar(entry("f", content=b"1", **{"GNU.sparse.major": "1"})))


@pytest.mark.parametrize(
    "archive",
    [
        b"",
        b"\0" * 511,
        b"not a tar" * 100,
        header("f", size=1),
        header("f", size=2048) + END,
        header("f", size=1 << 62) + END,
        header("f", size=-1) + END,
        header("f", size=-(1 << 62)) + END,
        header("x", tarfile.XHDTYPE, 1 << 40) + END,
        header("x", tarfile.GNUTYPE_LONGNAME, 2 << 20) + bytes(3 << 20),
        header("x", tarfile.XHDTYPE, -512) + END,
        checked(header("f")[:124] + b"12x45678901\0" + header("f")[136:]) + END,
        checked(header("f")[:100] + b"rwxr-x\0\0" + header("f")[108:]) + END,
        header("f")[:500] + b"!" + header("f")[501:] + END,
        tar(entry("f", content=b"x" * 600), end=False),
        tar(entry("f", content=b"x" * 600), end=False)[:700],
        pax(record(b"path", b"f")) + END,
        pax(record(b"size", b"-1")) + header() + END,
        pax(record(b"size", b"9" * 30)) + header() + END,
        pax(record(b"path", b"f"), kind=tarfile.XGLTYPE) + header() + END,
        pax(b"99 path=f\n") + header() + END,
        pax(b"0 path=f\n") + header() + END,
        pax(b"path=f\n") + header() + END,
        pax(b"9" * 100_000) + header() + END,
        pax(b"11 path=abc ") + header() + END,
        bytes(1024) + b"x" + bytes(511),
        tar(entry("a"), end=False) + b"junk" * 128 + tar(entry("b"), end=False) + END,
        tar(entry("a"), end=False) + END + tar(entry("b"), end=False) + END,
    ],
)
def test_damaged_archive_is_an_error_and_never_a_shorter_archive(place, archive):
    with pytest.raises(ArchiveEntryUnsupported, match="damaged") as refusal:
        place.unpack(archive)
    assert 0 <= refusal.value.facts["offset"] <= len(archive)


def test_archive_is_read_to_its_stated_size_and_no_further(place):
    archive = tar(entry("a"))
    place.data.write_bytes(archive + b"other bytes")
    with open(place.data, "rb") as data:
        dir_fd = os.open(place.tree, os.O_RDONLY)
        assert unpack(data.fileno(), len(archive), dir_fd, LIMITS).files == 1
        os.close(dir_fd)


def test_size_record_counts_for_large_members(place):
    place.unpack(pax(record(b"size", b"3")) + header("f") + b"abc".ljust(512, b"\0") + END)
    assert (place.tree / "f").read_bytes() == b"abc"


def test_long_chain_of_extended_headers_costs_no_stack(place):
    chain = b"".join(
        pax(record(b"comment", b"c")) + header("L", b"L", 3) + b"n%02d".ljust(512, b"\0") for _ in range(3000)
    )
    place.unpack(chain + pax(record(b"path", b"name")) + header() + END)
    assert place.names() == ["name"]


@pytest.mark.parametrize(
    ("limits", "used"),
    [
        (ArchiveLimits(entries=3, bytes=99, depth=9), 4),
        (ArchiveLimits(entries=9, bytes=5, depth=9), 6),
        (ArchiveLimits(entries=9, bytes=99, depth=2), 3),
    ],
)
def test_limits_are_told_with_what_was_used(place, limits, used):
    with pytest.raises(SizeLimitExceeded) as refusal:
        place.unpack(tar(entry("a", content=b"123"), entry("b/c/d", content=b"456")), limits)
    assert refusal.value.facts == {"path": "b/c/d", "limit": used - 1, "used": used}


def test_errors_show_names_of_any_bytes_in_plain_text(place):
    with pytest.raises(ArchivePathInvalid) as refusal:
        place.unpack(tar(entry(os.fsdecode(b"\xff" + b"n" * 300))))
    assert refusal.value.facts["path"] == "\\xff" + "n" * 300
    assert refusal.value.detail.isascii()
    assert len(refusal.value.detail) < 300


def test_stop_is_heeded_between_members(place):
    calls = iter([False, False, True])
    with pytest.raises(Stopped):
        place.unpack(tar(entry("a"), entry("b"), entry("c")), stop=lambda: next(calls))
    assert place.names() == ["a", "b"]


def test_archive_is_unpacked_onto_another_file_system(place, tmpfs):
    content = random.Random(1).randbytes(700_000)
    place.tree = tmpfs
    place.unpack(tar(folder("d", 0o500), entry("d/f", content=content)), owner=(7, 8))
    assert (place.tree / "d/f").read_bytes() == content
    assert (place.tree / "d/f").stat().st_uid == 7


def test_full_disk_is_told_with_the_entry_that_found_it(place, tmpfs):
    place.tree = tmpfs
    with pytest.raises(InsufficientStagingSpace) as refusal:
        place.unpack(tar(entry("a"), entry("big", content=bytes(2 << 20))))
    assert refusal.value.facts["path"] == "big"


def test_hard_link_more_than_the_file_system_takes_is_told_as_that(place, tmp_path):
    (place.tree / "a").touch()
    (tmp_path / "names").mkdir()
    try:
        with suppress(OSError):
            for number in range(70_000):
                os.link(place.tree / "a", tmp_path / "names" / str(number))
        if (place.tree / "a").stat().st_nlink > 70_000:
            pytest.skip("no such limit here")
        with pytest.raises(ArchiveLinkInvalid, match="one hard link more"):
            place.unpack(tar(entry("one more", tarfile.LNKTYPE, link="a")))
    finally:
        shutil.rmtree(tmp_path / "names")


def test_no_descriptor_is_left_open(place):
    with nothing_stays_open():
        place.unpack(tar(entry("a/b", content=b"1"), entry("c", tarfile.LNKTYPE, link="a/b")))
        with pytest.raises(ArchivePathInvalid):
            place.unpack(tar(entry("a/b/c")))


def ordinary_archive():
    return tar(
        *(folder("d", 0o555), entry("d/f", mode=0o4755, content=b"content" * 100), link("d/l", "../x")),
        *(entry("h", tarfile.LNKTYPE, link="d/f"), entry(os.fsdecode(b"\xff" * 120), content=b"1")),
        *(folder("d/deeper/still"), entry("d/deeper/still/g"), link("m", "t" * 200)),
    ).rstrip(b"\0") + bytes(1200)


@pytest.fixture(scope="module")
def yard(tmp_path_factory):
    """A directory with things that no archive may touch, and the place "tree" between them."""
    path = tmp_path_factory.mktemp("yard")
    (path / "x").write_text("untouched")
    (path / "d").mkdir(mode=0o711)
    return path


def surroundings(yard):
    paths = [
        path for path in sorted(yard.rglob("*")) if path.name != "data" and yard / "tree" not in (path, *path.parents)
    ]
    return [(path.name, path.lstat().st_mode, path.lstat().st_uid, path.lstat().st_mtime_ns) for path in paths]


def changed(archive, changes, mended):
    """The archive with some bytes changed; `mended`: the checksums agree."""
    archive = bytearray(archive)
    for position, value in changes:
        archive[position % len(archive)] = value
        block = position % len(archive) // 512 * 512
        if mended and archive[block + 257 : block + 262] == b"ustar":
            archive[block : block + 512] = checked(bytes(archive[block : block + 512]))
    return bytes(archive)


@settings(max_examples=150, deadline=None)
@given(
    changes=st.lists(st.tuples(st.integers(0, 15_000), st.integers(0, 255)), max_size=6),
    mended=st.booleans(),
    cut=st.integers(0, 40),
)
def test_whatever_the_archive_nothing_outside_changes_and_errors_have_names(yard, changes, mended, cut):
    archive = changed(ordinary_archive(), changes, mended)
    before = surroundings(yard)
    try:
        Place(yard).unpack(archive[: len(archive) - cut * 128], owner=(1234, 1234))
    except (ArchivePathInvalid, ArchiveLinkInvalid, ArchiveEntryUnsupported):
        pass
    finally:
        shutil.rmtree(yard / "tree")
    assert surroundings(yard) == before
