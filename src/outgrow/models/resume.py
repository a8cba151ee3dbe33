"""Finished rows of a long pass over many texts, kept in files that a killed run goes on from."""

import hashlib
import logging
import os
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

__all__ = ["SECONDS", "KeptRows"]

SECONDS = 60.0
"""Least time between two files; a kill loses at most this much work."""
_log = logging.getLogger(__name__)


class KeptRows:
    """Rows 0 to n of a matrix in files one after the other, each named by its first row and replaced as a whole.

    ``parts`` are all that the rows follow from; files of anything else are not read.
    """

    def __init__(self, folder: Path, *parts: object) -> None:
        digest = hashlib.sha256()
        for part in parts:
            digest.update(f"{part!r}\n".encode())
        self.folder, self.identity = folder, digest.hexdigest()
        self.kept = 0
        """Rows in files."""
        self.last = time.monotonic()

    def read(self, out: npt.NDArray[np.float32]) -> int:
        """Put the rows of all files into ``out`` (n, d); returns how many there are. What is damaged, or of something
        else, is computed anew; the log says so."""
        while (path := self._path(self.kept)).exists():
            try:
                with safe_open(path, "numpy") as file:
                    if (file.metadata() or {}).get("identity") != self.identity:
                        raise ValueError("it is of other rows")
                    rows = file.get_tensor("rows")
                out[self.kept : self.kept + len(rows)] = rows
            except (SafetensorError, OSError, ValueError) as error:
                _log.warning("rows from %d on are computed anew: %s cannot be used (%s)", self.kept, path, error)
                break
            self.kept += len(rows)
        return self.kept

    def write(self, out: npt.NDArray[np.float32], done: int) -> None:
        """Keep the rows up to ``done`` of ``out``, if it is time."""
        if time.monotonic() - self.last < SECONDS:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        beside = self.folder / f"rows.{os.getpid()}.tmp"
        save_file({"rows": out[self.kept : done].copy()}, beside, metadata={"identity": self.identity})
        beside.replace(self._path(self.kept))
        self.kept, self.last = done, time.monotonic()

    def _path(self, first: int) -> Path:
        return self.folder / f"rows-{first}.safetensors"
