"""tools/download.py: downloads from a server on this machine, which fails in every way we know."""

import errno
import hashlib
import http.server
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

from tools import download as module
from tools import locks
from tools.console import NoNetwork, UserError
from tools.download import download
from train_gpt2 import HERE

import pytest

BODY, OTHER_BODY = (random.Random(i).randbytes(300_000) for i in range(2))
BODY_SHA256 = hashlib.sha256(BODY).hexdigest()
ESCAPES = "\x1b[31mNot\x07 here"
THEN = "Wed, 21 Oct 2015 07:28:00 GMT"


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


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers /WHAT in the way WHAT says, and notes the Range asked for."""

    def log_message(self, *args):
        pass

    def send(self, body, status=200, length=None, headers=(), reason=None):
        self.send_response(status, reason)
        for name, value in headers:
            self.send_header(name, value)
        if length is not False:
            self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def send_version(self, number, start):
        """Send version NUMBER of a file, (body, headers, bytes until the connection breaks)."""
        versions = self.server.versions
        body, headers, end = versions[min(number, len(versions) - 1)]
        wanted = self.headers.get("If-Range")
        self.server.wanted.append(wanted)
        if start and (not wanted or not self.server.obeys or wanted in dict(headers).values()):
            where = ("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            self.send(body[start:end], 206, len(body) - start, [where, *headers])
        else:
            self.send(body[:end], 200, len(body), headers)

    def do_GET(self):
        what, asked = self.path[1:], self.headers.get("Range")
        number = len(self.server.asked)
        first = not number
        self.server.asked.append(asked)
        self.server.encodings.add(self.headers.get("Accept-Encoding"))
        start = int(asked[len("bytes=") : -1]) if asked else 0
        content_range = [("Content-Range", f"bytes {start}-{len(BODY) - 1}/{len(BODY)}")]
        if what == "whole" or (what == "no_range" and not first):
            self.send(BODY)
        elif what == "no_length":
            self.send(BODY, length=False)
        elif what in ("truncates", "no_range") and first:
            self.send(BODY[:100_000], length=len(BODY))
        elif what in ("truncates", "resumes") and start >= len(BODY):
            self.send(b"", 416)
        elif what in ("truncates", "resumes"):
            self.send(BODY[start:], 206 if asked else 200, headers=content_range if asked else ())
        elif what == "lies":
            self.send(BODY, length=len(BODY) + 1)
        elif what == "wrong_range":
            if asked:
                self.send(BODY, 206, headers=[("Content-Range", f"bytes 0-9/{len(BODY)}")])
            else:
                self.send(BODY)
        elif what == "busy_once":
            self.send(b"busy" if first else BODY, 503 if first else 200)
        elif what == "loop":
            self.send(b"", 302, headers=[("Location", "/loop")])
        elif what == "moved":
            self.send(b"", 302, headers=[("Location", "/whole")])
        elif what == "elsewhere":
            self.send(b"", 302, headers=[("Location", self.server.elsewhere)])
        elif what == "silent":
            self.server.released.wait(10)
        elif what == "hangs_up":
            self.close_connection = True
        elif what == "escapes":
            self.send(b"", int(self.server.status), reason=ESCAPES)
        elif what == "versions":
            self.send_version(number, start)
        elif what == "waits":
            self.send(BODY[start:100_000], 206 if asked else 200, len(BODY) - start, content_range)
            self.server.released.wait(10)
            self.wfile.write(BODY[100_000:])
        elif what.isdigit():
            self.send(b"<html>an error page</html>", int(what))
        else:
            self.send(self.server.files[what])


class Server(http.server.ThreadingHTTPServer):
    """On 127.0.0.1, with a context with TLS; until the end of a with statement."""

    def __init__(self, context=None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked, self.wanted, self.files, self.released = [], [], {}, threading.Event()
        self.encodings = set()
        self.obeys = True  # If-Range
        if context:
            self.socket = context.wrap_socket(self.socket, server_side=True)
        scheme = "https" if context else "http"
        self.url = f"{scheme}://127.0.0.1:{self.server_address[1]}/"

    def handle_error(self, *args):
        pass  # a client that has gone

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=[0.01], daemon=True).start()
        return self

    def __exit__(self, *args):
        self.released.set()
        self.shutdown()
        self.server_close()


@pytest.fixture
def server():
    with Server() as server:
        yield server


def part_of(url, path, kind="part"):
    """Where the bytes of an unfinished download are, or its note (kind "note.part")."""
    return Path(f"{path}.{hashlib.sha256(url.encode()).hexdigest()[:16]}.{kind}")


def refusal(url, path, **known):
    """The one line that a download ends with, which is no want of a network."""
    with pytest.raises(UserError) as error:
        download(url, path, **known)
    message = error.value.text
    assert not isinstance(error.value, NoNetwork)
    assert "\n" not in message and ";" in message and message.isprintable()
    return message


# ----------------------------------------------------------------------------
# What comes is the whole file, and nothing else


@pytest.mark.parametrize(
    "what", ["whole", "no_length", "truncates", "no_range", "busy_once", "moved"]
)
def test_download_ends_with_the_whole_file(server, tmp_path, what):
    path = tmp_path / "new folder" / "file é"
    size = None if what == "no_length" else len(BODY)
    download(server.url + what, path, size, BODY_SHA256)
    assert path.read_bytes() == BODY
    assert os.listdir(path.parent) == [path.name]
    if what in ("truncates", "no_range"):
        assert server.asked == [None, "bytes=100000-"]
    assert server.encodings == {"identity"}  # or a server may compress what it sends


def test_download_without_size_or_sha256_still_sees_the_truncation(server, tmp_path):
    download(server.url + "truncates", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == BODY
    assert server.asked == [None, None]  # nothing tells whether it is the same version


@pytest.mark.parametrize(
    ("what", "there", "asked"),
    [
        ("resumes", BODY[:1000], ["bytes=1000-"]),
        ("resumes", BODY, []),
        ("resumes", BODY + b"more", ["bytes=300004-", None]),  # 416, then from the start
        ("resumes", b"x" * 1000, ["bytes=1000-", None]),  # of another file, as the sha256 tells
        ("wrong_range", BODY[:1000], ["bytes=1000-", None]),  # where it sends another one
    ],
)
def test_download_goes_on_from_the_part_of_an_earlier_run(server, tmp_path, what, there, asked):
    url, path = server.url + what, tmp_path / "file"
    part_of(url, path).write_bytes(there)
    download(url, path, len(BODY), BODY_SHA256)
    assert path.read_bytes() == BODY
    assert server.asked == asked
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("what", "message", "tries"),
    [
        ("404", "404", 1),
        ("403", "403", 1),
        ("500", "500", 3),
        ("loop", "redirects", 31),
        ("lies", "after 3 tries", 3),
    ],
)
def test_download_keeps_nothing_that_is_wrong(server, tmp_path, what, message, tries):
    (tmp_path / "file").write_bytes(b"old")
    assert message in refusal(server.url + what, tmp_path / "file", sha256=BODY_SHA256)
    assert (tmp_path / "file").read_bytes() == b"old"
    assert len(server.asked) == tries
    if what != "lies":
        assert os.listdir(tmp_path) == ["file"]


def test_download_refuses_another_size_or_sha256(server, tmp_path):
    for size in 9, 1_000_000:
        with pytest.raises(UserError, match=f"300,000 bytes where {size:,} were expected"):
            download(server.url + "whole", tmp_path / "file", size=size)
    with pytest.raises(UserError, match="sha256"):
        download(server.url + "whole", tmp_path / "file", sha256="0" * 64)
    assert os.listdir(tmp_path) == []
    assert len(server.asked) == 3


# ----------------------------------------------------------------------------
# A file that changes on the server


VALIDATORS = [  # of an old version, and of a new one
    ([("ETag", '"a"')], [("ETag", '"b"')]),
    ([("Last-Modified", THEN)], [("Last-Modified", THEN.replace("21", "22"))]),
    ([("ETag", 'W/"a"'), ("Last-Modified", THEN)], [("ETag", 'W/"b"')]),
]


@pytest.mark.parametrize("obeys", [True, False])
@pytest.mark.parametrize(("old", "new"), [*VALIDATORS, ([], []), ([("ETag", 'W/"a"')],) * 2])
def test_two_versions_are_never_mixed(server, tmp_path, old, new, obeys):
    server.versions, server.obeys = [(BODY, old, 1000), (OTHER_BODY, new, None)], obeys
    download(server.url + "versions", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == OTHER_BODY
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize(("old", "new"), VALIDATORS)
def test_the_same_version_goes_on(server, tmp_path, old, new):
    server.versions = [(BODY, old, 1000), (BODY, old, 3000), (BODY, old, None)]
    download(server.url + "versions", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == BODY
    assert server.asked == [None, "bytes=1000-", "bytes=3000-"]
    assert server.wanted == [None, old[-1][1], old[-1][1]]


@pytest.mark.parametrize("changes", [True, False])
def test_a_later_run_knows_the_version(server, tmp_path, changes):
    url, path = server.url + "versions", tmp_path / "file"
    server.versions = [(BODY, [("ETag", '"a"')], 1000)]
    assert "after 3 tries" in refusal(url, path)
    assert part_of(url, path).read_bytes() == BODY[:1000]
    server.asked.clear()
    body, tag = (OTHER_BODY, '"b"') if changes else (BODY, '"a"')
    server.versions = [(body, [("ETag", tag)], None)]
    download(url, path)
    assert path.read_bytes() == body
    assert server.asked == ["bytes=1000-"] and server.wanted[-1] == '"a"'
    assert os.listdir(tmp_path) == ["file"]


def test_a_part_of_no_known_version_is_not_kept(server, tmp_path):
    server.versions = [(BODY, [], 1000)]
    refusal(server.url + "versions", tmp_path / "file")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("note", [b"", b"\0" * 10, b'"a"\r\nX: y', b"\xff"])
def test_a_damaged_note(server, tmp_path, note):
    url, path = server.url + "versions", tmp_path / "file"
    part_of(url, path).write_bytes(b"x" * 1000)
    part_of(url, path, "note.part").write_bytes(note)
    server.versions = [(BODY, [("ETag", '"a"')], None)]
    download(url, path)
    assert path.read_bytes() == BODY


def test_a_file_that_changed_this_second_may_do_so_again():
    response = module.requests.Response()
    response.headers.update({"Last-Modified": THEN, "Date": THEN})
    assert module.version_of(response) == ""
    response.headers["Date"] = THEN.replace("00 GMT", "01 GMT")
    assert module.version_of(response) == THEN


def test_another_size_where_a_download_goes_on(server, tmp_path):
    url, path = server.url + "versions", tmp_path / "file"
    part_of(url, path).write_bytes(BODY[:1000])
    server.versions = [(BODY + b"more", [], None)]
    message = refusal(url, path, size=len(BODY), sha256=BODY_SHA256)
    assert "300,004 bytes where 300,000 were expected" in message


# ----------------------------------------------------------------------------
# Hosts that don't answer, and slow ones


@pytest.mark.parametrize("what", ["silent", "hangs_up"])
def test_a_host_without_an_answer_is_not_waited_for(server, tmp_path, monkeypatch, what):
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.5)
    start = time.perf_counter()
    with pytest.raises(NoNetwork, match=r"cannot reach 127\.0\.0\.1: "):
        download(server.url + what, tmp_path / "file")
    assert time.perf_counter() - start < 5
    assert os.listdir(tmp_path) == []


def test_a_name_that_is_looked_up_for_long(tmp_path, monkeypatch):
    assert module.ANSWER_SECONDS < 10
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: time.sleep(5))
    start = time.perf_counter()
    with pytest.raises(NoNetwork, match=r"cannot reach nowhere\.invalid: no answer"):
        download("http://nowhere.invalid/", tmp_path / "file")
    assert time.perf_counter() - start < 3


def test_a_transfer_that_stalls_is_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "STALL_SECONDS", 0.3)
    url, path = server.url + "waits", tmp_path / "file"
    assert "timed out" in refusal(url, path, sha256=BODY_SHA256)
    assert part_of(url, path).read_bytes() == BODY[:100_000]


def test_a_folder_made_for_a_download_that_fails_is_removed(tmp_path):
    (tmp_path / "old").mkdir()
    for folder in "new", "new/newer", "old/newer":
        with pytest.raises(NoNetwork):
            download(f"https://127.0.0.1:{closed_port()}/", tmp_path / folder / "file")
        assert [path.name for path in tmp_path.rglob("*")] == ["old"]


def test_an_unreachable_host_is_told_at_once(tmp_path):
    start = time.perf_counter()
    with pytest.raises(NoNetwork, match=r"cannot reach 127\.0\.0\.1: .*refused; check"):
        download(f"https://127.0.0.1:{closed_port()}/", tmp_path / "file")
    assert time.perf_counter() - start < 5
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy"])
def test_an_unreachable_proxy_is_no_network(tmp_path, monkeypatch, variable):
    for name in "HTTPS_PROXY", "https_proxy":
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, f"http://127.0.0.1:{closed_port()}")
    with pytest.raises(NoNetwork, match=r"cannot reach example\.com: .*refused"):
        download("https://example.com/file", tmp_path / "file")
    for nonsense in "foo://127.0.0.1", "http://":
        monkeypatch.setenv(variable, nonsense)
        assert "proxy variables" in refusal("https://example.com/file", tmp_path / "file")
    assert "nonsense" in refusal("nonsense", tmp_path / "file")


# ----------------------------------------------------------------------------
# Encryption


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """A folder with key.pem, and with good.pem and expired.pem, certificates signed with it."""
    if not shutil.which("openssl"):
        pytest.skip("needs openssl to make certificates")
    folder = tmp_path_factory.mktemp("keys")
    (folder / "index.txt").touch()
    (folder / "ca.cnf").write_text(
        "[ca]\ndefault_ca=ours\n"
        "[ours]\nnew_certs_dir=.\ndatabase=index.txt\nrand_serial=yes\ndefault_md=sha256\n"
        "unique_subject=no\npolicy=any\nx509_extensions=address\n"
        "[any]\ncommonName=supplied\n"
        "[address]\nsubjectAltName=IP:127.0.0.1\n"
    )

    def openssl(*args):
        done = subprocess.run(["openssl", *args], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    request = "req -new -newkey rsa:2048 -nodes -keyout key.pem -out request.pem -subj /CN=test"
    openssl(*request.split(), "-config", os.devnull)
    sign = "ca -config ca.cnf -selfsign -batch -notext -keyfile key.pem -in request.pem"
    for name, year in ("good", 2049), ("expired", 2016):
        dates = f"-startdate 20150101000000Z -enddate {year}0101000000Z -out {name}.pem"
        openssl(*sign.split(), *dates.split())
    return folder


@pytest.fixture
def safe_server(keys, request):
    """A server with TLS, and the certificate good.pem, or the one that the test says."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(keys / getattr(request, "param", "good.pem"), keys / "key.pem")
    with Server(context) as server:
        yield server


def test_encrypted(safe_server, server, keys, tmp_path, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(keys / "good.pem"))
    server.elsewhere = safe_server.url + "moved"
    download(server.url + "elsewhere", tmp_path / "file")  # a redirection into it is followed
    assert (tmp_path / "file").read_bytes() == BODY


@pytest.mark.parametrize(
    ("safe_server", "bundle", "message"),
    [
        ("good.pem", None, "self-signed certificate"),
        ("expired.pem", "expired.pem", "certificate has expired"),
        ("good.pem", "nowhere.pem", "nowhere.pem"),
        ("good.pem", "request.pem", "certificate"),
    ],
    indirect=["safe_server"],
)
def test_a_failed_check_of_a_certificate(safe_server, keys, tmp_path, monkeypatch, bundle, message):
    if bundle:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(keys / bundle))
    start = time.perf_counter()
    line = refusal(safe_server.url + "whole", tmp_path / "file")
    assert message in line.replace("self signed", "self-signed") and "REQUESTS_CA_BUNDLE" in line
    assert time.perf_counter() - start < 5
    assert os.listdir(tmp_path) == [] and safe_server.asked == []


def test_a_redirection_out_of_encryption_is_refused(
    safe_server, server, keys, tmp_path, monkeypatch
):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(keys / "good.pem"))
    safe_server.elsewhere = server.url + "whole"
    message = refusal(safe_server.url + "elsewhere", tmp_path / "file")
    assert f"redirected to {server.url}whole, without encryption" in message
    assert os.listdir(tmp_path) == [] and server.asked == []


# ----------------------------------------------------------------------------
# Two at a time, killed ones, and files of the user's


def wait_for(condition):
    for _ in range(500):
        if condition():
            return
        time.sleep(0.02)
    raise TimeoutError


def has_bytes(path, count=1):
    return path.exists() and path.stat().st_size >= count


def test_a_second_download_of_a_file_leaves_the_first_alone(server, tmp_path):
    url, path = server.url + "waits", tmp_path / "file"
    first = threading.Thread(target=download, args=[url, path])
    first.start()
    wait_for(lambda: has_bytes(part_of(url, path)))
    assert "another download of it is running" in refusal(url, path)
    server.released.set()
    first.join(10)
    assert path.read_bytes() == BODY and len(server.asked) == 1
    assert os.listdir(tmp_path) == ["file"]


def test_a_download_from_elsewhere_meanwhile(server, tmp_path):
    path = tmp_path / "file"
    first = threading.Thread(target=download, args=[server.url + "waits", path])
    first.start()
    wait_for(lambda: has_bytes(part_of(server.url + "waits", path)))
    server.files["other"] = OTHER_BODY
    download(server.url + "other", path)
    assert path.read_bytes() == OTHER_BODY
    server.released.set()
    first.join(10)
    assert path.read_bytes() == BODY
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.skipif(not locks.fcntl, reason="Windows removes no open file")
@pytest.mark.parametrize("again", [False, True])
def test_a_download_that_ends_while_another_starts(server, tmp_path, monkeypatch, again):
    url, path = server.url + "whole", tmp_path / "file"

    def late(f, how):  # the first has just removed the file that the second has opened
        os.unlink(f.name)
        if again:
            Path(f.name).touch()

    monkeypatch.setattr(locks.fcntl, "flock", late)
    assert "another download of it is running" in refusal(url, path)
    assert server.asked == []


@pytest.mark.skipif(not locks.fcntl, reason="Windows has locks everywhere")
def test_a_folder_without_locks(server, tmp_path, monkeypatch):
    def flock(f, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    download(server.url + "whole", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == BODY


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no such signals")
@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_a_killed_download_goes_on(server, tmp_path, name):
    url, path = server.url + "waits", tmp_path / "file"
    code = "import sys; from tools.download import download; download(*sys.argv[1:], None, {!r})"
    command = [sys.executable, "-c", code.format(BODY_SHA256), url, str(path)]
    with subprocess.Popen(command, cwd=HERE, stderr=subprocess.DEVNULL) as child:
        wait_for(lambda: has_bytes(part_of(url, path), 50_000))
        child.send_signal(getattr(signal, name))
    kept = part_of(url, path).stat().st_size
    server.released.set()
    download(url, path, None, BODY_SHA256)
    assert path.read_bytes() == BODY
    assert server.asked == [None, f"bytes={kept}-"]
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("what", ["whole", "404"])
def test_a_file_of_the_user_is_left_alone(server, tmp_path, what):
    (tmp_path / "file.part").write_bytes(b"mine")
    (tmp_path / "target").write_bytes(b"mine, too")
    (tmp_path / "link.part").symlink_to("target")
    for name in "file", "link":
        if what == "404":
            refusal(server.url + what, tmp_path / name)
        else:
            download(server.url + what, tmp_path / name)
            assert (tmp_path / name).read_bytes() == BODY
    assert (tmp_path / "file.part").read_bytes() == b"mine"
    assert (tmp_path / "link.part").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"mine, too"


@pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="Windows can't tell links")
@pytest.mark.parametrize("kind", ["part", "note.part"])
@pytest.mark.parametrize("known", [None, BODY_SHA256])
def test_a_link_is_never_followed(server, tmp_path, kind, known):
    url, path = server.url + "whole", tmp_path / "file"
    (tmp_path / "target").write_bytes(b"mine")
    part_of(url, path, kind).symlink_to("target")
    message = refusal(url, path, sha256=known)
    assert str(part_of(url, path, kind)) in message and "symbolic links" in message
    assert (tmp_path / "target").read_bytes() == b"mine" and not path.exists()


# ----------------------------------------------------------------------------
# Messages


@pytest.mark.parametrize("status", ["404", "500"])
def test_what_a_server_says_steers_no_terminal(server, tmp_path, status):
    server.status = status
    message = refusal(server.url + "escapes", tmp_path / "file")
    assert rf"the server answers {status} \x1b[31mNot\x07 here" in message


def test_where_a_server_leads_steers_no_terminal(server, tmp_path):
    server.elsewhere = f"foo://{ESCAPES}"
    refusal(server.url + "elsewhere", tmp_path / "file")  # which looks at the line


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG])
def test_a_disk_that_fails(server, tmp_path, monkeypatch, number):
    def fsync(fd):
        raise OSError(number, os.strerror(number))

    (tmp_path / "file").write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", fsync)
    message = refusal(server.url + "whole", tmp_path / "file")
    assert message.startswith(f"cannot write {tmp_path / 'file'}: {os.strerror(number)}; ")
    assert ("free some space" in message) == (number in (errno.ENOSPC, errno.EDQUOT))
    assert (tmp_path / "file").read_bytes() == b"old"


def test_a_target_that_cannot_be_one(server, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"mine")
    for path in tmp_path / "folder", tmp_path / "file" / "inside":
        message = refusal(server.url + "whole", path)
        assert message.startswith("cannot write") and "free some space" not in message
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]
    assert os.listdir(tmp_path / "folder") == []


def test_a_mistake_in_the_code_is_not_taken_for_a_want_of_network(tmp_path, monkeypatch):
    monkeypatch.setattr(module.requests, "Session", None)
    with pytest.raises(TypeError):
        download("http://127.0.0.1/", tmp_path / "file")
