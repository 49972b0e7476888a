from __future__ import annotations

import errno
import gzip
import hashlib
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress

import numpy as np
import pytest

import servers
from gluon_compress.storage import download
from gluon_compress.storage.download import fetch, fetch_large, intact

CONTENT = np.random.RandomState(0).bytes(400_000)
SHA256 = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
SIZE = len(CONTENT)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(download, "BACKOFF", 0)
    monkeypatch.setattr(download, "TIMEOUT", 2)


@pytest.fixture
def server():
    with servers.serving() as made:
        made.files["/a.bin"] = CONTENT
        yield made


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache" / "a.bin"


@pytest.fixture(params=[fetch, fetch_large], ids=["fetch", "fetch_large"])
def get(request, path):
    """Return a function that downloads in one of the two ways."""
    return lambda url, checksum=SHA256, size=SIZE: request.param(
        url, path, checksum, size=size
    )


def get_large(server, path):
    return fetch_large(f"{server.url}/a.bin", path, SHA256, size=SIZE)


def names(path) -> list[str]:
    return sorted(p.name for p in path.parent.iterdir()) if path.parent.exists() else []


def first_bytes(server) -> list[int]:
    return [begin for _, begin in server.requests]


# ---------------------------------------------------------------- both ways


def test_file_arrives_complete_and_alone(server, path, get):
    assert get(f"{server.url}/a.bin") == path
    assert path.read_bytes() == CONTENT
    assert names(path) == ["a.bin"]


def test_intact_file_needs_no_server(server, path, get):
    get(f"{server.url}/a.bin")
    get("http://nowhere.invalid/a.bin")
    assert len(server.requests) == 1


def test_file_address_is_copied(tmp_path, path, get):
    source = tmp_path / "the source.bin"
    source.write_bytes(CONTENT)
    get(source.as_uri())
    assert path.read_bytes() == CONTENT
    assert source.exists()


@pytest.mark.parametrize("kind", ["gzip", "deflate"])
def test_compressed_file_is_stored_as_it_is(server, path, get, kind):
    content = gzip.compress(CONTENT, mtime=0)
    server.files["/a.tgz"] = content
    server.misbehave["/a.tgz"] = [servers.compressed(kind)]
    checksum = "sha256:" + hashlib.sha256(content).hexdigest()
    get(f"{server.url}/a.tgz", checksum, len(content))
    assert path.read_bytes() == content


def test_dropped_connections_are_resumed(server, path, get):
    server.misbehave["/a.bin"] = [servers.drop(150_000), servers.drop(150_000)]
    get(f"{server.url}/a.bin")
    assert path.read_bytes() == CONTENT
    assert 0 < first_bytes(server)[1] < first_bytes(server)[2]


def test_server_in_trouble_is_asked_again(server, path, get):
    server.misbehave["/a.bin"] = [servers.status(503), servers.status(429)]
    get(f"{server.url}/a.bin")
    assert path.read_bytes() == CONTENT


def test_redirect_is_followed(server, path, get):
    target = servers.status(302, Location="/a.bin")
    server.misbehave["/elsewhere"] = [target]
    get(f"{server.url}/elsewhere")
    assert path.read_bytes() == CONTENT


BAD_ANSWERS = {
    "wrong bytes": servers.wrong,
    "page": servers.page,
    "endless": servers.endless,
    "forbidden": servers.status(403),
    "range": servers.shifted,
    "to a file": servers.status(302, Location="file:///etc/hosts"),
    "in a circle": servers.status(302, Location="/a.bin"),
    "always busy": servers.status(503),
    "nothing": servers.drop(0),
}


@pytest.mark.parametrize("bad", BAD_ANSWERS)
def test_bad_answer_is_one_line_and_leaves_nothing(server, path, get, bad):
    server.misbehave["/a.bin"] = [BAD_ANSWERS[bad]] * 40
    with pytest.raises(ValueError, match=f"{server.url}/a.bin") as error:
        get(f"{server.url}/a.bin")
    assert "\n" not in str(error.value)
    assert names(path) == []


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/a.bin",
        "a.bin",
        "http:///a.bin",
        "http://[::1/a.bin",
        "http://x:port/a.bin",
        "file://other/a.bin",
    ],
)
def test_bad_address_is_one_line_and_leaves_nothing(path, get, url):
    with pytest.raises(ValueError, match=".") as error:
        get(url)
    assert url in str(error.value)
    assert "\n" not in str(error.value)
    assert names(path) == []


def test_server_that_is_not_there_is_named(path, get, monkeypatch):
    monkeypatch.setattr(download, "RETRIES", 1)
    with socket.socket() as taken:  # a port that nobody listens on
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/a.bin"
        with pytest.raises(ValueError, match=f"^{url}: .*refused"):
            get(url)
    assert names(path) == []


def test_silent_server_is_given_up(server, path, get, monkeypatch):
    monkeypatch.setattr(download, "RETRIES", 1)
    monkeypatch.setattr(download, "TIMEOUT", 0.1)
    server.misbehave["/a.bin"] = [servers.silent] * 40
    with pytest.raises(ValueError, match=f"{server.url}/a.bin"):
        get(f"{server.url}/a.bin")


def test_missing_source_is_named(tmp_path, path, get):
    with pytest.raises(FileNotFoundError, match=r"none\.bin"):
        get((tmp_path / "none.bin").as_uri())
    assert names(path) == []


def test_source_of_another_size_is_refused(tmp_path, path, get):
    source = tmp_path / "source.bin"
    source.write_bytes(CONTENT[:-1])
    with pytest.raises(ValueError, match="399999.*400000"):
        get(source.as_uri())
    assert names(path) == []


def test_folder_that_is_a_file_is_named(server, path, get):
    path.parent.write_text("")
    with pytest.raises(OSError, match="cache"):
        get(f"{server.url}/a.bin")


# ---------------------------------------------------------------- small files


@pytest.mark.parametrize("kind", ["sha1", "md5", "sha256"])
def test_kinds_of_checksums(server, path, kind):
    digits = hashlib.new(kind, CONTENT).hexdigest()
    fetch(f"{server.url}/a.bin", path, f"{kind}:{digits}")
    assert intact(path, f"{kind}:{digits.upper()}")
    assert not intact(path, f"{kind}:{digits[:-1]}x")


def test_intact_file_needs_no_writing(server, path):
    fetch(f"{server.url}/a.bin", path, SHA256)
    path.parent.chmod(0o555)
    before = path.parent.stat().st_mtime_ns
    fetch(f"{server.url}/a.bin", path, SHA256)
    assert path.parent.stat().st_mtime_ns == before
    path.parent.chmod(0o755)


def test_altered_file_is_replaced_and_the_log_says_so(server, path, caplog):
    path.parent.mkdir()
    path.write_bytes(CONTENT[:-1] + b"x")
    fetch(f"{server.url}/a.bin", path, SHA256)
    assert path.read_bytes() == CONTENT
    assert str(path) in caplog.text


def test_full_disk_is_named_and_leaves_nothing(server, path, full_disk):
    with full_disk(100_000), pytest.raises(OSError, match="large") as error:
        fetch(f"{server.url}/a.bin", path, SHA256)
    assert error.value.errno == errno.EFBIG
    assert error.value.filename == str(path)
    assert names(path) == []


# ---------------------------------------------------------------- large files


@pytest.fixture
def part(server, path):
    """Return what a call has left that broke off."""
    server.misbehave["/a.bin"] = [servers.drop(150_000), *[servers.drop(0)] * 40]
    with pytest.raises(ValueError, match="broke off"):
        get_large(server, path)
    server.misbehave.clear()
    server.requests.clear()
    (left,) = path.parent.iterdir()
    assert left.name == "a.bin.part"
    assert CONTENT.startswith(left.read_bytes())
    return left


def test_next_call_asks_for_the_rest_only(server, path, part):
    begin = part.stat().st_size
    get_large(server, path)
    assert server.requests == [("/a.bin", begin)]
    assert path.read_bytes() == CONTENT
    assert names(path) == ["a.bin"]


@pytest.mark.parametrize("bad", ["page", "forbidden", "range", "to a file", "nothing"])
def test_what_arrived_survives_a_bad_answer(server, path, part, bad):
    before = part.read_bytes()
    server.misbehave["/a.bin"] = [BAD_ANSWERS[bad]] * 40
    with pytest.raises(ValueError, match=f"{server.url}/a.bin"):
        get_large(server, path)
    assert part.read_bytes() == before


def test_server_without_ranges_is_read_from_the_start(server, path, part):
    server.misbehave["/a.bin"] = [servers.without_ranges]
    get_large(server, path)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("content", [CONTENT + b"more", bytes(SIZE)])
def test_part_that_cannot_be_right_is_dropped(server, path, part, content):
    part.write_bytes(content)
    get_large(server, path)
    assert path.read_bytes() == CONTENT
    assert first_bytes(server) == [0]


def test_part_that_is_complete_needs_no_server(path, part):
    part.write_bytes(CONTENT)
    fetch_large("http://nowhere.invalid/a.bin", path, SHA256, size=SIZE)
    assert names(path) == ["a.bin"]


def test_part_with_wrong_bytes_is_not_kept(server, path, part):
    part.write_bytes(bytes(100))
    with pytest.raises(ValueError, match="checksum"):
        get_large(server, path)
    assert names(path) == []


def test_part_that_is_a_link_is_refused(server, path, tmp_path):
    mine = tmp_path / "mine"
    mine.write_text("mine")
    path.parent.mkdir()
    link = path.with_name("a.bin.part")
    link.symlink_to(mine)
    with pytest.raises(ValueError, match=r"a\.bin\.part: is a link"):
        get_large(server, path)
    assert mine.read_text() == "mine"
    assert not server.requests


def test_killed_process_is_resumed(server, path):
    server.misbehave["/a.bin"] = [servers.slow(0.1)]
    given = (f"{server.url}/a.bin", str(path), SHA256)
    code = "from gluon_compress.storage.download import fetch_large; "
    code += f"fetch_large(*{given!r}, size={SIZE})"
    process = subprocess.Popen([sys.executable, "-c", code])
    part = path.with_name("a.bin.part")
    while not (part.exists() and part.stat().st_size):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    begin = part.stat().st_size
    get_large(server, path)
    assert first_bytes(server) == [0, begin]
    assert path.read_bytes() == CONTENT


def test_full_disk_is_named_and_keeps_what_arrived(server, path, full_disk):
    with full_disk(100_000), pytest.raises(OSError, match="large") as error:
        get_large(server, path)
    assert error.value.filename == str(path.with_name("a.bin.part"))
    get_large(server, path)
    assert 0 < first_bytes(server)[1] <= 100_000
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("function", [fetch, fetch_large])
def test_processes_download_once(server, path, function):
    server.misbehave["/a.bin"] = [servers.slow(0.02)]
    context = multiprocessing.get_context("fork")
    given = {"args": (f"{server.url}/a.bin", path, SHA256), "kwargs": {"size": SIZE}}
    running = [context.Process(target=function, **given) for _ in range(3)]
    for process in running:
        process.start()
    for process in running:
        process.join()
    assert [process.exitcode for process in running] == [0, 0, 0]
    assert len(server.requests) == 1
    assert names(path) == ["a.bin"]


# ---------------------------------------------------------------- limits


def test_a_file_of_unknown_size_has_a_limit(server, path, monkeypatch):
    monkeypatch.setattr(download, "MOST_BYTES", len(CONTENT) - 1)
    with pytest.raises(ValueError, match=f"more than the expected {len(CONTENT) - 1}"):
        fetch(f"{server.url}/a.bin", path, SHA256)
    assert names(path) == []


def test_a_copied_file_of_unknown_size_has_a_limit(tmp_path, path, monkeypatch):
    monkeypatch.setattr(download, "MOST_BYTES", 9)
    (tmp_path / "source").write_bytes(bytes(10))
    with pytest.raises(ValueError, match="10 bytes are offered; expected: at most 9"):
        fetch((tmp_path / "source").as_uri(), path, SHA256)


def test_a_server_that_drips_is_given_up_in_time(server, path, get, monkeypatch):
    # Each byte comes before the time for a silent server is over.
    def drip(handler, content: bytes, begin: int) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        with suppress(ConnectionError):
            for byte in content:
                handler.wfile.write(bytes([byte]))
                time.sleep(0.05)

    monkeypatch.setattr(download, "LONGEST", 0.5)
    server.misbehave["/a.bin"] = [drip] * 9
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"bytes after .* hours"):
        get(f"{server.url}/a.bin")
    assert time.monotonic() - start < 10


def test_drops_that_bring_a_byte_each_do_not_go_on_forever(
    server, path, get, monkeypatch
):
    monkeypatch.setattr(download, "LONGEST", 0.5)
    server.misbehave["/a.bin"] = [servers.drop(1)] * 100_000
    with pytest.raises(ValueError, match=r"bytes after .* hours"):
        get(f"{server.url}/a.bin")
