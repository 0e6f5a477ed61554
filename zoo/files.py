"""JSON and safetensors files: written whole or not at all, read without executing anything."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import save_file
from torch import Tensor

FORMAT = 1


class RunError(ValueError):
    """A folder that is no run, or one that is damaged or from a newer version."""


def read_json(path: Path) -> Any:
    """The content of a JSON file."""
    try:
        return json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RunError(f"{path} cannot be read: {error}") from None


def write_json(path: Path, content: Any) -> None:
    """Writes JSON, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")


def read_tensors(path: Path, start: str = "") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors of a safetensors file whose names begin with ``start``, and its metadata."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            keys = [key for key in file.keys() if key.startswith(start)]  # noqa: SIM118
            tensors = {key: file.get_tensor(key) for key in keys}
            meta = json.loads((file.metadata() or {}).get("zoo", "null"))
    except FileNotFoundError:
        raise RunError(
            f"{path} is missing: the run was ended before its first checkpoint"
        ) from None
    except (OSError, safetensors.SafetensorError, json.JSONDecodeError) as error:
        raise RunError(f"{path} is damaged or no safetensors file: {error}") from None
    if not isinstance(meta, dict) or meta.get("format", FORMAT + 1) > FORMAT:
        raise RunError(f"{path} was not written by this version of the zoo")
    return tensors, meta


def write_tensors(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Writes a safetensors file, whole or not at all."""
    flat = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    with replacing(path) as temporary:
        save_file(flat, temporary, metadata={"zoo": json.dumps(meta)})


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its place when the block has written it."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    umask = os.umask(0)
    os.umask(umask)
    try:
        yield temporary
        temporary.chmod(0o666 & ~umask)  # as open() would have made it
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
