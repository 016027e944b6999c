"""
Bring a file from an address to a path: download(url, path). Nothing else belongs here.

The bytes are kept beside the path, in PATH.ID.part, and get its name once all of them are there. ID
stands for the address, so that no file of the user has this name by chance. PATH.ID.note.part says
of what version of the file they are, by the validator of the server (RFC 9110, section 8.8), and is
locked while a download runs. A later one goes on where it broke off.
"""

import contextlib
import errno
import hashlib
import os
import queue
import re
import ssl
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

from tools.console import NoNetwork, UserError, one_line
from tools.locks import locked, never_follow, remove

import requests
import urllib3
from tqdm import tqdm

CONNECT_SECONDS = 5  # for one address of a host
ANSWER_SECONDS = 9  # from asking for a name to the first line of the answer
STALL_SECONDS = 30  # without a byte, until a transfer is given up
PAUSES = (1, 2, 4, 8)  # seconds before the second try, the third, ...
CHUNK = 2**16  # bytes held at a time, at most
ID_LETTERS = 16


class Broken(Exception):
    """A try that failed, where another may help."""


class OtherFile(Broken):
    """The bytes that are here are of another file, or of another version of it."""


class Unencrypted(requests.adapters.HTTPAdapter):
    """For http:// where https:// was asked for."""

    def send(self, request, **kwargs):
        raise requests.exceptions.InvalidURL(f"redirected to {request.url}, without encryption")


def line(what, why, hint):
    """Return a message in one line, without what a server may have put in to steer a terminal."""
    return one_line(f"{what}: {why}; {hint}")


def sha256_of(path):
    """Return the SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while chunk := f.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def request(url, headers):
    """Request url -> the response, its body still to come. Raises NoNetwork, UserError."""
    answers = queue.SimpleQueue()

    def get():
        try:
            with requests.Session() as session:
                if url.lower().startswith("https:"):
                    session.mount("http://", Unencrypted())
                timeout = (CONNECT_SECONDS, STALL_SECONDS)
                answers.put(session.get(url, headers=headers, stream=True, timeout=timeout))
        except Exception as error:  # whatever it is, for the thread that waits
            answers.put(error)

    # In a thread because looking up a name knows no timeout, and a host may have many addresses.
    threading.Thread(target=get, daemon=True).start()
    try:
        answer = answers.get(timeout=ANSWER_SECONDS)
    except queue.Empty:
        answer = requests.ConnectionError(f"no answer in {ANSWER_SECONDS} seconds")
    if isinstance(answer, requests.Response):
        return answer
    cause = answer
    while cause.__cause__ or cause.__context__:  # requests wraps the error that says most
        cause = cause.__cause__ or cause.__context__
    # A host that hangs up amid the exchange of keys is as good as none; others are not trusted.
    hung_up = isinstance(cause, ssl.SSLEOFError)
    untrusted = isinstance(answer, requests.exceptions.SSLError) and not hung_up
    if isinstance(answer, requests.ConnectionError) and not untrusted:
        hint = "check the network and the proxy variables, then run this again"
        raise NoNetwork(line(f"cannot reach {urlsplit(url).hostname}", cause, hint)) from answer
    if not isinstance(answer, (OSError, ValueError, urllib3.exceptions.HTTPError)):
        raise answer  # a mistake in the code
    hint = "check the address and the proxy variables"
    if untrusted or not isinstance(answer, requests.RequestException):
        hint = "check the clock, and the file of certificates in REQUESTS_CA_BUNDLE if that is set"
    raise UserError(line(f"cannot download {url}", cause, hint)) from answer


def version_of(response):
    """Return what tells this version of a file from any other, for If-Range; "" if nothing does."""
    tag, changed = (response.headers.get(name, "") for name in ("ETag", "Last-Modified"))
    if tag.startswith('"'):  # a strong one
        return tag
    # a file that changed in this very second may do so again
    return "" if changed == response.headers.get("Date") else changed


def receive(response, f, total):
    """Append the body of a response to f, total bytes then if that is known. Raises Broken."""
    with tqdm(total=total, initial=f.tell(), unit="B", unit_scale=True, disable=None) as bar:
        try:
            while chunk := response.raw.read1(CHUNK, decode_content=False):
                f.write(chunk)
                bar.update(len(chunk))
        except urllib3.exceptions.HTTPError as error:
            raise Broken(f"the transfer broke: {error}") from error
        finally:
            f.flush()
            os.fsync(f.fileno())
    if total not in (None, f.tell()):
        raise Broken(f"the transfer ended at byte {f.tell():,} of {total:,}")


def read_note(note):
    """Return the version that an open note says, "" if none."""
    note.seek(0)
    version = note.read().decode("latin-1")
    return version if version.isprintable() else ""  # a crash may have left anything


def position(response, url, start, version):
    """
    Return from which byte on an answer has the file, and how many the whole has (None: not said).

    Asked for was the version of it from byte start on. Raises Broken, UserError.
    """
    status = response.status_code
    answer = f"the server answers {status} {response.reason}"
    if status == 429 or status >= 500:
        raise Broken(answer)
    if status == 416:
        raise OtherFile("the server has less than the part that was here")
    if status == 200:
        return 0, response.raw.length_remaining
    if status != 206:
        raise UserError(line(f"cannot download {url}", answer, "check the address"))
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
    if not found or int(found[1]) != start or version and version != version_of(response):
        raise OtherFile("the server sends another range than the one asked for")
    return start, int(found[2])


def fetch(url, part, note, size, sha256):
    """
    Bring the file part up to all of url, in one try -> whether it had some of that before.

    Raises Broken where another try may help, NoNetwork, UserError.
    """
    with open(part, "ab", buffering=2**13, opener=never_follow) as f:  # a kill loses no more
        version = read_note(note)
        start = f.tell() if version or sha256 else 0  # never one version behind another
        if start and start == size:
            return True
        headers = {"Accept-Encoding": "identity"}  # so that lengths are those of the file
        if start:
            headers["Range"] = f"bytes={start}-"
        if start and version:
            headers["If-Range"] = version
        with request(url, headers) as response:
            start, total = position(response, url, start, version)
            if None not in (size, total) and size != total:
                found = f"it has {total:,} bytes where {size:,} were expected"
                raise UserError(line(f"cannot download {url}", found, "check the address"))
            f.seek(start)
            f.truncate()
            if not start:
                note.truncate(0)
                note.write(version_of(response).encode("latin-1"))
                note.flush()
            receive(response, f, size if total is None else total)
            return start > 0


def bring(url, part, note, size, sha256):
    """Bring the file part up to all of url, and check it. Raises NoNetwork, UserError."""
    for pause in (*PAUSES, None):
        try:
            had = fetch(url, part, note, size, sha256)
            if not sha256 or sha256_of(part) == sha256:
                return
            if had:
                raise OtherFile("the part that was here is of another file")
            part.unlink()
            found = "it is not the file expected, its sha256 is another"
            raise UserError(line(f"cannot download {url}", found, "check the address"))
        except Broken as error:
            if isinstance(error, OtherFile):
                part.unlink()
            if pause is None:
                tries, hint = f"{len(PAUSES) + 1} tries", "run this again to go on from there"
                message = line(f"cannot download {url}", f"{error}, after {tries}", hint)
                raise UserError(message) from error
            time.sleep(pause)


@contextlib.contextmanager
def making(folder):
    """Make a folder, with those above it; what is still empty in the end is removed again."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for path in missing:
            with contextlib.suppress(OSError):  # there is something in it
                path.rmdir()


def download(url, path, size=None, sha256=None):
    """
    Download url to path, which appears there only once it is whole; size in bytes, sha256 in hex.

    Goes on where an earlier try broke off. Raises NoNetwork, within ten seconds, if the host can't
    be reached, and UserError for anything else that ends it.
    """
    own = f"{path}.{hashlib.sha256(os.fsencode(url)).hexdigest()[:ID_LETTERS]}"
    part, note_path = Path(f"{own}.part"), Path(f"{own}.note.part")
    print(f"downloading {url}", flush=True)
    try:
        with making(part.parent), locked(note_path) as note:
            try:
                bring(url, part, note, size, sha256)
                os.replace(part, path)
            finally:
                known = sha256 or read_note(note)
                if not (known and part.exists() and part.stat().st_size):  # nothing to go on from
                    part.unlink(missing_ok=True)
                    remove(note, note_path)
    except BlockingIOError:
        running = "another download of it is running"
        raise UserError(f"{path}: {running}; wait until that has ended") from None
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = "free some space, then run this again" if full else "check that file and its folder"
        name = error.filename2 or error.filename or path
        raise UserError(line(f"cannot write {name}", error.strerror or error, hint)) from error
