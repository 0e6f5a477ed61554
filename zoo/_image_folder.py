"""A folder of image files as one array."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from zoo._readers import Raw

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")


def read_folder(folder: Path) -> Raw:
    """The image files of a folder, in the order of their names: (N, H, W) bytes, or (N, 3, H, W)
    where any of them has colours (alpha is dropped). Where all lie in sub-folders, those are the
    classes.

    Raises: ValueError for no images, images of two sizes, or a file that cannot be read.
    """
    from PIL import Image

    files = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith(".")
    )
    if not files:
        raise ValueError(f"{folder} holds no images; expected files in {', '.join(SUFFIXES)}")
    images, digest = [], hashlib.sha256()
    for path in files:
        content = path.read_bytes()
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + content)
        try:
            with Image.open(path) as image:
                if image.mode.startswith(("I", "F")):
                    raise ValueError(f"pixels of mode {image.mode}, more than 8 bits")
                grey = image.mode in ("1", "L", "LA", "La")
                pixels = np.asarray(image.convert("L" if grey else "RGB"))
        except Exception as error:  # a damaged file can raise anything
            raise ValueError(f"{path} is not an image of 8 bits a channel: {error}") from None
        if images and pixels.shape[:2] != images[0].shape[:2]:
            sizes = ["×".join(map(str, p.shape[:2])) for p in (images[0], pixels)]
            raise ValueError(
                f"the images of {folder} are not all of one size: {files[0]} is {sizes[0]}, {path} "
                f"is {sizes[1]}; crop or scale them first"
            )
        images.append(pixels)
    if any(image.ndim == 3 for image in images):
        images = [
            np.broadcast_to(i if i.ndim == 3 else i[..., None], (*i.shape[:2], 3)) for i in images
        ]
        x = np.stack(images).transpose(0, 3, 1, 2)  # (N, 3, H, W)
    else:
        x = np.stack(images)  # (N, H, W)
    classes = [path.relative_to(folder).parts[0] for path in files]
    raw = Raw({"x": x}, record={"path": str(folder.resolve()), "sha256": digest.hexdigest()})
    if all(path.parent != folder for path in files):
        names, ids = np.unique(classes, return_inverse=True)
        raw.labels, raw.class_names = ids.astype(np.int64), names.tolist()
    return raw
