"""refuse_worse(): a release that is worse than the one it was grown from is not pushed unless that is meant."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import torch

from hub_client import errors
from hub_client.checks.verify import replayed_differences
from hub_client.hub.delta import Whole
from hub_client.hub.lineage import Origins
from hub_client.manifest.calibration import Metric
from hub_client.manifest.measures import MARGIN, measure
from hub_client.manifest.provenance import Parent
from hub_client.manifest.v1 import Manifest
from hub_client.models.model import Model
from hub_client.release import folder as release_folder
from hub_client.release.folder import Release
from hub_client.store.network.remote import RemoteStore

_log = logging.getLogger(__name__)


def refuse_worse(release: Release, origins: Origins, *, what: str) -> None:
    """Refuse a release that does not do what its parent does, or whose figures are lower than its parent's.

    Surgery leaves the reference where it was, so that what it grew has to reproduce the parent's test vectors; of
    other children only figures are compared: those of one name, split and data set. The parent is looked for in the
    hubs at hand, and its weights are read; where it is not there, a warning states it. A release without a parent
    costs nothing.

    Parameters
    ----------
    release
        What shall be pushed, read and checked.
    origins
        Where its parent is looked for.
    what
        What it is called in messages.

    Raises
    ------
    InvalidInput
        If it is worse; every figure is stated beside the parent's.
    """
    parent = release.manifest.lineage.parent if release.manifest.lineage else None
    if parent is None:
        return
    try:
        problems = _problems(release, parent, origins)
    except (errors.NotFound, errors.TransportError, errors.ManifestError, errors.IntegrityError) as error:
        _log.warning("%s is not compared with %s, which it was made from: %s", what, parent.name, error)
        return
    if problems:
        message = (
            f"{what} is not released: it is worse than {parent.name} (sha256:{parent.digest[:12]}), which it was made "
            "from. If that is meant, push it with worse_than_parent=True (--worse-than-parent).",
            *problems,
        )
        raise errors.InvalidInput("\n  ".join(message), facts={"problems": problems, "parent": parent.digest})


def _problems(release: Release, parent: Parent, origins: Origins) -> list[str]:
    local = Origins(lambda: sorted(origins.stores, key=lambda store: isinstance(store, RemoteStore)))
    found = local.find(parent)  # which asks no hub on the network for what a folder has
    with Whole(found.source, origins).opened(found.ref) as folder:
        before = release_folder.read(folder)
    grown = release.manifest.lineage is not None and release.manifest.lineage.relation == "surgery"
    lost = _lost_vectors(before, release) if grown else []
    return [*lost, *worse_metrics(before.manifest, release.manifest)]


# --- test vectors ----------------------------------------------------------------------------------------------------


def _lost_vectors(before: Release, release: Release) -> list[str]:
    """Return in what a release differs from its parent's test vectors; those it states itself were replayed already."""
    if before.manifest.test_vectors is None or _states(before, release):
        return []
    try:
        return replayed_differences(Model.of(release), before.manifest, before.tensors)
    except errors.HubClientError as error:  # whatever keeps it from reading the parent's cells
        return [f"it cannot replay the parent's test vectors: {error}"]


def _states(before: Release, release: Release) -> bool:
    """Return whether a release has all of its parent's test vectors, with the same values."""
    theirs, ours = before.manifest.test_vectors, release.manifest.test_vectors
    if theirs is None or ours is None or theirs.tensors.keys() - ours.tensors.keys():
        return False
    if (ours.rtol, ours.atol) != (theirs.rtol, theirs.atol):
        return False
    pairs = ((before.tensors[name], release.tensors[ours.tensors[part]]) for part, name in theirs.tensors.items())
    return all(one.shape == other.shape and torch.equal(one, other) for one, other in pairs)


# --- metrics ---------------------------------------------------------------------------------------------------------


def worse_metrics(before: Manifest, after: Manifest) -> list[str]:
    """Return each figure that is worse than the parent's by more than the margin, beside the parent's.

    Compared are figures of one name and split, on data of one fingerprint, of which archzoo knows which way is better.
    """
    pairs = list(_pairs(before, after))
    if after.metrics and before.metrics and not pairs:
        _log.warning("none of %s's figures can be compared with its parent's: they are of other data", after.name)
    return [
        f"{new.name} ({new.split}) is {new.value:.4g} and was {old.value:.4g}"
        for old, new in pairs
        if _loss(old, new) > MARGIN
    ]


def _pairs(before: Manifest, after: Manifest) -> Iterator[tuple[Metric, Metric]]:
    known = {_identity(metric): metric for metric in before.metrics if metric.dataset_fingerprint}
    for metric in after.metrics:
        old = known.get(_identity(metric))
        if old is not None and measure(metric.name) is not None:
            yield old, metric


def _identity(metric: Metric) -> tuple[str, str, str | None]:
    return metric.name, metric.split, metric.dataset_fingerprint


def _loss(old: Metric, new: Metric) -> float:
    """Return how much worse a figure became."""
    known = measure(new.name)
    lower = known is not None and known.better == "lower"
    return new.value - old.value if lower else old.value - new.value
