"""replay(): make a mapping again from its receipt, and report what is the same and what is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hub_client import errors
from hub_client.data.align import align
from hub_client.data.open_query import Query
from hub_client.data.threads import same_threads
from hub_client.hub.client import Hub
from hub_client.manifest.receipts import Difference, Receipt, differences
from hub_client.mapping.map_query import map_query
from hub_client.mapping.receipt import query_record
from hub_client.models.model import Model


@dataclass(frozen=True)
class Replay:
    """What came of a replay.

    Attributes
    ----------
    receipt
        The new run's; None where the query is another one, so that there was nothing to run.
    differences
        Every field in which the runs differ, what went in first.
    largest
        The largest difference of a latent coordinate over the receipt's sample of cells; None where nothing was run.
    uncertainty
        The same of an uncertainty; None too where the receipt has none, as those of format 1.
    """

    receipt: Receipt | None
    differences: tuple[Difference, ...]
    largest: float | None = None
    uncertainty: float | None = None

    @property
    def same_labels(self) -> bool:
        """Whether every cell got the same labels."""
        return self.receipt is not None and not any(d.what.startswith("result.labels") for d in self.differences)

    @property
    def same(self) -> bool:
        """Whether everything that the receipt records of the results is the same, bit for bit.

        That is latent, labels, their uncertainty and probabilities, scores and imputed proteins; in receipts of format
        1 latent and labels.
        """
        return self.receipt is not None and not any(d.what.startswith("result.") for d in self.differences)


def replay(
    receipt: Receipt,
    query: Query,
    *,
    hub: Hub | str | None = None,
    model: Model | None = None,
    seed: int | None = None,
    threads: int | None = None,
    progress: bool = True,
) -> Replay:
    """Make a mapping again and compare it with its receipt.

    Parameters
    ----------
    receipt
        From ``mapping.receipt``, or :func:`hub_client.manifest.receipts.read_receipt`.
    query
        The cells, as :func:`hub_client.map_query` takes them.
    hub
        Where the reference is pulled from, by its digest; None as for :func:`hub_client.pull`.
    model
        The reference itself, where it is in no hub.
    seed, threads
        Others than the receipt's seed and this process's number of threads, to see what they change.
    progress
        Whether to show training's progress.

    Raises
    ------
    NotFound
        If no hub at hand has the reference.
    InvalidInput
        If ``model`` is not the receipt's reference, or ``threads`` is no number of threads.

    Examples
    --------
    >>> replay(read_receipt(data, source="receipt.json"), "query.h5ad").same  # doctest: +SKIP
    """
    if threads is not None and threads < 1:
        raise errors.InvalidInput(f"threads is {threads}; it is 1 or more.", facts={"threads": threads})
    reference = _reference(receipt, hub, model)
    found = query_record(align(query, reference, **receipt.asked.alignment), reference)
    if changed := differences(receipt, receipt.model_copy(update={"query": found})):
        return Replay(None, changed)
    kept = receipt.asked.plan and receipt.asked.plan.only(reference.manifest.architecture.kind)
    settings = dict(receipt.asked) | {"plan": kept} | ({} if seed is None else {"seed": seed})
    with same_threads():
        torch.set_num_threads(threads or torch.get_num_threads())
        trained = receipt.asked.plan is not None
        new = map_query(query, reference, **settings, train=trained, progress=progress).receipt
    largest = _apart(receipt.result.sample, new.result.sample)
    return Replay(new, differences(receipt, new), largest, _doubt(receipt, new))


def _doubt(before: Receipt, after: Receipt) -> float | None:
    """Return the largest difference of an uncertainty over the sample of cells; None where either has none."""
    old, new = before.result.parts, after.result.parts
    names = [name for name in old if name in new and name.startswith("uncertainty.")]
    return max((_apart(old[name].sample, new[name].sample) for name in names), default=None)


def _apart(before: Sequence[Any], after: Sequence[Any]) -> float:
    """Return the largest difference of two samples; infinite where they are not of the same cells and dimensions."""
    old, new = np.array(before), np.array(after)
    return float(np.abs(old - new).max(initial=0)) if old.shape == new.shape else float("inf")


def _reference(receipt: Receipt, hub: Hub | str | None, model: Model | None) -> Model:
    wanted = receipt.reference
    if model is None:
        place = hub if isinstance(hub, Hub) else Hub(hub)
        return place.pull(f"{wanted.name}@sha256:{wanted.digest}")
    if model.manifest.digest != wanted.digest:
        raise errors.InvalidInput(
            f"the receipt is of {wanted.name} with digest {wanted.digest}, and the model has {model.manifest.digest}. "
            "Pull it by that digest.",
            facts={"model": model.manifest.digest},
        )
    return model
