"""Rows of a cache by their keys."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hf_distill.errors import CacheMismatch
from hf_distill.teachers.cache.folder import CacheFolder, Facts
from hf_distill.teachers.cache.keys import KEY
from hf_distill.teachers.cache.pieces import Pieces
from hf_distill.teachers.cache.shards import Shard, carried
from hf_distill.teachers.cache.signals import layout_of


class CacheReader:
    """Finds rows in the shards of a cache, which are mapped into memory: processes that read share the pages.

    It takes 28 bytes of memory a row for the index, and keeps no file open. Worker processes that are started anew map
    the files themselves. `dtypes` are the types that the bits of each part stand for.

    Raises: `CacheMismatch` for shards that are missing, cut off or damaged, or cannot be read.
    """

    def __init__(self, folder: CacheFolder, facts: Facts) -> None:
        self.folder, self.facts = folder, facts
        self._open()

    def _open(self) -> None:
        self.shards: list[Shard] = self.folder.shards(self.facts)
        keys = [shard.keys.reshape(-1).view(KEY) for shard in self.shards]
        where = np.repeat(np.arange(len(keys), dtype=np.int32), [len(each) for each in keys])
        row = np.concatenate([np.empty(0, np.int64), *(np.arange(len(each)) for each in keys)])
        together = np.concatenate([np.empty(0, KEY), *keys])
        order = np.argsort(together, kind="stable")
        self._keys, self._shard, self._row = together[order], where[order], row[order]
        layout = layout_of(self.folder, self.facts)
        for shard in self.shards:
            shard.check(layout)
        self.dtypes = {name: dtype for name, (_, dtype, _) in layout.items()}
        self._by_token = {name: by_token for name, (by_token, _, _) in layout.items()}

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "facts": self.facts}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, wanted: NDArray[np.bytes_]) -> NDArray[np.int64]:
        """The place of each key, -1 where the cache has no such row."""
        places = np.searchsorted(self._keys, wanted)
        inside = np.minimum(places, max(len(self._keys) - 1, 0))
        same = self._keys[inside] == wanted if len(self._keys) else np.zeros(len(wanted), bool)
        return np.where(same, inside, -1)

    def read(self, pieces: Pieces, num_rows: int) -> dict[str, Tensor]:
        """The bits of the pieces of a batch, by the names of their parts, `SIGNAL/PART`: `[num_rows, …]`, or, where
        they go by token, `[num_rows, width, …]`, zeros where no piece is; as they are `carried`.

        Raises: `CacheMismatch` for a piece that the cache has not, or that is damaged.
        """
        found: dict[str, NDArray[Any]] = {}
        for i, place in enumerate(self.find(np.frombuffer(b"".join(pieces.keys), KEY))):
            if place < 0:
                raise CacheMismatch(self._absent(int(pieces.rows[i])))
            row, start, length = pieces.rows[i], pieces.starts[i], pieces.lengths[i]
            shard = self.shards[self._shard[place]]
            for name, part in shard.row(int(self._row[place]), self._by_token).items():
                if name not in found:
                    shape = (pieces.width, *part.shape[1:]) if self._by_token[name] else part.shape[1:]
                    found[name] = np.zeros((num_rows, *shape), part.dtype)
                if self._by_token[name]:
                    found[name][row, start : start + length] = part
                else:
                    found[name][row] = part[0]
        return {name: carried(each) for name, each in found.items()}

    def _absent(self, row: int) -> str:
        return (
            f"{self.folder.path}: row {row} of a batch is not in the teacher's cache of {len(self)} rows: its text, "
            "length limit, tokens or segment ids are not those it was written for, or it is not complete. Where rows "
            "are made anew each time (masking, augmentation while collating), no cache can serve; else run "
            "scripts/cache_teacher.py on these rows, or give the teacher as well."
        )
