"""Delivered statistics: from the federation's arrays to an organisation's own view of them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from shared.catalogue import Catalogue
from shared.errors import FederationError
from shared.statistics import Statistics

# In the delivered adapter's folder: which run and round it is from.
DELIVERY = "delivery.json"


def statistics_from_arrays(arrays: Mapping[str, npt.NDArray[Any]], own: Catalogue) -> Statistics:
    """The federation's statistics in the order of an organisation's own catalogue.

    Items that the federation does not know get its floor: the log popularity of an item never had.

    Raises:
        FederationError: if an array is missing or does not fit the others.
    """
    try:
        keys, values = arrays["keys"], arrays["log_popularity"]
        top, transition, floor = arrays["top"], arrays["transition"], arrays["floor"]
    except KeyError as error:
        raise FederationError(f"statistics: array {error} is missing") from error
    if top.ndim != 1 or floor.ndim != 1:
        raise FederationError("statistics: top and floor must be lists")
    if keys.shape != values.shape or transition.shape != (len(top), len(top)) or len(floor) != 1:
        raise FederationError("statistics: shapes of the arrays do not fit each other")
    if not all(np.isfinite(part).all() for part in (values, transition, floor)):
        raise FederationError("statistics: values that are not finite")
    if top.dtype.kind not in "iu" or (len(top) and not 0 <= top.min() <= top.max() < len(keys)):
        raise FederationError("statistics: top names items that are not among the keys")
    known = dict(zip(keys.tolist(), values.tolist(), strict=True))
    hashes = own.key_hashes.tolist()
    places = {key: place for place, key in enumerate(hashes)}
    kept = [row for row, key in enumerate(keys[top].tolist()) if key in places]
    return Statistics(
        np.array([known.get(key, float(floor[0])) for key in hashes], dtype=np.float64),
        np.array([places[key] for key in keys[top][kept].tolist()], dtype=np.int64),
        transition[np.ix_(kept, kept)].astype(np.float64),
    )
