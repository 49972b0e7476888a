from __future__ import annotations

import gzip
import io
import tarfile

import pytest

from archives import tarred, zipped
from gluon_compress.storage.archives import unpack

FILES = {"a": b"1", "b/c": b"2" * 700, "b/d/e": b""}
PACKED = {"tar": tarred, "tgz": lambda files: tarred(files, "w:gz"), "zip": zipped}


def tree(folder) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def extract(tmp_path):
    """Return a function that unpacks archives into ``tmp_path/out``."""

    def run(kind: str, *archives: bytes, inner: str = ""):
        sources = []
        for number, content in enumerate(archives):
            path = tmp_path / f"{number}.{kind}"
            path.write_bytes(content)
            sources.append((path, inner))
        unpack(sources, tmp_path / "out")
        return tmp_path / "out"

    return run


@pytest.fixture
def refuse(extract, tmp_path):
    """Return a function that checks that an archive is refused and nothing is left."""

    def run(kind: str, *archives: bytes, **options) -> None:
        last = tmp_path / f"{len(archives) - 1}.{kind}"
        with pytest.raises(ValueError, match=f"^{last}: ") as error:
            extract(kind, *archives, **options)
        assert "\n" not in str(error.value)
        assert all(path.stem.isdigit() for path in tmp_path.iterdir())

    return run


@pytest.mark.parametrize("kind", PACKED)
def test_files_are_unpacked(extract, kind):
    out = extract(kind, PACKED[kind](FILES))
    assert tree(out) == ["a", "b", "b/c", "b/d", "b/d/e"]
    assert (out / "b/c").read_bytes() == FILES["b/c"]


@pytest.mark.parametrize("kind", PACKED)
def test_only_the_inner_folder_is_unpacked(extract, kind):
    files = {"top/in/a/b": b"1", "top/c": b"2", "top/inside": b"3", "top/in2/d": b"4"}
    assert tree(extract(kind, PACKED[kind](files), inner="top/in")) == ["a", "a/b"]


def test_several_archives_share_a_folder(extract):
    out = extract("zip", zipped({"x/a": b"1"}), zipped({"x/b": b"2"}))
    assert tree(out) == ["x", "x/a", "x/b"]


@pytest.mark.parametrize("inner", ["", "good"])
@pytest.mark.parametrize("name", ["/escaped", "../escaped", "good/../../escaped"])
@pytest.mark.parametrize("kind", PACKED)
def test_names_that_lead_out_are_refused(refuse, kind, name, inner):
    refuse(kind, PACKED[kind]({"good/file": b"good", name: b"bad"}), inner=inner)


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
)
def test_links_and_devices_are_refused(refuse, kind):
    refuse("tar", tarred({"good": b""}, type=kind, linkname="target"))


def test_nothing_is_written_through_a_link(refuse, tmp_path):
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
        archive.addfile(link)
        archive.addfile(tarfile.TarInfo("link/escaped"))
    refuse("tar", made.getvalue())


def test_link_in_a_zip_becomes_a_plain_file(extract):
    content = zipped({"a": b"/etc"}, external_attr=0o120777 << 16, create_system=3)
    out = extract("zip", content)
    assert not (out / "a").is_symlink()


@pytest.mark.parametrize("cut", [0.2, 0.6])
@pytest.mark.parametrize("kind", PACKED)
def test_truncated_archive_is_refused(refuse, kind, cut):
    content = PACKED[kind]({"a": bytes(range(256)) * 200, "b": b"2"})
    refuse(kind, PACKED[kind](FILES), content[: int(cut * len(content))])


@pytest.mark.parametrize("kind", PACKED)
def test_file_that_is_no_archive_is_refused(refuse, kind):
    refuse(kind, b"<p>Who are you?</p>")


def test_altered_member_is_refused(refuse):
    content = bytearray(zipped({"a": b"x" * 100}, compress_type=0))
    content[content.index(b"xxxx")] = 0
    refuse("zip", bytes(content))
    content = bytearray(gzip.compress(tarred({"a": b"x" * 9000})))
    content[20:40] = bytes(20)
    refuse("tgz", bytes(content))


def test_encrypted_member_is_refused(refuse):
    content = bytearray(zipped({"a": b"secret"}))
    content[content.index(b"PK\1\2") + 8] |= 1
    content[content.index(b"PK\3\4") + 6] |= 1
    refuse("zip", bytes(content))


def test_permissions_and_owner_are_plain(extract):
    out = extract("tar", tarred({"a/b": b"1"}, mode=0o6777, uid=4242, gid=4242))
    assert (out / "a/b").stat().st_mode & 0o7022 == 0
    assert (out / "a/b").stat().st_uid != 4242


def test_folder_that_is_there_is_left_alone(extract, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(FileExistsError, match="out"):
        extract("tar", tarred(FILES))
    assert tree(tmp_path / "out") == ["mine"]


@pytest.mark.parametrize("kind", PACKED)
def test_archive_that_is_not_there_is_named(tmp_path, kind):
    with pytest.raises(FileNotFoundError, match=f"none.{kind}"):
        unpack([(tmp_path / f"none.{kind}", "")], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", PACKED)
def test_full_disk_is_named_and_leaves_nothing(extract, tmp_path, full_disk, kind):
    content = PACKED[kind]({"a/b": bytes(50_000)})
    (tmp_path / f"0.{kind}").write_bytes(content)
    with full_disk(30_000), pytest.raises(OSError, match="large") as error:
        unpack([(tmp_path / f"0.{kind}", "")], tmp_path / "out")
    assert error.value.filename == str(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", PACKED)
def test_no_filter_of_pythons_own_is_needed(extract, kind, monkeypatch):
    # Only the newest releases of each Python have one.
    monkeypatch.delattr(tarfile, "data_filter", raising=False)
    assert (extract(kind, PACKED[kind](FILES)) / "a").read_bytes() == b"1"


def test_two_members_of_one_name_are_refused(refuse):
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name in ("a/b", "a/b"):
            archive.addfile(tarfile.TarInfo(name))
    refuse("tar", made.getvalue())


def test_file_in_place_of_a_folder_is_refused(refuse):
    refuse("zip", zipped({"a": b"1", "a/b": b"2"}))
    refuse("tar", tarred({"a/b": b"1", "a": b"2"}))
