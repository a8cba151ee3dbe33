"""Files that keep the finished rows of a long pass over many texts, so that a killed run can continue."""

import hashlib
import logging
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from outgrow.runtime import beside

__all__ = ["SECONDS", "KeptRows"]

SECONDS = 60.0
"""Shortest time between two files, and so the most work that a kill can lose."""
_log = logging.getLogger(__name__)


class KeptRows:
    """The first rows of a matrix, in consecutive files named by their first row and written as a whole.

    ``parts`` is everything that the rows depend on. Files made from anything else are ignored.
    """

    def __init__(self, folder: Path, *parts: object) -> None:
        digest = hashlib.sha256()
        for part in parts:
            digest.update(f"{part!r}\n".encode())
        self.folder, self.identity = folder, digest.hexdigest()
        self.kept = 0
        """How many rows are in files."""
        self.last = time.monotonic()

    def read(self, out: npt.NDArray[np.float32]) -> int:
        """Read the rows of all files into ``out`` (n, d) and return how many there are. Damaged or foreign files are
        computed again, and the log says so."""
        while (path := self._path(self.kept)).exists():
            try:
                with safe_open(path, "numpy") as file:
                    if (file.metadata() or {}).get("identity") != self.identity:
                        raise ValueError("it holds other rows")
                    rows = file.get_tensor("rows")
                out[self.kept : self.kept + len(rows)] = rows
            except (SafetensorError, OSError, ValueError) as error:
                _log.warning("computing rows from %d on again: %s cannot be used (%s)", self.kept, path, error)
                break
            self.kept += len(rows)
        return self.kept

    def write(self, out: npt.NDArray[np.float32], done: int) -> None:
        """Write the rows of ``out`` up to ``done`` to a file if ``SECONDS`` have passed."""
        if time.monotonic() - self.last < SECONDS:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with beside(self._path(self.kept)) as unfinished:
            save_file({"rows": out[self.kept : done].copy()}, unfinished, metadata={"identity": self.identity})
        self.kept, self.last = done, time.monotonic()

    def _path(self, first: int) -> Path:
        return self.folder / f"rows-{first}.safetensors"
