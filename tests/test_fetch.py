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
import threading
import time

import numpy as np
import pytest

import servers
from gluon_compress.storage.download import Patience, fetch, intact

CONTENT = np.random.RandomState(0).bytes(200_000)
SUM = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
QUICK = Patience(retries=3, wait=0.01, timeout=2)


@pytest.fixture
def server():
    with servers.serving() as made:
        made.files["/a.bin"] = CONTENT
        yield made


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache" / "a.bin"


def get(server, path, **changes):
    return fetch(f"{server.url}/a.bin", path, SUM, **{"patience": QUICK, **changes})


def alone(path) -> bool:
    """Return whether nothing is left beside a file."""
    return [p.name for p in path.parent.iterdir()] == [path.name]


def parts(path) -> list:
    return list(path.parent.glob("*.part"))


@pytest.fixture
def kept(server, path):
    """Return the part that a call has left which broke off after 70,000 bytes."""
    server.misbehave["/a.bin"] = [servers.drop(70_000), *[servers.drop(0)] * 3]
    with pytest.raises(ValueError, match="70000 of 200000 bytes"):
        get(server, path)
    return parts(path)[0]


def assert_goes_on(server, path, kept):
    """Check that what came is there, and that the next call asks for no more."""
    assert kept.read_bytes() == CONTENT[:70_000]
    server.misbehave.clear()
    before = len(server.requests)
    assert get(server, path).read_bytes() == CONTENT
    assert server.requests[before:] == [("/a.bin", "bytes=70000-")]
    assert alone(path)


def test_file_comes_whole_and_alone(server, path):
    assert get(server, path) == path
    assert path.read_bytes() == CONTENT
    assert alone(path)


@pytest.mark.parametrize("kind", ["sha1", "md5"])
def test_other_sums_are_known(server, path, kind):
    total = f"{kind}:{hashlib.new(kind, CONTENT).hexdigest().upper()}"
    fetch(f"{server.url}/a.bin", path, total)
    assert intact(path, total)
    assert not intact(path, total[:-32] + 32 * "0")


def test_empty_file_is_a_file(server, path):
    server.files["/empty"] = b""
    total = "sha256:" + hashlib.sha256(b"").hexdigest()
    assert fetch(f"{server.url}/empty", path, total, size=0).read_bytes() == b""


def test_file_that_is_there_needs_no_server(server, path):
    get(server, path)
    assert fetch("http://nowhere.invalid/a.bin", path, SUM) == path
    assert len(server.requests) == 1


def test_file_that_is_there_needs_no_writing(server, path):
    get(server, path)
    path.parent.chmod(0o555)
    before = path.parent.stat().st_mtime_ns
    assert get(server, path) == path
    assert path.parent.stat().st_mtime_ns == before
    path.parent.chmod(0o755)


def test_altered_file_is_fetched_again_and_said_so(server, path, caplog):
    path.parent.mkdir()
    path.write_bytes(CONTENT[:-1] + b"x")
    get(server, path)
    assert path.read_bytes() == CONTENT
    assert alone(path)
    assert str(path) in caplog.text
    assert "altered" in caplog.text


def test_dropped_connections_are_resumed(server, path):
    server.misbehave["/a.bin"] = [servers.drop(70_000), servers.drop(50_000)]
    get(server, path)
    assert path.read_bytes() == CONTENT
    asked = [rng for _, rng in server.requests]
    assert asked == ["", "bytes=70000-", "bytes=120000-"]


def test_long_file_may_break_off_often(server, path):
    content = np.random.RandomState(1).bytes(6 << 20)
    server.files["/long"] = content
    server.misbehave["/long"] = [servers.drop(1 << 20)] * 5
    total = "sha256:" + hashlib.sha256(content).hexdigest()
    patience = Patience(retries=1, wait=0.01, timeout=2)
    fetch(f"{server.url}/long", path, total, patience=patience)
    assert path.read_bytes() == content


def test_short_file_may_not(server, path):
    server.misbehave["/a.bin"] = [servers.drop(10)] * 9
    with pytest.raises(ValueError, match="40 of 200000 bytes came; tried 4 times"):
        get(server, path)
    assert not path.exists()


def test_later_call_goes_on(server, path):
    server.misbehave["/a.bin"] = [servers.drop(50_000), *[servers.drop(0)] * 3]
    with pytest.raises(ValueError, match="50000 of 200000 bytes"):
        get(server, path)
    assert get(server, path).read_bytes() == CONTENT
    assert alone(path)
    assert server.requests[-1] == ("/a.bin", "bytes=50000-")


def test_killed_process_is_resumed(server, path):
    server.misbehave["/a.bin"] = [servers.slow(0.2)]
    code = "from gluon_compress.storage.download import fetch; "
    code += f"fetch({server.url + '/a.bin'!r}, {str(path)!r}, {SUM!r})"
    process = subprocess.Popen([sys.executable, "-c", code])
    while not (path.parent.is_dir() and any(p.stat().st_size for p in parts(path))):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = parts(path)[0].stat().st_size
    assert 0 < kept < len(CONTENT)
    assert not path.exists()
    assert get(server, path).read_bytes() == CONTENT
    assert server.requests[-1][1] == f"bytes={kept}-"


def test_server_without_ranges_is_read_from_the_start(server, path):
    server.misbehave["/a.bin"] = [servers.drop(70_000), servers.whole]
    assert get(server, path).read_bytes() == CONTENT


def test_range_that_was_not_asked_for_is_not_appended(server, path):
    server.misbehave["/a.bin"] = [servers.drop(70_000), servers.shifted]
    assert get(server, path).read_bytes() == CONTENT


def test_wrong_bytes_are_refused_and_not_kept(server, path):
    server.misbehave["/a.bin"] = [servers.wrong] * 9
    with pytest.raises(ValueError, match="another sha256"):
        get(server, path)
    assert not list(path.parent.iterdir())
    assert len(server.requests) == 1


def test_kept_bytes_that_were_wrong_are_fetched_again(server, path):
    server.misbehave["/a.bin"] = [
        lambda h, content, begin: servers.answer(h, bytes(len(content)), sent=70_000)
    ]
    assert get(server, path).read_bytes() == CONTENT


def test_part_that_is_whole_needs_no_server(server, path, kept):
    kept.write_bytes(CONTENT)
    fetch("http://nowhere.invalid/", path, SUM)
    assert path.read_bytes() == CONTENT
    assert alone(path)


@pytest.mark.parametrize("size", [None, len(CONTENT)])
def test_part_that_is_too_long_is_thrown_away(server, path, kept, size):
    kept.write_bytes(CONTENT + b"more")
    assert get(server, path, size=size).read_bytes() == CONTENT


def test_part_that_is_as_long_and_wrong_is_thrown_away(server, path, kept):
    kept.write_bytes(bytes(len(CONTENT)))
    before = len(server.requests)
    assert get(server, path, size=len(CONTENT)).read_bytes() == CONTENT
    assert server.requests[before:] == [("/a.bin", "")]


PAGE = b"<p>Who are you?</p>"
BAD_ANSWERS = {
    "forbidden": servers.status(403),
    "page": servers.page(PAGE),
    "page of unknown length": servers.page(PAGE, sized=False),
    "in a circle": servers.status(302, Location="/a.bin"),
}
# What only who knows the size can tell from the file.
NO_FILES = {"endless": servers.endless, "nothing after": servers.status(416)}


@pytest.mark.parametrize(
    ("bad", "size"),
    [
        *((bad, None) for bad in BAD_ANSWERS),
        *((bad, len(CONTENT)) for bad in (*BAD_ANSWERS, *NO_FILES)),
    ],
)
def test_what_came_survives_bad_answers(server, path, kept, bad, size):
    server.misbehave["/a.bin"] = [{**BAD_ANSWERS, **NO_FILES}[bad]] * 40
    with pytest.raises(ValueError, match=f"^{server.url}/a.bin: "):
        get(server, path, size=size)
    assert_goes_on(server, path, kept)


@pytest.mark.parametrize(
    "url",
    ["htp://x/a.bin", "file:///nowhere/a.bin", "{server}/b.bin", "file://{short}"],
)
def test_what_came_survives_bad_addresses(server, path, kept, tmp_path, url):
    short = tmp_path / "short.bin"
    short.write_bytes(CONTENT[:100])
    with pytest.raises((ValueError, FileNotFoundError)):
        fetch(url.format(server=server.url, short=short), path, SUM, patience=QUICK)
    assert_goes_on(server, path, kept)


def test_less_than_what_is_there_is_named_with_the_way_out(server, path, kept):
    server.misbehave["/a.bin"] = [servers.page(PAGE)]
    with pytest.raises(ValueError, match="19 bytes are offered, 70000 came") as error:
        get(server, path)
    assert f"remove {kept}" in str(error.value)


def test_whole_file_that_breaks_off_earlier_loses_nothing(server, path):
    bad = [servers.drop(70_000), servers.again(30_000), servers.again(90_000)]
    server.misbehave["/a.bin"] = bad
    assert get(server, path).read_bytes() == CONTENT
    asked = [rng for _, rng in server.requests]
    assert asked == ["", "bytes=70000-", "bytes=70000-", "bytes=90000-"]


@pytest.mark.parametrize("size", [None, len(CONTENT)])
def test_wrong_bytes_come_again_without_ranges(server, path, kept, size):
    kept.write_bytes(bytes(70_000))
    server.misbehave["/a.bin"] = [servers.whole]
    assert get(server, path, size=size).read_bytes() == CONTENT


@pytest.mark.parametrize("size", [None, len(CONTENT)])
def test_shorter_ranges_than_asked_for_are_put_together(server, path, kept, size):
    server.misbehave["/a.bin"] = [servers.sparing(20_000)] * 9
    before = len(server.requests)
    patience = Patience(retries=0, timeout=2)
    assert get(server, path, size=size, patience=patience).read_bytes() == CONTENT
    asked = [int(rng[6:-1]) for _, rng in server.requests[before:]]
    assert asked == [*range(70_000, 200_000, 20_000)]


def test_shorter_range_is_kept_when_the_next_is_refused(server, path, kept):
    server.misbehave["/a.bin"] = [servers.sparing(20_000), servers.status(403)]
    with pytest.raises(ValueError, match="status 403"):
        get(server, path, size=len(CONTENT))
    assert kept.read_bytes() == CONTENT[:90_000]


@pytest.mark.parametrize("bad", [servers.ahead, servers.status(416)])
def test_server_whose_ranges_do_not_fit_is_asked_for_all(server, path, kept, bad):
    server.misbehave["/a.bin"] = [bad]
    before = len(server.requests)
    assert get(server, path, size=len(CONTENT)).read_bytes() == CONTENT
    asked = [rng for _, rng in server.requests[before:]]
    assert asked == ["bytes=70000-", ""]


@pytest.mark.parametrize("kind", ["gzip", "x-gzip", "deflate"])
@pytest.mark.parametrize(
    "content", [gzip.compress(CONTENT, mtime=0), CONTENT], ids=["packed", "not packed"]
)
def test_packed_file_is_taken_as_it_is(server, path, kind, content):
    server.files["/a.tgz"] = content
    server.misbehave["/a.tgz"] = [servers.packed(kind, sent=70_000)]
    server.misbehave["/a.tgz"] += [servers.packed(kind)] * 2
    total = "sha256:" + hashlib.sha256(content).hexdigest()
    size = len(content)
    fetch(f"{server.url}/a.tgz", path, total, size=size, patience=QUICK)
    assert path.read_bytes() == content
    assert server.requests == [("/a.tgz", ""), ("/a.tgz", "bytes=70000-")]
    assert server.accepted == {"identity"}


def test_chunks_are_put_together(server, path):
    server.misbehave["/a.bin"] = [servers.chunked(CONTENT[:150_000], CONTENT[150_000:])]
    assert get(server, path).read_bytes() == CONTENT


@pytest.mark.parametrize("end", [b"", b"ff\r\n12", b"no number\r\n"])
def test_chunks_that_break_off_are_resumed(server, path, end):
    server.misbehave["/a.bin"] = [servers.chunked(CONTENT[:70_000], end=end)]
    assert get(server, path).read_bytes() == CONTENT
    assert server.requests[1][1].startswith("bytes=")


def test_silence_in_the_middle_is_given_up(server, path):
    server.misbehave["/a.bin"] = [servers.slow(0.5)]
    patience = Patience(retries=0, timeout=0.1)
    with pytest.raises(ValueError, match="no answer in time; tried 1 times"):
        get(server, path, patience=patience)


@pytest.mark.parametrize("bad", [servers.longer, servers.endless])
def test_more_than_expected_is_refused(server, path, bad):
    server.misbehave["/a.bin"] = [bad] * 9
    with pytest.raises(ValueError, match="200000"):
        get(server, path, size=len(CONTENT))
    assert not list(path.parent.iterdir())


def test_server_in_trouble_is_asked_again(server, path):
    bad = [servers.status(503), servers.status(429, Retry_After="0")]
    server.misbehave["/a.bin"] = bad
    assert get(server, path).read_bytes() == CONTENT


def test_server_decides_how_long_to_wait(server, path):
    server.misbehave["/a.bin"] = [servers.status(503, Retry_After="1")]
    begin = time.monotonic()
    get(server, path)
    assert time.monotonic() - begin >= 1


def test_missing_file_is_not_asked_for_again(server, path):
    with pytest.raises(ValueError, match="status 404"):
        fetch(f"{server.url}/b.bin", path, SUM, patience=QUICK)
    assert len(server.requests) == 1
    assert not list(path.parent.iterdir())


def test_silent_server_is_given_up(server, path):
    server.misbehave["/a.bin"] = [servers.silent(3)] * 2
    patience = Patience(retries=1, wait=0.01, timeout=0.2)
    with pytest.raises(ValueError, match="no answer in time; tried 2 times"):
        get(server, path, patience=patience)


def test_slow_server_is_waited_for(server, path):
    server.misbehave["/a.bin"] = [servers.slow(0.03)]
    patience = Patience(retries=0, timeout=0.2)
    assert get(server, path, patience=patience).read_bytes() == CONTENT


def test_no_server_is_named(path):
    with socket.socket() as taken:  # a port that nobody listens on
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/a.bin"
        with pytest.raises(ValueError, match="refuses the connection; tried 4 times$"):
            fetch(url, path, SUM, patience=QUICK)
    assert not list(path.parent.iterdir())


def test_file_address_is_copied(tmp_path, path):
    source = tmp_path / "the source.bin"
    source.write_bytes(CONTENT)
    assert fetch(source.as_uri(), path, SUM).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("url", "checksum", "message"),
    [
        ("ftp://example.com/a", SUM, "'ftp'; allowed: 'http', 'https', 'file'"),
        ("a.bin", SUM, "kind ''"),
        ("http:///a.bin", SUM, "^http:///a.bin: .* No host"),
        ("http://[::1/a.bin", SUM, r"^http://\[::1/a.bin: Invalid IPv6 URL"),
        ("http://x:port/a.bin", SUM, "^http://x:port/a.bin: "),
        (f"http://{'x' * 64}.com/a.bin", SUM, "^http://x{64}.com/a.bin: "),
        ("file://other/a.bin", SUM, "^file://other/a.bin: host 'other'; allowed: none"),
        ("file://~/a.bin", SUM, "^file://~/a.bin: host '~'; allowed: none"),
        ("file:///a%00.bin", SUM, "^file:///a%00.bin: embedded null byte"),
        ("http://example.com/a", "sha256:12", "checksum 'sha256:12'; allowed"),
        ("http://example.com/a", "crc:12", "checksum 'crc:12'; allowed"),
    ],
)
def test_bad_input_is_named(path, url, checksum, message):
    with pytest.raises(ValueError, match=message):
        fetch(url, path, checksum, patience=QUICK)
    assert not path.parent.exists() or not list(path.parent.iterdir())


def test_file_of_this_machine_is_copied(tmp_path, path):
    (tmp_path / "a.bin").write_bytes(CONTENT)
    url = f"file://localhost{tmp_path}/a.bin"
    assert fetch(url, path, SUM).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("file:///etc/hosts", "leads to 'file:///etc/hosts'; allowed: .* 'http'"),
        ("ftp://x/a.bin", "leads to 'ftp://x/a.bin'; allowed: .* 'http'"),
        ("http://[::1/a.bin", r"leads to 'http://\[::1/a.bin'; allowed: .* 'http'"),
        ("http://x:port/a.bin", "leads to 'http://x:port/a.bin'; allowed: .* 'http'"),
        ("/a.bin", "30 redirects"),
    ],
)
def test_redirect_that_leads_nowhere_is_named(server, path, target, message):
    server.misbehave["/a.bin"] = [servers.status(302, Location=target)] * 40
    with pytest.raises(ValueError, match=f"^{server.url}/a.bin: .*{message}") as error:
        get(server, path)
    assert "\n" not in str(error.value)
    assert len(server.requests) == (31 if target == "/a.bin" else 1)
    assert not list(path.parent.iterdir())


@pytest.mark.parametrize("target", ["/b.bin", "b.bin", "{server}/b.bin"])
def test_redirect_is_followed(server, path, target):
    server.files["/b.bin"] = CONTENT
    target = target.format(server=server.url)
    server.misbehave["/a.bin"] = [servers.status(302, Location=target)]
    assert get(server, path).read_bytes() == CONTENT
    assert [place for place, _ in server.requests] == ["/a.bin", "/b.bin"]


def test_missing_source_is_named(tmp_path, path):
    with pytest.raises(FileNotFoundError, match="none.bin"):
        fetch((tmp_path / "none.bin").as_uri(), path, SUM)
    assert not list(path.parent.iterdir())


def test_source_of_another_size_is_refused(tmp_path, path):
    source = tmp_path / "source.bin"
    source.write_bytes(CONTENT[:-1])
    with pytest.raises(ValueError, match="199999 bytes are offered, 200000"):
        fetch(source.as_uri(), path, SUM, size=len(CONTENT))
    assert not list(path.parent.iterdir())


@pytest.mark.parametrize("content", [CONTENT, CONTENT[:100_001]])
def test_full_disk_is_named_and_keeps_what_came(server, path, full_disk, content):
    server.files["/a.bin"] = content
    total = "sha256:" + hashlib.sha256(content).hexdigest()
    with full_disk(100_000), pytest.raises(OSError, match="too large") as error:
        fetch(f"{server.url}/a.bin", path, total, patience=QUICK)
    (kept,) = parts(path)
    assert error.value.filename == str(kept)
    assert error.value.errno == errno.EFBIG
    assert kept.read_bytes() == content[:100_000]
    assert fetch(f"{server.url}/a.bin", path, total).read_bytes() == content
    assert server.requests[1:] == [("/a.bin", "bytes=100000-")]
    assert alone(path)


def test_full_disk_is_left_as_it_was(server, path, monkeypatch):
    def full(*ignored):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space") as error:
            get(server, path)
    assert os.path.dirname(error.value.filename) == str(path.parent)
    assert not list(path.parent.iterdir())
    assert get(server, path).read_bytes() == CONTENT
    assert alone(path)


def test_next_try_and_what_has_come_are_said(server, path, caplog):
    server.misbehave["/a.bin"] = [servers.drop(10)] * 2
    patience = Patience(retries=1, wait=0.01)
    kept = "another call goes on from there"
    with pytest.raises(ValueError, match=f"tried 2 times; 20 bytes have come, {kept}"):
        get(server, path, patience=patience)
    assert "another try in 0.01 seconds" in caplog.text


def test_unknown_server_is_named(path, monkeypatch):
    def unknown(*ignored, **more):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(ValueError, match="no server of that name is found"):
        fetch("http://no.such.host.invalid/a", path, SUM, patience=Patience(retries=0))


def test_source_that_cannot_be_read_is_named(path):
    # Its first page is not mapped, whatever the process.
    with pytest.raises(OSError, match="Input/output error") as error:
        fetch("file:///proc/self/mem", path, SUM)
    assert error.value.filename == "/proc/self/mem"
    assert not list(path.parent.iterdir())


def test_cache_that_is_a_file_is_named(server, tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(OSError, match="cache"):
        get(server, tmp_path / "cache" / "a.bin")


def test_two_processes_fetch_once(server, path):
    server.misbehave["/a.bin"] = [servers.slow(0.05)]
    context = multiprocessing.get_context("spawn")
    given = (f"{server.url}/a.bin", str(path), SUM)
    processes = [context.Process(target=fetch, args=given) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert len(server.requests) == 1
    assert path.read_bytes() == CONTENT
    assert alone(path)


def test_who_waits_takes_over_when_the_first_fails(server, path):
    server.misbehave["/a.bin"] = [servers.wrong]
    failures = []

    def first():
        try:
            get(server, path)
        except ValueError as error:
            failures.append(error)

    threads = [threading.Thread(target=first) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(failures) == 1
    assert path.read_bytes() == CONTENT
    assert alone(path)
