"""Files that are whole or not there."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from jaxrl_llm.errors import StorageFailed
from jaxrl_llm.types import Json


def write_text(path: Path, text: str) -> None:
    """Raises StorageFailed where the disk gives up; what was there is there still."""
    draft = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, path)
    except OSError as error:
        raise StorageFailed(f"{path}: cannot be written: {error.strerror}") from error


def write_rows(path: Path, rows: Sequence[Json]) -> None:
    """JSON lines."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
