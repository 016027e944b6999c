"""
Bring a file from an address to a path: download(url, path). Nothing else belongs here.

The bytes are kept beside the path, in PATH.ID.part, and get its name once all of them are there. ID
stands for the address and the version of the file, by the server's validator (RFC 9110, section
8.8), so that a later run that goes on where this one broke off never mixes two versions.
"""

import errno
import glob
import hashlib
import os
import ssl
import time
from pathlib import Path
from urllib.parse import urlsplit

from tools.console import NoNetwork, UserError
from tools.locks import locked

import requests
import urllib3
from tqdm import tqdm

TIMEOUT = 10  # seconds without a connection, and without a byte
PAUSES = (1, 2, 4, 8)  # seconds before the second try, the third, ...
CHUNK = 2**16  # bytes held at a time
ID_LETTERS = 16


class Broken(Exception):
    """A try that failed, where another may help."""


def sha256_of(path):
    """Return the SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while chunk := f.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def cause_of(error):
    """Return the innermost error, which says most: requests wraps it several times."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__
    return error


def request(url, **headers):
    """Request url -> the response, its body still to come. Raises NoNetwork, UserError."""
    headers |= {"Accept-Encoding": "identity"}  # so that lengths are those of the file
    try:
        return requests.get(url, headers=headers, stream=True, timeout=TIMEOUT)
    except (OSError, ValueError) as error:
        cause = cause_of(error)
        untrusted = isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError)
        if isinstance(error, requests.ConnectionError | requests.Timeout) and not untrusted:
            hint = "check the network and the proxy variables, then run this again"
            raise NoNetwork(f"cannot reach {urlsplit(url).hostname}: {cause}; {hint}") from error
        hint = "check the address, the proxy variables, the clock, and REQUESTS_CA_BUNDLE if set"
        raise UserError(f"cannot download {url}: {cause}; {hint}") from error


def version_of(response):
    """Return what tells this version of a file from any other, for If-Range; "" if nothing does."""
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified", "")


def goes_on(rest, start, version):
    """Return whether a response has the same version's bytes from start on, as it was asked to."""
    where = rest.headers.get("Content-Range", "")
    same = version_of(rest) == version
    return rest.status_code == 206 and where.startswith(f"bytes {start}-") and same


def receive(response, f, start, total):
    """Append the body of a response to f, total bytes then if that is known. Raises Broken."""
    with tqdm(total=total, initial=start, unit="B", unit_scale=True, disable=None) as bar:
        try:
            while chunk := response.raw.read1(CHUNK, decode_content=False):
                f.write(chunk)
                bar.update(len(chunk))
        except urllib3.exceptions.HTTPError as error:
            raise Broken(f"the transfer broke: {cause_of(error)}") from error
    f.flush()
    os.fsync(f.fileno())
    if total not in (None, f.tell()):
        raise Broken(f"the transfer ended at byte {f.tell():,} of {total:,}")


def fetch(url, path, size, sha256):
    """Bring url to path in one try. Raises Broken, NoNetwork, UserError, OSError."""
    with request(url) as response:
        status, total = response.status_code, response.raw.length_remaining
        answer = f"the server answers {status} {response.reason}"
        if status == 429 or status >= 500:
            raise Broken(answer)
        if status != 200:
            raise UserError(f"cannot download {url}: {answer}; check the address")
        if None not in (size, total) and size != total:
            found = f"it has {total:,} bytes where {size:,} were expected"
            raise UserError(f"cannot download {url}: {found}; check the address")
        total = size if total is None else total
        version = version_of(response)
        name = hashlib.sha256(f"{url} {version}".encode()).hexdigest()[:ID_LETTERS]
        part = Path(f"{path}.{name}.part")
        part.parent.mkdir(parents=True, exist_ok=True)
        running = "another download of it is running; wait until that has ended"
        with locked(part, f"{path}: {running}") as f:
            start = f.seek(0, os.SEEK_END) if version else 0
            if start and start != total:
                rest = request(url, **{"Range": f"bytes={start}-", "If-Range": version})
                if goes_on(rest, start, version):
                    response = rest
                else:
                    start = 0
            f.seek(start)
            f.truncate()
            if start != total:
                receive(response, f, start, total)
    if sha256 and sha256_of(part) != sha256:
        part.unlink()
        found = "it is not the file expected, its sha256 is another"
        raise UserError(f"cannot download {url}: {found}; check the address, or run this again")
    os.replace(part, path)
    for old in path.parent.glob(f"{glob.escape(path.name)}.{'[0-9a-f]' * ID_LETTERS}.part"):
        old.unlink(missing_ok=True)  # of another version


def download(url, path, size=None, sha256=None):
    """
    Download url to path, which appears there only once it is whole; size in bytes, sha256 in hex.

    Goes on where an earlier try broke off. Raises NoNetwork if the host can't be reached, and
    UserError for anything else that ends it.
    """
    print(f"downloading {url}", flush=True)
    for pause in (*PAUSES, None):
        try:
            return fetch(url, Path(path), size, sha256)
        except Broken as error:
            if pause is None:
                after, hint = f"after {len(PAUSES) + 1} tries", "run this again to go on from there"
                raise UserError(f"cannot download {url}: {error}, {after}; {hint}") from error
            time.sleep(pause)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            hint = "free some space, then run this again" if full else "check that file and folder"
            name = error.filename2 or error.filename or path
            what = error.strerror or error
            raise UserError(f"cannot write {name}: {what}; {hint}") from error
