"""Cells to minibatches: the rows of a CSR gathered at once, on the host or on a device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hub_client.data.cells import Cells
from hub_client.data.vocabulary import Vocabulary


class Nonzero(NamedTuple):
    """The counts of a minibatch that are not zero, in any order, each position once."""

    rows: Tensor
    """The cell of each count, int64 ``(counts,)``."""
    columns: Tensor
    """Its gene, int64 ``(counts,)``."""
    values: Tensor
    """The counts, ``(counts,)``."""


class Batch:
    """One minibatch.

    Not a dataclass: into those Lightning looks, and in mixed precision it would round the counts.

    Attributes
    ----------
    nonzero
        Cell, gene and value of every stored entry of the minibatch's counts.
    genes
        Number of genes.
    size_factor
        Counts per cell, ``(cells,)``.
    conditions
        Code of each condition key, ``(cells, conditions)``.
    combinations
        Code of the combination of conditions, ``(cells,)``.
    labels
        Code of each level's label, ``(cells, levels)``; -1 where a cell has none.
    index
        The cells' numbers in the data set, ``(cells,)``.
    expression
        The encoder's first-layer product of expression and weights when it was computed beforehand,
        ``(cells, hidden.0)``.
    covariates
        Code of each categorical covariate, ``(cells, covariates)``.
    continuous
        Continuous covariates, ``(cells, continuous)``.
    proteins
        Counts of proteins, ``(cells, proteins)``; no columns where cells have none.
    unmeasured
        The genes that the cells' data did not measure, ``(genes,)``; None where it measured all.
    depth
        Counts per cell in the genes that were measured, at least 1, ``(cells,)``.
    """

    def __init__(
        self,
        nonzero: Nonzero,
        *,
        genes: int,
        size_factor: Tensor,
        conditions: Tensor,
        combinations: Tensor,
        labels: Tensor,
        index: Tensor,
        covariates: Tensor,
        continuous: Tensor,
        proteins: Tensor,
        expression: Tensor | None = None,
        depth: Tensor | None = None,
        unmeasured: Tensor | None = None,
    ) -> None:
        self.nonzero = nonzero
        self.genes = genes
        self.size_factor = size_factor
        self.conditions = conditions
        self.combinations = combinations
        self.labels = labels
        self.index = index
        self.covariates = covariates
        self.continuous = continuous
        self.proteins = proteins
        self.expression = expression
        self.depth = size_factor if depth is None else depth
        self.unmeasured = unmeasured

    def __len__(self) -> int:
        return len(self.size_factor)

    @property
    def values(self) -> Tensor:
        """The stored counts, ``(nonzeros,)``."""
        return self.nonzero.values

    def dense(self, values: Tensor) -> Tensor:
        """Return ``values``, one per stored entry, as ``(cells, genes)`` with zeros elsewhere."""
        matrix = values.new_zeros(len(self) * self.genes)
        matrix.scatter_(0, self.nonzero.rows * self.genes + self.nonzero.columns, values)
        return matrix.view(len(self), self.genes)


class Batches:
    """Cells encoded for one model: whatever a minibatch needs, as tensors on one device.

    Parameters
    ----------
    cells
        Aligned cells.
    vocabulary
        The model's axes; unknown conditions are refused here, unknown labels count as unlabelled.
    device
        Where the tensors live. On a GPU the CSR is kept there whole when it takes less than half of the free memory,
        otherwise minibatches are sent as they are made.
    """

    def __init__(self, cells: Cells, vocabulary: Vocabulary, *, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        home = self.device if _fits(cells, self.device) else torch.device("cpu")
        conditions = vocabulary.condition_codes(cells.conditions, cells=len(cells))
        none = np.empty((len(cells), 0), np.float32)
        missing = cells.unmeasured(vocabulary.genes)
        per_cell = {
            "size_factor": np.asarray(cells.size_factor, dtype=np.float32),
            "conditions": conditions,
            "combinations": vocabulary.combination_codes(conditions),
            "labels": _label_codes(cells, vocabulary),
            "covariates": vocabulary.covariate_codes(cells.conditions, cells=len(cells)),
            "continuous": none if cells.continuous is None else cells.continuous,
            "proteins": none if cells.proteins is None else cells.proteins,
        }
        if cells.whole_depth:  # else it is the size factor
            per_cell["depth"] = _depths(cells, missing)
        self.genes = int(cells.x.shape[1])
        self.unmeasured = torch.from_numpy(missing).to(self.device) if missing.size else None
        self._start = torch.from_numpy(cells.x.indptr.astype(np.int64)).to(home)
        self._columns = torch.from_numpy(cells.x.indices).to(home)
        self._values = torch.from_numpy(cells.x.data).to(home)
        self._per_cell = {k: torch.from_numpy(np.ascontiguousarray(v)).to(home) for k, v in per_cell.items()}
        self.expression: Tensor | None = None

    def __len__(self) -> int:
        return len(self._per_cell["size_factor"])

    @property
    def labels(self) -> Tensor:
        """Label codes of all cells, ``(cells, levels)``; -1 where a cell has none."""
        return self._per_cell["labels"]

    @property
    def combinations(self) -> Tensor:
        """Combination codes of all cells, ``(cells,)``."""
        return self._per_cell["combinations"]

    def take(self, index: Tensor) -> Batch:
        """Return the cells at ``index``, ``(cells,)`` int64, as one minibatch."""
        index = index.to(self._start.device)
        # where each cell's stored counts begin in the CSR, and how many it has: (cells,)
        first = self._start.index_select(0, index)
        lengths = self._start.index_select(0, index + 1) - first
        # the minibatch's row of each stored count, and the count's place in the CSR: (counts,)
        rows = torch.repeat_interleave(lengths)
        offset = first - (torch.cumsum(lengths, 0) - lengths)
        entries = torch.arange(len(rows), device=rows.device) + offset.index_select(0, rows)
        columns, values = self._columns.index_select(0, entries).long(), self._values.index_select(0, entries)
        per_cell = {name: self._sent(part[index]) for name, part in self._per_cell.items()}
        index = self._sent(index)
        return Batch(
            Nonzero(*map(self._sent, (rows, columns, values))),
            genes=self.genes,
            index=index,
            expression=None if self.expression is None else self.expression[index],
            unmeasured=self.unmeasured,
            **per_cell,
        )

    def _sent(self, part: Tensor) -> Tensor:
        return part.to(self.device, non_blocking=True)

    def in_order(self, batch_size: int, *, index: Tensor | None = None) -> Iterator[Batch]:
        """Yield all cells (or those at ``index``) in order."""
        chosen = torch.arange(len(self)) if index is None else index
        for part in torch.split(chosen, batch_size):
            if len(part):
                yield self.take(part)

    def rows(self, compute: Callable[[Batch], Tensor], *, batch_size: int, index: Tensor | None = None) -> Tensor:
        """Return what ``compute`` returns for all cells (or those at ``index``), in order, ``(cells, ...)``.

        The result is filled in place: to keep the parts until the end would leave a small one behind every minibatch,
        where no later minibatch fits, and so cost a minibatch of memory for each.
        """
        chosen = torch.arange(len(self)) if index is None else index
        none = compute(self.take(chosen[:0]))
        found = none.new_empty((len(chosen), *none.shape[1:]))
        for number, batch in enumerate(self.in_order(batch_size, index=chosen)):
            found[number * batch_size :][: len(batch)] = compute(batch)
        return found


def _depths(cells: Cells, missing: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the counts of each cell in the genes that were measured, at least 1, ``(cells,)``."""
    measured = np.ones(cells.x.shape[1])
    measured[missing] = 0  # there may be means of the reference's
    found: NDArray[np.float32] = np.maximum(cells.x @ measured, 1).astype(np.float32)
    return found


def _label_codes(cells: Cells, vocabulary: Vocabulary) -> NDArray[np.int64]:
    unlabelled = np.full(len(cells), -1, dtype=np.int64)
    columns = [
        axis.codes(cells.labels[key], unknown=-1) if key in cells.labels else unlabelled
        for key, axis in vocabulary.labels.items()
    ]
    return np.stack(columns, axis=1) if columns else np.empty((len(cells), 0), dtype=np.int64)


def _fits(cells: Cells, device: torch.device) -> bool:
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    needed: Any = cells.x.data.nbytes + cells.x.indices.nbytes
    return bool(needed < free / 2)
