"""How far products of float32 vectors may be off, at most: what makes a quick search exact."""

import numpy as np
import numpy.typing as npt

from shared.encoder import Vectors

Floats = npt.NDArray[np.float64]

# Unit roundoff of float32.
UNIT = 2.0**-24
# More than all the float32 roundings on the way to a rough score, and of the score itself.
ROUNDINGS = 64


def longest_row(vectors: Vectors) -> float:
    """The greatest norm of a row, not rounded down."""
    squares = np.einsum("id,id->i", vectors, vectors, dtype=np.float64)
    return float(np.sqrt(squares.max(initial=0.0))) * (1.0 + 1e-9)


def product_bounds(directions: Vectors, longest: float) -> Floats:
    """How far float32 products of directions with rows up to ``longest`` long may be off.

    In whatever order a product of ``n`` terms is summed, it is at most ``n u / (1 - n u)`` times
    ``|x| |d|`` off (Higham, Accuracy and Stability, equation 3.5), with ``u = 2 ** -24``.

    Args:
        directions: ``[n, dim] float32``.
        longest: norm.

    Returns:
        ``[n] float64``.
    """
    terms = directions.shape[1] * UNIT
    norms = np.linalg.norm(directions.astype(np.float64), axis=1)
    return np.asarray(terms / (1.0 - terms) * longest * norms)
