"""tools/download.py: downloads from a server on this machine, which fails in every way we know."""

import contextlib
import errno
import hashlib
import http.server
import os
import random
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from unittest import mock

from tools import download as module
from tools.console import Unavailable, UserError
from tools.download import download

import pytest

BODY, OTHER_BODY = (random.Random(i).randbytes(300_000) for i in range(2))
BODY_SHA256 = hashlib.sha256(BODY).hexdigest()
TAG, OTHER_TAG = ([("ETag", f'"{letter}"')] for letter in "ab")
THEN, LATER = "Wed, 21 Oct 2015 07:28:00 GMT", "Thu, 22 Oct 2015 07:28:00 GMT"


@pytest.fixture(autouse=True)
def directly(monkeypatch):
    """Tests reach this machine without a proxy, and never wait."""
    monkeypatch.setattr(module, "PAUSES", (0, 0))
    for name in "NO_PROXY", "no_proxy":
        monkeypatch.setenv(name, "127.0.0.1")
    for name in "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE":
        monkeypatch.delenv(name, raising=False)


# ----------------------------------------------------------------------------
# The server


def closed_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


ANSWERS = {
    "whole": (BODY,),
    "no_length": (BODY, 200, False),
    "lies": (BODY, 200, len(BODY) + 1),
    "moved": (b"", 302, 0, [("Location", "/whole")]),
    "loop": (b"", 302, 0, [("Location", "/loop")]),
}


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers /WHAT in the way WHAT says, and notes the Range asked for."""

    def log_message(self, *args):
        pass

    def send(self, body, status=200, length=None, headers=()):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        if length is not False:
            self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def send_version(self, start):
        """Send the next version of the file, (body, headers, bytes until there is a break)."""
        versions = self.server.versions
        body, headers, end = versions.pop(0) if len(versions) > 1 else versions[0]
        known = self.headers.get("If-Range") in dict(headers).values() or not self.server.obeys
        if start >= len(body):
            self.send(b"", 416)
        elif start and known:
            at = start + self.server.skips
            where = ("Content-Range", f"bytes {at}-{len(body) - 1}/{len(body)}")
            self.send(body[at:end], 206, len(body) - at, [where, *headers])
        else:
            self.send(body[:end], 200, len(body), headers)
        if self.path == "/waits":
            self.server.released.wait(10)
            self.wfile.write(body[end:])

    def do_GET(self):
        what, asked = self.path[1:], self.headers.get("Range", "bytes=0-")
        start = int(asked.removeprefix("bytes=").removesuffix("-"))
        self.server.asked.append(start)
        assert self.headers.get("Accept-Encoding") == "identity"  # or it may compress what it sends
        if what in ("versions", "waits"):
            self.send_version(start)
        elif what == "silent":
            self.server.released.wait(10)
        elif what == "busy_once":
            self.send(BODY, 503 if len(self.server.asked) == 1 else 200)
        elif what in self.server.files:
            self.send(self.server.files[what])
        elif what.isdigit():
            self.send(b"<html>an error page</html>", int(what))
        elif what in ANSWERS:
            self.send(*ANSWERS[what])


@contextlib.contextmanager
def serving(context=None):
    """Yield a server on 127.0.0.1, with a context with TLS."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.asked, server.files, server.released = [], {}, threading.Event()
        server.versions = [(BODY, TAG, 100_000)]
        server.obeys, server.skips = True, 0  # If-Range; bytes that are left out of a range
        server.handle_error = lambda *args: None  # a client that has gone
        if context:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        scheme = "https" if context else "http"
        server.url = f"{scheme}://127.0.0.1:{server.server_port}/"
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        yield server
        server.released.set()
        server.shutdown()


@pytest.fixture
def server():
    with serving() as server:
        yield server


def part_of(path):
    """Return where the bytes of an unfinished download are, None if there is nothing."""
    found = list(path.parent.glob(f"{path.name}.*.part"))
    assert len(found) <= 1
    return found[0] if found else None


def refusal(url, path, **known):
    """Return the one line that a download ends with, which is no want of a network."""
    with pytest.raises(UserError) as error:
        download(url, path, **known)
    assert not isinstance(error.value, Unavailable)
    assert "\n" not in error.value.text and ";" in error.value.text
    return error.value.text


# ----------------------------------------------------------------------------
# What comes is the whole file, and nothing else


@pytest.mark.parametrize("what", ["whole", "no_length", "busy_once", "moved"])
def test_download_ends_with_the_whole_file(server, tmp_path, what):
    path = tmp_path / "new folder" / "file é"
    download(server.url + what, path, len(BODY), BODY_SHA256)
    assert path.read_bytes() == BODY
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize(
    ("what", "message", "tries"),
    [
        ("404", "the server answers 404 Not Found; check the address", 1),
        ("403", "403", 1),
        ("500", "500", 3),
        ("429", "429", 3),
        ("loop", "redirects", 31),
        ("lies", "after 3 tries", 3),
    ],
)
def test_download_keeps_what_was_there(server, tmp_path, what, message, tries):
    (tmp_path / "file").write_bytes(b"old")
    size = len(BODY) + (what == "lies")
    assert message in refusal(server.url + what, tmp_path / "file", size=size)
    assert (tmp_path / "file").read_bytes() == b"old"
    assert len(server.asked) == tries
    assert what == "lies" or os.listdir(tmp_path) == ["file"]


def test_download_refuses_another_size_or_sha256(server, tmp_path):
    for size in 9, 1_000_000:
        message = refusal(server.url + "whole", tmp_path / "file", size=size)
        assert f"300,000 bytes where {size:,} were expected" in message
    assert "sha256" in refusal(server.url + "whole", tmp_path / "file", sha256="0" * 64)
    assert "byte 300,000 of 300,001" in refusal(
        server.url + "no_length", tmp_path / "other", size=len(BODY) + 1
    )
    assert not (tmp_path / "other").exists() and not part_of(tmp_path / "file")


# ----------------------------------------------------------------------------
# Going on, and a file that changes on the server


VALIDATORS = [  # of an old version, and of a new one
    (TAG, OTHER_TAG),
    ([("Last-Modified", THEN)], [("Last-Modified", LATER)]),
    ([("ETag", 'W/"a"'), ("Last-Modified", THEN)], [("ETag", 'W/"b"'), ("Last-Modified", LATER)]),
]


@pytest.mark.parametrize(("old", "new"), VALIDATORS)
def test_the_same_version_goes_on(server, tmp_path, old, new):
    whole, path = (BODY, old, None), tmp_path / "file"
    server.versions = [(BODY, old, 1000), whole, (BODY, old, 3000), whole]
    download(server.url + "versions", path)
    assert path.read_bytes() == BODY
    assert server.asked == [0, 0, 1000, 0, 3000]
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("obeys", [True, False])
@pytest.mark.parametrize("between", [0, 1])  # whole answers, until the file changes
@pytest.mark.parametrize(("old", "new"), [*VALIDATORS, ([], []), ([("ETag", 'W/"a"')],) * 2])
def test_two_versions_are_never_mixed(server, tmp_path, old, new, obeys, between):
    """Not even between the two requests, nor by a server that knows no If-Range."""
    server.obeys = obeys
    server.versions = [(BODY, old, 1000), *[(BODY, old, None)] * between, (OTHER_BODY, new, None)]
    download(server.url + "versions", tmp_path / "file")
    found = (tmp_path / "file").read_bytes()
    assert found == OTHER_BODY or between and found == BODY
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("there", "after", "skips", "asked"),
    [
        (BODY[:1000], (BODY, TAG, None), 0, [0, 1000]),
        (BODY[:1000], (OTHER_BODY, OTHER_TAG, None), 0, [0]),
        (BODY, (BODY, TAG, None), 0, [0]),  # of a run that was killed before it renamed it
        (BODY + b"more", (BODY, TAG, None), 0, [0, 300_004]),
        (BODY[:1000], (BODY, TAG, None), 1, [0, 1000]),  # the server sends another range
    ],
)
def test_a_later_run(server, tmp_path, there, after, skips, asked):
    url, path = server.url + "versions", tmp_path / "file"
    server.versions = [(BODY, TAG, 1000)]
    assert "after 3 tries; run this again to go on from there" in refusal(url, path)
    assert part_of(path).read_bytes() == BODY[:1000]
    part_of(path).write_bytes(there)
    server.asked.clear()
    server.versions, server.skips = [after], skips
    download(url, path)
    assert path.read_bytes() == after[0] and server.asked == asked
    assert os.listdir(tmp_path) == ["file"]


def test_a_damaged_part_is_seen_by_the_sha256(server, tmp_path):
    url, path = server.url + "versions", tmp_path / "file"
    refusal(url, path)
    part_of(path).write_bytes(b"x" * 1000)
    server.versions = [(BODY, TAG, None)]
    assert "run this again" in refusal(url, path, sha256=BODY_SHA256)
    download(url, path, sha256=BODY_SHA256)
    assert path.read_bytes() == BODY


# ----------------------------------------------------------------------------
# Hosts that don't answer, slow ones, and ones that aren't trusted


@pytest.mark.parametrize("what", ["silent", "hangs_up", "closed"])
def test_a_host_without_an_answer_is_no_network(server, tmp_path, monkeypatch, what):
    assert module.TIMEOUT <= 10
    monkeypatch.setattr(module, "TIMEOUT", 0.5)
    url = f"https://127.0.0.1:{closed_port()}/" if what == "closed" else server.url + what
    start = time.perf_counter()
    with pytest.raises(Unavailable, match=r"cannot reach http\S*: [^()]*; check the network"):
        download(url, tmp_path / "new" / "file")
    assert time.perf_counter() - start < 5
    assert os.listdir(tmp_path) == []


def test_a_host_that_hangs_up_amid_the_exchange_of_keys_is_no_network(tmp_path):
    def hang_up():
        connection, _ = host.accept()
        with connection:
            connection.recv(2**16)

    with socket.create_server(("127.0.0.1", 0)) as host:
        threading.Thread(target=hang_up, daemon=True).start()
        with pytest.raises(Unavailable, match="EOF occurred"):
            download(f"https://127.0.0.1:{host.getsockname()[1]}/", tmp_path / "file")


def test_a_transfer_that_stalls_is_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT", 1)
    monkeypatch.setattr(module, "PAUSES", (0,))
    assert "timed out, after 2 tries; " in refusal(server.url + "waits", tmp_path / "file")
    assert part_of(tmp_path / "file").read_bytes() == BODY[:100_000]


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy"])
def test_an_unreachable_proxy_is_no_network(tmp_path, monkeypatch, variable):
    for name in "HTTPS_PROXY", "https_proxy":
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, f"http://127.0.0.1:{closed_port()}")
    with pytest.raises(Unavailable, match=r"cannot reach https?://example\.com.*: .*refused"):
        download("https://example.com/file", tmp_path / "file")
    for nonsense in "foo://127.0.0.1", "http://":
        monkeypatch.setenv(variable, nonsense)
        assert "proxy variables" in refusal("https://example.com/file", tmp_path / "file")
    assert "nonsense" in refusal("nonsense", tmp_path / "file")


def test_encryption(tmp_path, monkeypatch):
    """A certificate that can't be verified is an error, and never taken for a missing network."""
    if not shutil.which("openssl"):
        pytest.skip("needs openssl to make a certificate")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=127.0.0.1"
    command += " -addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out good.pem"
    subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "good.pem", tmp_path / "key.pem")
    bundles = (None, "self.signed"), ("nowhere.pem", "nowhere.pem"), ("key.pem", "certificate")
    with serving(context) as server:
        for bundle, what in bundles:
            if bundle:
                monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / bundle))
            message = refusal(server.url + "whole", tmp_path / "file")
            assert re.search(f"{what}.*REQUESTS_CA_BUNDLE", message) and not server.asked
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "good.pem"))
        download(server.url + "whole", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == BODY


# ----------------------------------------------------------------------------
# Two at a time, killed ones, and disks that fail


def wait_for_bytes(path):
    """Wait until an unfinished download has some of its bytes."""
    for _ in range(500):
        if (part := part_of(path)) and part.stat().st_size:
            return
        time.sleep(0.02)
    raise TimeoutError


def test_a_second_download_of_a_file_leaves_the_first_alone(server, tmp_path):
    url, path = server.url + "waits", tmp_path / "file"
    first = threading.Thread(target=download, args=[url, path])
    first.start()
    wait_for_bytes(path)
    assert "another download of it is running" in refusal(url, path)
    server.released.set()
    first.join(10)
    assert path.read_bytes() == BODY
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_disk_that_fails(server, tmp_path, monkeypatch, number):
    error = OSError(number, os.strerror(number))
    (tmp_path / "file").write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", mock.Mock(side_effect=error))
    message = refusal(server.url + "whole", tmp_path / "file")
    assert message.startswith(f"cannot write in {tmp_path}: {error.strerror}; ")
    assert ("free some space" in message) == (number != errno.EIO)
    assert (tmp_path / "file").read_bytes() == b"old"


def test_a_target_that_cannot_be_one(server, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"mine")
    for path in tmp_path / "folder", tmp_path / "file" / "inside":
        assert refusal(server.url + "whole", path).startswith("cannot write")
    assert (tmp_path / "file").read_bytes() == b"mine" and os.listdir(tmp_path / "folder") == []


def test_a_mistake_in_the_code_is_not_taken_for_a_want_of_network(tmp_path, monkeypatch):
    monkeypatch.setattr(module.requests, "get", None)
    with pytest.raises(TypeError):
        download("http://127.0.0.1/", tmp_path / "file")
