"""Named sets of images, from the folder for data or from where they are published."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from zoo._readers import Raw
from zoo.downloads import TIMEOUT, AbsentError, Published, obtain

AMAT = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/"
PUBLISHED = {
    "train": Published(
        "binarized_mnist/binarized_mnist_train.amat",
        AMAT + "binarized_mnist_train.amat",
        "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d",
    ),
    "valid": Published(
        "binarized_mnist/binarized_mnist_valid.amat",
        AMAT + "binarized_mnist_valid.amat",
        "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2",
    ),
    "test": Published(
        "binarized_mnist/binarized_mnist_test.amat",
        AMAT + "binarized_mnist_test.amat",
        "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c",
    ),
    "silhouettes": Published(
        "caltech101_silhouettes/caltech101_silhouettes_28.mat",
        "https://people.cs.umass.edu/~marlin/data/caltech101_silhouettes_28.mat",
        "862d0a4b828256d54ad5de7c5066c18c72f355cac5b7cde4c1c3be7c000d180b",
    ),
    "frey": Published(
        "faces/frey_rawface.mat",
        "https://cs.nyu.edu/~roweis/data/frey_rawface.mat",
        "265a83a23adb081755cd3de375509828e690324d1d60f076b8ecebc840d59c64",
    ),
}
DIGITS = [str(digit) for digit in range(10)]


def read_images(name: str, folder: Path) -> Raw:
    """The images of a name in `IMAGES`.

    Raises: ValueError for files that are not there and cannot be fetched, or are damaged.
    """
    try:
        return IMAGES[name](folder)
    except AbsentError:
        raise
    except Exception as error:  # a damaged file can raise anything
        raise ValueError(
            f"{name}: a file of it in {folder} is damaged ({type(error).__name__}: {error}); "
            "delete it and get it again"
        ) from error


def _mnist(folder: Path) -> Raw:
    return _torchvision("MNIST", folder)


def _fashion_mnist(folder: Path) -> Raw:
    return _torchvision("FashionMNIST", folder)


def _torchvision(name: str, folder: Path) -> Raw:
    from torchvision import datasets

    make: Any = getattr(datasets, name)

    def both(download: bool) -> list[Any]:
        return [make(str(folder), train=train, download=download) for train in (True, False)]

    try:
        train, test = both(download=False)
    except RuntimeError:  # torchvision's word for files that are not there
        mirrors = " and ".join(make.mirrors)
        place = folder / name / "raw"
        print(f"downloading {name} from {mirrors} to {place}", file=sys.stderr)
        try:
            with _timeout(TIMEOUT), contextlib.redirect_stdout(sys.stderr):
                train, test = both(download=True)
        except Exception as error:
            raise AbsentError(
                f"the files of {name} are not in {place}, and {mirrors} could not be reached "
                f"({_last_line(error)}); put the four idx files, extracted, in {place}, or set "
                "data_root or ZOO_DATA to a folder that has them"
            ) from None
    parts = [train, test]
    x = np.concatenate([np.asarray(part.data) for part in parts])  # (N, 28, 28)
    return Raw(
        {"x": x},
        labels=np.concatenate([np.asarray(part.targets) for part in parts]),
        class_names=[str(word) for word in train.classes] if "Fashion" in name else DIGITS,
        binarization="dynamic",
        parts=_ranges(train=len(train), test=len(test)),
    )


@contextlib.contextmanager
def _timeout(seconds: float):
    """Connections of the block that set no limit of their own give up after some seconds."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def _static_mnist(folder: Path) -> Raw:
    names = ("train", "valid", "test")
    path, labels = folder / "binarized_mnist" / "binarized_mnist.npz", None
    if path.is_file():
        with np.load(path, allow_pickle=False) as held:
            packed = [held[part] for part in names]  # eight pixels a byte
            labels = np.concatenate([held[f"{part}_label"] for part in names]).astype(np.int64)
    else:
        packed = [_amat(obtain(PUBLISHED[part], folder), 784) for part in names]
    everything = np.concatenate(packed)
    return Raw(
        {"x": np.unpackbits(everything, axis=1).view(bool).reshape(-1, 28, 28)},
        labels=labels,
        class_names=None if labels is None else DIGITS,
        binarization="static",
        parts=_ranges(**{part: len(rows) for part, rows in zip(names, packed, strict=True)}),
        record=_digest(everything),
    )


def _amat(path: Path, width: int) -> np.ndarray:
    """Rows of digits 0 and 1 with one space between them, packed: (N, width / 8) bytes."""
    text = np.frombuffer(path.read_bytes(), np.uint8).reshape(-1, 2 * width)
    return np.packbits(text[:, ::2] - ord("0"), axis=1)


def _omniglot28(folder: Path) -> Raw:
    path = folder / "omniglot28" / "omniglot28.npz"
    if not path.is_file():
        raise AbsentError(
            f"{path} is not there, and nobody publishes these images at this size: reduce the "
            "105×105 drawings of https://github.com/brendenlake/omniglot to 28×28 with bright ink, "
            "and save images (N, 28, 28) uint8, split (N,) (0 training, 1 test), alphabet (N,) and "
            "alphabet_names (50,) there; or set data_root or ZOO_DATA to a folder that has the file"
        )
    with np.load(path, allow_pickle=False) as held:
        x, split = held["images"], held["split"]
        return Raw(
            {"x": x},
            labels=held["alphabet"].astype(np.int64),
            class_names=[str(word) for word in held["alphabet_names"]],
            binarization="dynamic",
            parts={"train": np.flatnonzero(split == 0), "test": np.flatnonzero(split == 1)},
            record={
                **_digest(x),
                "note": "not the file chardata.mat of Burda et al. (2016): another reduction and "
                "another split of the same sizes, so figures published on that compare roughly",
            },
        )


def _caltech_silhouettes(folder: Path) -> Raw:
    from scipy.io import loadmat

    path = obtain(PUBLISHED["silhouettes"], folder)
    held = loadmat(str(path))
    x = 1 - held["X"].reshape(-1, 28, 28).transpose(0, 2, 1)  # the silhouette is 1
    return Raw(
        {"x": x.astype(bool)},
        labels=held["Y"].reshape(-1).astype(np.int64) - 1,
        class_names=[str(word[0]) for word in held["classnames"].reshape(-1)],
        binarization="static",
        record={
            **_digest(x),
            "note": "a split made here, not the published one of 4100, 2264 and 2307 images, so "
            "figures published on that do not carry over",
        },
    )


def _frey_faces(folder: Path) -> Raw:
    path = folder / "faces" / "frey_faces.npz"
    if path.is_file():
        with np.load(path, allow_pickle=False) as held:
            x = held["images"]
    else:
        from scipy.io import loadmat

        path = obtain(PUBLISHED["frey"], folder)
        x = loadmat(str(path))["ff"].T.reshape(-1, 28, 20)
    return Raw({"x": x}, record=_digest(x))


def _ranges(**sizes: int) -> dict[str, np.ndarray]:
    """Parts that follow one another: name -> row numbers."""
    ends = np.cumsum(list(sizes.values()))
    return {
        name: np.arange(end - size, end)
        for (name, size), end in zip(sizes.items(), ends, strict=True)
    }


def _digest(x: np.ndarray) -> dict[str, str]:
    """The checksum of the pixels, whatever file they came in."""
    return {"pixels_sha256": hashlib.sha256(np.ascontiguousarray(x).tobytes()).hexdigest()}


IMAGES: dict[str, Callable[[Path], Raw]] = {
    "mnist": _mnist,
    "fashion_mnist": _fashion_mnist,
    "static_mnist": _static_mnist,
    "omniglot28": _omniglot28,
    "caltech_silhouettes": _caltech_silhouettes,
    "frey_faces": _frey_faces,
}
