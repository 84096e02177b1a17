"""Architecture surgery: a new Model that knows the query's conditions, with the reference left where it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import Tensor

from hub_client import errors
from hub_client.data.cells import Cells, aligned
from hub_client.data.fingerprint import fingerprint
from hub_client.data.proteins import lacking, measured
from hub_client.manifest.provenance import DatasetRecord, Lineage, Parent
from hub_client.manifest.v1 import Manifest, Term
from hub_client.models.architectures import Start
from hub_client.models.model import Model
from hub_client.release import consent

QUERY = "query"
"""What a grown release calls the data that surgery added."""


@dataclass(frozen=True)
class Extensions:
    """Terms that surgery adds to an expiMap, behind those it has: programs of the query's own, and free ones.

    Their scores of reference cells exist as those of query cells do; all other columns of the latent stay where they
    were. (scArches takes their numbers as those of all extensions, not as those of the new ones.)

    Attributes
    ----------
    constrained
        Programs, such as :func:`hub_client.programs.as_terms` makes.
    unconstrained
        How many terms to add that may use every gene.
    soft
        Let the programs' terms use other genes too, under the plan's ``soft_mask_l1``.
    hsic, hsic_one_vs_all
        Keep unconstrained terms independent of the others in training, all at once or one by one, by the plan's
        ``hsic_weight``.
    retrain
        Also train the extension terms that the reference has: their columns of reference cells move then.
    """

    constrained: Sequence[Term] = ()
    unconstrained: int = 0
    soft: bool = False
    hsic: bool = False
    hsic_one_vs_all: bool = False
    retrain: bool = False


def surgery(
    reference: Model,
    cells: Cells,
    *,
    start: Start = "best",
    seed: int = 0,
    device: str = "auto",
    extensions: Extensions | None = None,
) -> Model:
    """Return a new model with room for the conditions (and labels) of ``cells`` that the reference does not know.

    The reference's weights are frozen in the new model and the reference itself is not touched: a reference cell's
    latent is bit-identical before surgery, after it, and after training (Lotfollahi 2022, doi
    10.1038/s41587-021-01001-7, except that scArches also moves the rows of old conditions).

    Parameters
    ----------
    reference
        A trained model.
    cells
        The query, from :func:`hub_client.align`.
    start
        How the rows of new conditions start: ``best`` (those of the reference condition that reconstructs the query
        best), the ``mean`` of the reference's, or ``random``. docs/label-transfer.md compares them.
    seed
        Of random rows, and of the cells that ``best`` tries.
    device
        Where ``best`` tries them: ``auto``, ``cpu`` or ``cuda``.
    extensions
        Terms to add to an expiMap; they train together with the rows of new conditions.

    Raises
    ------
    InvalidInput
        If ``start`` is none of these, or the cells are not aligned.
    VocabularyError
        If a condition is new and the manifest states that its key takes no new categories.
    Unsupported
        If terms are to be added to a model without any.
    ManifestError
        If a term's id or name is the reference's already, or its genes are not of the panel.

    Examples
    --------
    >>> model = hub_client.surgery(reference, cells)  # doctest: +SKIP
    """
    if start not in get_args(Start):
        raise errors.InvalidInput(
            f"start is {start!r}; it is one of {errors.names(get_args(Start))}.", facts={"start": start}
        )
    manifest = _grown(reference, aligned(cells), start)
    if extensions is not None:
        manifest = _extended(manifest, extensions)
    manifest = _with_holding_vectors(manifest, reference.manifest)
    with reference.on(device):
        network, copied = reference.network.grown(manifest, start=start, cells=cells, seed=seed)
    if manifest.lineage and copied:
        manifest = manifest.model_copy(update={"lineage": manifest.lineage.model_copy(update={"copied": copied})})
    return Model(manifest, network, reference.ref, extras=_extras(reference, manifest), atlas=reference.atlas)


def _extras(old: Model, manifest: Manifest) -> dict[str, Tensor]:
    """Return what is not the network's, without the test vectors that the manifest no longer names."""
    gone = old.manifest.vector_tensors - manifest.vector_tensors
    return {name: tensor for name, tensor in old.extras.items() if name not in gone}


def _with_holding_vectors(grown: Manifest, old: Manifest) -> Manifest:
    """Return a grown manifest without the test vectors that new labels change: how sure the model is of the others."""
    before = {level.key: level.categories for level in old.labels}
    changed = [level.key for level in grown.labels if level.categories != before[level.key]]
    ended = {f"{part}.{level}" for part in ("uncertainty", "probabilities", "distances") for level in changed}
    if grown.test_vectors is None or not ended & grown.test_vectors.tensors.keys():
        return grown
    kept = {part: name for part, name in grown.test_vectors.tensors.items() if part not in ended}
    gone = grown.vector_tensors - set(kept.values())
    return grown.changed(
        test_vectors=grown.test_vectors.model_copy(update={"tensors": kept}),
        tensors=tuple(spec for spec in grown.tensors if spec.name not in gone),
    )


def _extended(grown: Manifest, extensions: Extensions) -> Manifest:
    """Return a grown manifest with new terms; test vectors know no score of these and are left out."""
    constrained, unconstrained = _new_terms(grown, extensions)
    config = grown.architecture.extended(
        constrained=len(constrained),
        unconstrained=len(unconstrained),
        soft=extensions.soft,
        hsic=extensions.hsic,
        hsic_one_vs_all=extensions.hsic_one_vs_all,
    )
    lineage = grown.lineage and grown.lineage.model_copy(update={"retrained_extensions": extensions.retrain})
    return grown.changed(
        architecture=config,
        terms=(*grown.terms, *constrained, *unconstrained),
        lineage=lineage,
        test_vectors=None,
        tensors=tuple(spec for spec in grown.tensors if spec.name not in grown.vector_tensors),
    )


def _new_terms(grown: Manifest, extensions: Extensions) -> tuple[list[Term], list[Term]]:
    if extensions.unconstrained < 0:
        raise errors.InvalidInput(
            f"unconstrained is {extensions.unconstrained}; it is how many terms to add, 0 or more.",
            facts={"unconstrained": extensions.unconstrained},
        )
    known = sum(term.kind == "unconstrained" for term in grown.terms)
    names = [f"unconstrained_{known + number}" for number in range(extensions.unconstrained)]
    new: dict[str, Any] = {"kind": "constrained", "active": True, "direction": 1, "added_in": grown.version}
    constrained = [term.model_copy(update=new) for term in extensions.constrained]
    free = [Term(id=name, name=name, kind="unconstrained", added_in=grown.version) for name in names]
    return constrained, free


def _grown(reference: Model, cells: Cells, start: Start) -> Manifest:
    """Return the reference's manifest with room for the cells' names."""
    old = reference.manifest
    found: dict[str, tuple[str, ...]] = {}
    if old.proteins is not None and old.conditions:
        batches = cells.conditions[old.conditions[0].key]
        found = lacking(measured(cells.proteins, batches), old.proteins.panel)
    lineage = Lineage(parent=_parent(reference), relation="surgery", new_rows=start)
    datasets = _datasets(reference, cells)
    grown = old.grown(cells.conditions, labels=cells.labels, measured=found, lineage=lineage, datasets=datasets)
    columns: dict[str, str] = cells.report.settings.get("conditions", {})
    return consent.with_columns(grown, columns, before=old)


def _parent(reference: Model) -> Parent | None:
    """Return the release that a reference is, or was before it was changed."""
    ref, manifest = reference.ref, reference.manifest
    if ref is not None:
        return Parent(name=ref.repo, version=ref.version, commit=ref.commit, digest=ref.digest)
    return Parent(name=manifest.name, version=manifest.version, digest=manifest.digest) if manifest.files else None


def _datasets(reference: Model, cells: Cells) -> tuple[DatasetRecord, ...]:
    """Return the record of the query, behind those of the reference that no release states.

    What the parent states is found by walking to it. The query is recognised by its aligned values, as in receipts, and
    has no name: a file's may give somebody away.
    """
    old, ref = reference.manifest, reference.ref
    released = old.as_read and bool(old.files) and (ref is None or ref.digest == old.digest)
    before = () if released else old.training.datasets
    if not len(cells):
        return before
    known = fingerprint(cells.x, old.genes.names)
    query = DatasetRecord(name=QUERY, cells=len(cells), fingerprint=known)
    return (*(data for data in before if data.fingerprint != known), query)


def add_label(model: Model, level: str, *, label: str, clusters: Sequence[int], cells: Cells) -> Model:
    """Return a model that knows one label more: unlabelled prototypes that somebody gave a name.

    Parameters
    ----------
    model
        A model with unlabelled prototypes.
    level
        The label level that gets the label.
    label
        Its name.
    clusters
        Numbers of the unlabelled prototypes whose mean becomes the label's prototype.
    cells
        The cells its covariance is measured on: those it is the nearest prototype of.

    Raises
    ------
    VocabularyError
        If there is no such level or cluster, or the label is known already.
    Unsupported
        If the architecture has no prototypes.
    """
    known = model.vocabulary.labels
    if level not in known or label in known[level]:
        raise errors.VocabularyError(
            f"{label!r} cannot be added to level {level!r}: the model's levels are {errors.names(known) or 'none'}, "
            "and a label can be added to one of them once.",
            field=level,
            unknown=[label],
            known=known[level].names if level in known else known,
        )
    old, added = model.manifest, {level: [label]}
    levels = tuple(lv.grown(added.get(lv.key, ()), version=old.version) for lv in old.labels)
    manifest = _with_holding_vectors(old.changed(labels=levels), old)
    network = model.network.labelled(manifest, level=level, clusters=clusters, cells=cells)
    return Model(manifest, network, model.ref, extras=_extras(model, manifest), atlas=model.atlas)


def retraining(model: Model, *, parts: Literal["all", "expression"]) -> Model:
    """Return a grown model whose old weights may move too: this gives up the promise that reference latents stay.

    Parameters
    ----------
    model
        From :func:`surgery`.
    parts
        ``all`` weights, or besides the condition rows only the encoder's first ``expression`` weights.
    """
    before = model.manifest.lineage or Lineage(relation="retrain")
    lineage = before.model_copy(update={"relation": "retrain", "new_rows": None, "copied": {}})
    manifest = model.manifest.model_copy(update={"lineage": lineage})
    network = type(model.network).blank(manifest)
    network.load(model.network.tensors())
    network.restrict(parts)
    return Model(manifest, network, model.ref, extras=model.extras, atlas=model.atlas)
