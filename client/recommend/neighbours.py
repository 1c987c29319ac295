"""Approximate search for catalogues too large to look at every item of, by an index of faiss.

Maximum inner product over rows with one more number, an item's log popularity on the scale of the
others. The index is an inverted file of rows in eight bits: a query looks into the cells whose
centres fit best, as many as reach the recall asked for on made-up users.
"""

import importlib.util
import logging
from functools import cache

import numpy as np
import numpy.typing as npt

from shared.encoder import Vectors
from shared.statistics import Floats, Ints

Mask = npt.NDArray[np.bool_]

LOGGER = logging.getLogger(__name__)

ROWS_PER_BLOCK = 65536
# Times the root of the items; training and filling take time in proportion.
CELLS_PER_ROOT = 2
TRAINING_ROWS_PER_CELL = 40
# The made-up users by whom the number of cells is chosen, and what their histories hold.
USERS, HISTORY, BEST = 64, 5, 10
# What is asked for above the best: rows in eight bits come in a slightly wrong order.
SPARE = 100


class Neighbours:
    """An approximate index over one catalogue; made once per delivery, safe in several threads.

    Args:
        vectors: ``[items, dim] float32``.
        log_popularity: ``[items] float64``.
        least_recall: of the best ten of made-up users, in (0, 1].

    Attributes:
        cells: how many are looked into, of how many.
        recall: measured with that.
    """

    def __init__(self, vectors: Vectors, log_popularity: Floats, least_recall: float) -> None:
        import faiss

        items, dim = vectors.shape
        spread = float(log_popularity.std())
        # As wide as one of the vectors' own numbers.
        self._unit = 1.0 / (np.sqrt(dim) * spread) if spread > 0.0 else 1.0
        all_cells = max(1, int(CELLS_PER_ROOT * np.sqrt(items)))
        self._centres = faiss.IndexFlatIP(dim + 1)
        self._index = faiss.IndexIVFScalarQuantizer(
            self._centres,
            dim + 1,
            all_cells,
            faiss.ScalarQuantizer.QT_8bit,
            faiss.METRIC_INNER_PRODUCT,
        )
        generator = np.random.default_rng(0)
        wanted = min(items, TRAINING_ROWS_PER_CELL * all_cells)
        some = np.sort(generator.choice(items, wanted, replace=False))
        self._index.cp.min_points_per_centroid = 1
        self._index.train(self._rows(vectors[some], log_popularity[some]))
        for start in range(0, items, ROWS_PER_BLOCK):
            part = slice(start, start + ROWS_PER_BLOCK)
            self._index.add(self._rows(vectors[part], log_popularity[part]))
        self._all_cells = all_cells
        # One row of eight bits a number, and its place.
        self.size_bytes = items * (dim + 1 + 8) + all_cells * (dim + 1) * 4
        cells, self.recall = self._calibrated(vectors, log_popularity, least_recall, generator)
        self.cells = cells, all_cells

    def best(
        self, direction: Vectors, prior: float, count: int, open_items: int, mask: Mask | None
    ) -> Ints:
        """Places of items that are likely the best by popularity and vectors, in no order.

        Args:
            direction: ``[dim] float32``.
            prior: weight of log popularity.
            count: at least so many, where there are; some more come out.
            open_items: how many may come out.
            mask: ``[items]``, which; None for all.
        """
        query = np.append(direction, np.float32(prior / self._unit)).astype(np.float32)
        bits = None if mask is None else np.packbits(mask, bitorder="little")
        # Of few items that may come out, each cell holds few.
        cells = int(np.ceil(self.cells[0] * len(self) / max(1, open_items)))
        wanted = min(2 * count + SPARE, open_items)
        while True:
            cells = min(cells, self._all_cells)
            found = self._search(query[None], wanted, cells, bits)[0]
            found = found[found >= 0]
            if len(found) >= min(count, open_items) or cells == self._all_cells:
                return np.asarray(found, dtype=np.int64)
            cells *= 2

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def _search(
        self, queries: Vectors, count: int, cells: int, bits: npt.NDArray[np.uint8] | None
    ) -> Ints:
        import faiss

        parameters = faiss.SearchParametersIVF()
        parameters.nprobe = cells
        if bits is not None:
            selector = faiss.IDSelectorBitmap(len(bits), faiss.swig_ptr(bits))
            parameters.sel = selector
        found = self._index.search(queries, count, params=parameters)[1]
        return np.asarray(found, dtype=np.int64)

    def _rows(self, vectors: Vectors, log_popularity: Floats) -> Vectors:
        last = (log_popularity * self._unit).astype(np.float32)
        return np.concatenate([vectors, last[:, None]], axis=1)

    def _calibrated(
        self,
        vectors: Vectors,
        log_popularity: Floats,
        least_recall: float,
        generator: np.random.Generator,
    ) -> tuple[int, float]:
        """The fewest cells, in powers of two, that reach the recall; and what they reach."""
        directions = self._made_up(vectors, generator)
        queries = np.concatenate(
            [directions, np.full((len(directions), 1), 1.0 / self._unit, np.float32)], axis=1
        )
        best = min(BEST, len(vectors))
        exact = _exact(vectors, log_popularity, directions, best)
        cells = 1
        while True:
            cells = min(cells, self._all_cells)
            found = self._search(queries, min(2 * best + SPARE, len(vectors)), cells, None)
            hits = [np.isin(wanted, got).mean() for wanted, got in zip(exact, found, strict=True)]
            if np.mean(hits) >= least_recall or cells == self._all_cells:
                return cells, float(np.mean(hits))
            cells *= 2

    def _made_up(self, vectors: Vectors, generator: np.random.Generator) -> Vectors:
        """Directions of users who had a few items, as wide over the catalogue as log popularity."""
        histories = generator.integers(len(vectors), size=(USERS, HISTORY))
        directions = vectors[histories].sum(axis=1)
        sample = vectors[generator.integers(len(vectors), size=10_000)]
        deviation = (sample @ directions.T).std(axis=0)
        return np.asarray(directions / np.maximum(deviation, 1e-12)[:, None], dtype=np.float32)


def _exact(vectors: Vectors, log_popularity: Floats, directions: Vectors, best: int) -> Ints:
    places: list[Ints] = []
    scores: list[Floats] = []
    for start in range(0, len(vectors), ROWS_PER_BLOCK):
        part = slice(start, start + ROWS_PER_BLOCK)
        block = directions @ vectors[part].T + log_popularity[part]
        kept = np.argpartition(-block, min(best, block.shape[1]) - 1, axis=1)[:, :best]
        places.append(kept + start)
        scores.append(np.take_along_axis(block, kept, axis=1))
    order = np.argsort(-np.concatenate(scores, axis=1), axis=1)[:, :best]
    return np.take_along_axis(np.concatenate(places, axis=1), order, axis=1)


@cache
def approximate_search_is_there() -> bool:
    """Whether faiss is installed; says once, in the log, what it means where it is not."""
    if importlib.util.find_spec("faiss") is not None:
        return True
    LOGGER.warning(
        "faiss is not installed, so every item of the catalogue is looked at for every list, which "
        "is exact and slow; pip install 'tacit[ann]' brings it"
    )
    return False
