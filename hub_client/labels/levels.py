"""coarser(): probabilities of a coarser level's labels, as sums of those of a finer level's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd


def coarser(
    probabilities: pd.DataFrame, parents: Mapping[str, str], *, order: Sequence[str] | None = None
) -> pd.DataFrame:
    """Return each coarser label's probability: the sum of its children's, ``(cells, coarser labels)``.

    A doubt between siblings is none about their parent: a cell that is CD4 T or CD8 T at even odds is a T cell.

    Parameters
    ----------
    probabilities
        Of the finer level's labels, ``(cells, labels)``; rows sum to 1, and so do those of the result.
    parents
        Label of the finer level to its label of the coarser one. A label without a parent, as a query can bring one,
        stands for itself.
    order
        The coarser level's labels; the result has these columns first. None takes them as they come.

    Examples
    --------
    >>> fine = pd.DataFrame({"CD4 T": [0.5], "CD8 T": [0.4], "B": [0.1]})
    >>> coarser(fine, {"CD4 T": "T", "CD8 T": "T", "B": "B"}).round(1).to_dict("list")
    {'T': [0.9], 'B': [0.1]}
    """
    above = [parents.get(str(label), str(label)) for label in probabilities.columns]
    columns = list(dict.fromkeys([*(order or ()), *above]))
    member = np.array([[column == label for column in columns] for label in above], dtype=np.float64)
    summed = probabilities.to_numpy(dtype=np.float64) @ member.reshape(len(above), len(columns))
    return pd.DataFrame(summed, index=probabilities.index, columns=columns)
