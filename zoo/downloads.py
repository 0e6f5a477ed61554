"""Files from their published addresses: checked, whole or not at all, and said in one line."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

from zoo.files import replacing

__all__ = ["AbsentError", "Published", "download", "obtain"]

CHUNK = 1 << 20
TIMEOUT = 30.0


class AbsentError(ValueError):
    """A file that is not there and could not be fetched; the message names address and place."""


@dataclass(frozen=True)
class Published:
    """A file with a stable address.

    Attributes:
        path: relative to the folder for data.
        url: http, https or file.
        sha256: of the whole file.
    """

    path: str
    url: str
    sha256: str


def obtain(file: Published, folder: Path) -> Path:
    """The file's place under ``folder``, downloaded first where it is not there yet.

    Raises:
        AbsentError: as `download`.
    """
    place = folder / file.path
    if not place.is_file():
        download(file.url, place, file.sha256)
    return place


def download(url: str, place: Path, sha256: str, timeout: float = TIMEOUT) -> None:
    """Fetches a file. It is written beside ``place`` and takes its place when it is complete and
    its checksum is right; until then nothing that is there is touched.

    Args:
        url: where from.
        place: where to; folders are made.
        sha256: 64 hexadecimal digits.
        timeout: seconds without an answer, or without a byte, before giving up.

    Raises:
        AbsentError: no answer, a transfer that broke off, a wrong checksum, a folder that cannot be
            written to; it names the address and the place.
    """
    print(f"downloading {url} to {place}", file=sys.stderr)
    by_hand = f"get the file from there in another way and put it at {place}"
    digest, count = hashlib.sha256(), 0
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with replacing(place) as temporary:
            with urlopen(url, timeout=timeout) as answer, temporary.open("wb") as out:
                expected = int(answer.headers.get("Content-Length") or -1)
                while chunk := answer.read(CHUNK):
                    out.write(chunk)
                    digest.update(chunk)
                    count += len(chunk)
            if expected not in (-1, count):
                raise OSError(f"the connection broke off after {count} of {expected} bytes")
            if digest.hexdigest() != sha256:
                raise AbsentError(
                    f"{url} is not the file that was published: expected SHA-256 {sha256}, got "
                    f"{digest.hexdigest()} of {count} bytes; nothing was kept; {by_hand}"
                )
    except (OSError, HTTPException) as error:  # among them URLError and a timeout
        if isinstance(error, HTTPError):
            error.close()  # it holds the connection
        reason = getattr(error, "reason", None) or error
        host = urlsplit(url).netloc or "the address"
        raise AbsentError(
            f"{place} is not there, and {url} could not be fetched ({host}: {reason}); {by_hand}"
        ) from None
