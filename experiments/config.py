"""The configuration of a run as a file."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from experiments.spec import Spec
from zoo.files import replacing
from zoo.store import RunError

CONFIG = "config.yaml"


def write_config(folder: Path, spec: Spec) -> None:
    """Keeps a run's configuration in its folder, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    content = yaml.safe_dump(asdict(spec), sort_keys=False, allow_unicode=True)
    with replacing(folder / CONFIG) as temporary:
        temporary.write_text(content, "utf-8")


def read_config(path: str | Path) -> dict[str, Any]:
    """The settings in a ``config.yaml``, or in a run's folder.

    Raises:
        RunError: no such file, or one that is no mapping.
    """
    path = Path(path)
    path = path / CONFIG if path.is_dir() else path
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except FileNotFoundError:
        raise RunError(
            f"{path} does not exist; give a run that `zoo fit --out` has made, or its {CONFIG}"
        ) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RunError(f"{path} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise RunError(f"{path} is no configuration: expected a mapping of settings")
    return content
