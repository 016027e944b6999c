"""
Bring a file from an address to a path: download(url, path). Nothing else belongs here.

The bytes are kept beside the path, in PATH.ID.part, and get its name once all of them are there. ID
stands for the address and the version of the file, by the server's validator (RFC 9110, section
8.8), so that a later run that goes on where this one broke off never mixes two versions.
"""

import contextlib
import glob
import hashlib
import os
import ssl
import time
from pathlib import Path

from tools.console import Unavailable, UserError, writing_in
from tools.locks import locked
from tools.log import bars

import requests
from urllib3.exceptions import HTTPError

TIMEOUT = 10  # seconds without a connection, and without a byte
PAUSES = (1, 2, 4, 8)  # seconds before the second try, the third, ...


def sha256_of(path):
    """Return the SHA-256 of a file, in hex."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def cause_of(error):
    """Return the innermost error, which says most: requests wraps it several times."""
    inner = error.__cause__ or error.__context__
    return cause_of(inner) if inner else error


def request(url, **headers):
    """Request url -> the response, its body still to come. Raises Unavailable, UserError."""
    headers |= {"Accept-Encoding": "identity"}  # so that lengths are those of the file
    try:
        return requests.get(url, headers=headers, stream=True, timeout=TIMEOUT)
    except (OSError, ValueError) as error:
        cause, hint = cause_of(error), "the proxy variables, and REQUESTS_CA_BUNDLE"
        untrusted = isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError)
        if isinstance(error, requests.ConnectionError | requests.Timeout) and not untrusted:
            raise Unavailable(f"cannot reach {url}: {cause}; check the network, {hint}") from error
        raise UserError(f"cannot download {url}: {cause}; check the address, {hint}") from error


def version_of(response):
    """Return what tells this version of a file from any other, for If-Range; "" if nothing does."""
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified", "")


def rest_of(url, start, version):
    """Return a response whose body is that version's bytes from start on; None if there is none."""
    rest = request(url, **{"Range": f"bytes={start}-", "If-Range": version})
    same = version_of(rest) == version and rest.status_code == 206
    where = rest.headers.get("Content-Range", "")
    return rest if same and where.startswith(f"bytes {start}-") else None


def receive(response, f, total):
    """Append the body of a response to f, total bytes then if that is known. HTTPError."""
    how = {"initial": f.tell(), "unit": "B", "unit_scale": True, "disable": None}
    with contextlib.closing(bars()(total=total, **how)) as bar:
        while chunk := response.raw.read1(2**16, decode_content=False):
            bar.update(f.write(chunk))
    if total not in (None, f.tell()):
        raise HTTPError(f"the transfer ended at byte {f.tell():,} of {total:,}")


def fetch(url, path, size, sha256):
    """Bring url to path in one try. Raises HTTPError, Unavailable, UserError, OSError."""
    with request(url) as response:
        status, total = response.status_code, response.raw.length_remaining
        what = "" if status == 200 else f"the server answers {status} {response.reason}"
        if status == 429 or status >= 500:
            raise HTTPError(what)
        if not what and None not in (size, total) and size != total:
            what = f"it has {total:,} bytes where {size:,} were expected"
        if what:
            raise UserError(f"cannot download {url}: {what}; check the address")
        total, version = size if total is None else total, version_of(response)
        name = hashlib.sha256(f"{url} {version}".encode()).hexdigest()[:16]
        part = Path(f"{path}.{name}.part")
        part.parent.mkdir(parents=True, exist_ok=True)
        with locked(part, f"{path}: another download of it is running; wait for its end") as f:
            start = f.seek(0, os.SEEK_END) if version else 0
            if start != total:
                rest = rest_of(url, start, version) if start else None
                f.truncate(start if rest else 0)  # which is where a file opened by "a" goes on
                receive(rest or response, f, total)
            f.flush()
            os.fsync(f.fileno())
    if sha256 and sha256_of(part) != sha256:
        part.unlink()
        what = "it is not the file expected, its sha256 is another"
        raise UserError(f"cannot download {url}: {what}; check the address, or run this again")
    os.replace(part, path)
    for old in path.parent.glob(f"{glob.escape(path.name)}.{'[0-9a-f]' * 16}.part"):
        old.unlink(missing_ok=True)  # of another version


def download(url, path, size=None, sha256=None):
    """
    Download url to path, which appears there only once it is whole; size in bytes, sha256 in hex.

    Goes on where an earlier try broke off. Raises Unavailable if the host can't be reached, and
    UserError for anything else that ends it.
    """
    print(f"downloading {url}", flush=True)
    for pause in (*PAUSES, None):
        try:
            with writing_in(Path(path).parent):
                return fetch(url, Path(path), size, sha256)
        except HTTPError as error:  # another try may help
            if pause is None:
                what = f"{cause_of(error)}, after {len(PAUSES) + 1} tries"
                hint = "run this again to go on from there"
                raise UserError(f"cannot download {url}: {what}; {hint}") from error
            time.sleep(pause)
