"""import_legacy(): make a Model of a folder that scArches or scvi-tools saved. Needs no trust in who saved it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hub_client import errors
from hub_client.data.genes import plain
from hub_client.interop import expimap, scarches_files, scpoli, scvi_files, scvi_hub, scvi_models, torch_files, trvae
from hub_client.interop import term_names as names_of_terms
from hub_client.interop.scarches_files import Saved
from hub_client.interop.scarches_vaes import Attributes
from hub_client.manifest.provenance import ImportedFrom, OntologyTerm
from hub_client.manifest.scalars import key_of
from hub_client.manifest.v1 import Manifest
from hub_client.models.architectures import architecture
from hub_client.models.architectures.scvi.tables import KINDS as SCVI_KINDS
from hub_client.models.model import Model

FORMAT, SCVI_FORMAT = "scarches", "scvi-tools"
TAXONOMY = "2026-05-13"
"""The release of the NCBI taxonomy that these names are from."""
ORGANISMS = {
    name: OntologyTerm(id=f"NCBITaxon:{number}", label=label, release=TAXONOMY)
    for name, number, label in [
        ("human", 9606, "Homo sapiens"),
        ("mouse", 10090, "Mus musculus"),
        ("rat", 10116, "Rattus norvegicus"),
        ("macaque", 9544, "Macaca mulatta"),
        ("crab-eating macaque", 9541, "Macaca fascicularis"),
        ("chimpanzee", 9598, "Pan troglodytes"),
        ("pig", 9823, "Sus scrofa"),
        ("zebrafish", 7955, "Danio rerio"),
        ("chicken", 9031, "Gallus gallus"),
    ]
}


def import_legacy(
    path: str | Path,
    *,
    name: str | None = None,
    kind: str | None = None,
    organism: str | OntologyTerm | None = None,
    gene_ids: Sequence[str] | Mapping[str, str] | None = None,
    term_names: names_of_terms.Names | None = None,
    reference: str | Path | None = None,
    prefix: str = "",
) -> Model:
    """Return the model in a folder that scArches or scvi-tools saved.

    Of scArches' trVAE, expiMap and scPoli that is ``attr.pkl``, ``model_params.pt`` and ``var_names.csv``; of
    scvi-tools' SCVI, SCANVI and TOTALVI ``model.pt``, or before 0.15 the same three. Where scvi-tools saved minified
    data beside its model, they become the atlas. A repository of scvi-hub is such a folder: its licence is kept, and
    its tags are in ``extensions``.

    Nothing in the folder is executed. What could not be kept is listed in the manifest's ``imported_from``.

    Parameters
    ----------
    path
        The folder; saved by any scArches since 0.3.0 or scvi-tools since 0.8, on CPU or GPU.
    name
        The manifest's name; None makes it from the folder's.
    kind
        The kind of model it must be, such as ``scpoli`` or ``scanvi``; None takes any.
    organism
        What the genes are of: a common name such as ``human`` or ``mouse``, or an ontology term.
    gene_ids
        The Ensembl id of each gene: in the model's order (``""`` where there is none), or by the model's gene names.
    term_names
        Names of an expiMap's gene programs, which scArches does not save: in the order of the mask's rows, or the
        programs of the GMT file that the mask was made from (:func:`hub_client.programs.read_gmt`), which are
        recognised by their genes.
    reference
        The folder of the model that scArches' surgery started from. With it, the rows of its conditions are frozen and
        those of the query's can be trained further; without it, the model is imported as one reference.
    prefix
        What the names of scvi-tools' files begin with: the ``prefix`` of its ``save``.

    Raises
    ------
    NotFound
        If there is no such folder, or files are missing from it.
    IntegrityError
        If a file is damaged, its tensors are not those of its attributes, or it asks for anything that a saved model
        does not need: every such name is listed, and nothing is loaded.
    ManifestError
        If the attributes contradict each other or do not fit format 1.
    Unsupported
        If it is a model of another kind, or of none that archzoo imports.
    InvalidInput
        If an argument does not fit the model.

    Examples
    --------
    >>> model = hub_client.import_legacy("reference_model", organism="human")  # doctest: +SKIP
    >>> hub_client.push(model, "my-lab/lung-atlas")  # doctest: +SKIP
    """
    place = Path(path).expanduser()
    known = {"organism": _organism(organism), "gene_ids": gene_ids, "term_names": term_names}
    if scvi_files.is_saved(place, prefix=prefix):
        if reference is not None:
            raise errors.InvalidInput("reference is for scArches' models; leave it out for one of scvi-tools.")
        return _from_scvi_tools(scvi_files.read(place, prefix=prefix), name=name, kind=kind, known=known)
    before = None if reference is None else scarches_files.read(reference)
    return from_scarches(scarches_files.read(path), name=name, kind=kind, known=known, reference=before)


def from_scarches(
    saved: Saved,
    *,
    name: str | None = None,
    kind: str | None = None,
    known: Mapping[str, Any] | None = None,
    reference: Saved | None = None,
) -> Model:
    """Return the model that scArches saved; see :func:`import_legacy`, of whose arguments ``known`` holds some."""
    actual = _kind(saved.attributes, wanted=kind)
    row, name = KINDS[actual], name or _slug(saved.folder)
    manifest, tensors = _converted(row, saved, name=name)
    if reference:
        _kind(reference.attributes, wanted=actual)
        _check_reference(manifest, _converted(row, reference, name=name)[0])
        manifest, tensors = _converted(row, saved, name=name, reference=reference.attributes)
    known = {key: value for key, value in (known or {}).items() if value is not None}
    manifest = _completed(manifest, known, origin=_origin(saved, row, named="term_names" in known))
    _check(tensors, manifest)
    model = Model.build(manifest)
    model.network.load(tensors)
    model.describe()
    return model


def _from_scvi_tools(saved: scvi_files.Saved, *, name: str | None, kind: str | None, known: Mapping[str, Any]) -> Model:
    actual = scvi_files.kind_of(saved)
    _check_kind(actual, wanted=kind, file=saved.files[0].path)
    made = scvi_models.converted(saved, name=name or _slug(saved.folder))
    metadata = scvi_hub.metadata(saved.folder, model=SCVI_KINDS[actual].model)
    origin = ImportedFrom(format=SCVI_FORMAT, files=saved.files + metadata.files, lost=made.lost + metadata.lost)
    manifest = _completed(made.manifest.changed(**metadata.fields), known, origin=origin)
    model = Model(manifest, made.network, atlas=made.atlas)
    model.describe()
    return model


# --- what scArches saved of each kind --------------------------------------------------------------------------------

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Kind:
    """How a kind of scArches' models becomes ours."""

    mark: str
    """An attribute that the kinds below it do not have."""
    convert: Callable[[Saved, str, Attributes | None], tuple[Manifest, Tensors]]
    """What was saved, the name and the reference's attributes, to a manifest and tensors."""
    attributes: frozenset[str]
    """All that scArches saves of such a model, by name."""
    lost: Mapping[str, str]
    """Attribute to what it holds that a release does not."""


def _scpoli(saved: Saved, name: str, reference: Attributes | None) -> tuple[Manifest, Tensors]:
    labelled, unlabelled = (saved.attributes[f"prototypes_{kind}_"] for kind in ("labeled", "unlabeled"))
    points = None if unlabelled["mean"] is None else unlabelled["mean"].reshape(-1, saved.attributes["latent_dim_"])
    manifest = scpoli.manifest_of(
        saved.attributes,
        saved.genes,
        name=name,
        unlabelled=0 if points is None else len(points),
        reference=reference,
    )
    tensors = scpoli.tensors_of(
        saved.state,
        saved.attributes,
        labelled=None if labelled["mean"] is None else labelled,
        unlabelled=None if points is None else {"mean": points},
    )
    return manifest, tensors


def _expimap(saved: Saved, name: str, reference: Attributes | None) -> tuple[Manifest, Tensors]:
    manifest = expimap.manifest_of(saved.attributes, saved.genes, name=name, reference=reference)
    return manifest, expimap.tensors_of(saved.state, saved.attributes, reference=reference)


def _trvae(saved: Saved, name: str, reference: Attributes | None) -> tuple[Manifest, Tensors]:
    manifest = trvae.manifest_of(saved.attributes, saved.genes, name=name, reference=reference)
    return manifest, trvae.tensors_of(saved.state, saved.attributes)


_ALL = ["conditions_", "dr_rate_", "hidden_layer_sizes_", "input_dim_", "is_trained_", "latent_dim_", "recon_loss_"]
_ALL += ["use_bn_", "use_ln_"]
_MMD = ["beta_", "mmd_boundary_", "mmd_on_", "use_mmd_"]
_PROGRAMS = ["condition_key_", "decoder_last_layer_", "ext_mask_", "hsic_one_vs_all_", "mask_", "n_ext_", "n_ext_m_"]
_PROGRAMS += ["soft_ext_mask_", "soft_mask_", "use_hsic_", "use_l_encoder_"]
_SCPOLI = ["cell_type_keys_", "cell_types_", "condition_key_", "condition_keys_", "conditions_combined_"]
_SCPOLI += ["embedding_dim_", "embedding_dims_", "embedding_max_norm_", "inject_condition_", "labeled_indices_"]
_SCPOLI += ["obs_metadata_", "prototype_training_", "prototypes_labeled_", "prototypes_unlabeled_", "share_metadata_"]
_SCPOLI += ["unknown_ct_names_", "unlabeled_prototype_training_"]

KINDS: Mapping[str, Kind] = {
    "scpoli": Kind(
        mark="prototypes_labeled_",
        convert=_scpoli,
        attributes=frozenset(_ALL + _MMD + _SCPOLI),
        lost={
            "labeled_indices_": "which of the training cells were labelled",
            "obs_metadata_": "the obs columns of one cell of each condition",
            "prototypes_labeled_": "how many cells are behind each prototype (scArches does not save it)",
        },
    ),
    "expimap": Kind(mark="mask_", convert=_expimap, attributes=frozenset(_ALL + _PROGRAMS), lost={}),
    "trvae": Kind(mark="mmd_on_", convert=_trvae, attributes=frozenset([*_ALL, *_MMD, "condition_key_"]), lost={}),
}
"""scArches' models; the first whose mark is among the attributes is the one."""
KEYS = ("condition_key_", "condition_keys_", "cell_type_keys_")
"""Attributes that name columns of obs."""
NAMES = "the names of its gene programs (scArches does not save them)"
TRAINING = "how it was trained (scArches does not save it)"
UNTRAINED = "any training: the model was saved before it"


def kind_of(attributes: Mapping[str, Any]) -> str | None:
    """Return the kind of model that these are the attributes of; None for others."""
    return next((kind for kind, row in KINDS.items() if row.mark in attributes), None)


def _kind(attributes: Mapping[str, Any], *, wanted: str | None) -> str:
    actual = kind_of(attributes)
    if actual is None:
        raise errors.Unsupported(
            f"{scarches_files.ATTRIBUTES} describes none of {errors.names(KINDS)}: it has "
            f"{errors.names(sorted(attributes)) or 'no attributes'}. Give the folder of another model.",
            kind=wanted or "unknown",
            verb="import",
        )
    _check_kind(actual, wanted=wanted, file=scarches_files.ATTRIBUTES)
    return actual


def _check_kind(actual: str, *, wanted: str | None, file: str) -> None:
    known = [*KINDS, *SCVI_KINDS]
    if wanted is not None and wanted not in known:
        raise errors.InvalidInput(f"kind is {wanted!r}; it is one of {errors.names(known)}.", facts={"kind": wanted})
    if wanted not in (None, actual):
        raise errors.Unsupported(
            f"{file} describes a model of {actual}, not of {wanted}. Give the folder of another model.",
            kind=str(wanted),
            verb="import",
        )


# --- from the folder to the manifest ---------------------------------------------------------------------------------


def _slug(folder: Path) -> str:
    return re.sub(r"[^a-z0-9]+", "-", folder.resolve().name.lower()).strip("-")[:96].rstrip("-") or FORMAT


def _converted(row: Kind, saved: Saved, *, name: str, reference: Attributes | None = None) -> tuple[Manifest, Tensors]:
    try:
        return row.convert(saved, name, reference)
    except errors.HubClientError:
        raise
    except KeyError as error:
        raise errors.IntegrityError(
            f"{scarches_files.ATTRIBUTES} and {scarches_files.WEIGHTS} lack {error}, which such a model has. "
            "Copy the folder again from where it was saved.",
            file=scarches_files.ATTRIBUTES,
            expected=error.args[0],
        ) from None
    except MALFORMED as error:
        raise errors.IntegrityError(
            f"{scarches_files.ATTRIBUTES} does not hold what scArches saves of such a model ({error}). "
            "Copy the folder again from where it was saved.",
            file=scarches_files.ATTRIBUTES,
        ) from None


def _check_reference(manifest: Manifest, reference: Manifest) -> None:
    """Refuse a reference that surgery cannot have made the model of: it keeps the genes, and appends conditions."""
    before = {condition.key: condition.categories for condition in reference.conditions}
    after = {
        condition.key: condition.categories[: len(before.get(condition.key, ()))] for condition in manifest.conditions
    }
    if manifest.genes != reference.genes or before != after:
        raise errors.InvalidInput(
            "the model was not made by surgery on this reference: its genes or its first conditions are others. "
            "Give the folder that load_query_data() was called with, or leave reference out.",
            facts={"reference": before, "model": after},
        )


MALFORMED = (TypeError, ValueError, AttributeError, IndexError, OverflowError, RuntimeError)
"""What attributes of the wrong type or size raise."""


def _completed(manifest: Manifest, known: Mapping[str, Any], *, origin: ImportedFrom) -> Manifest:
    """Return the manifest with what the caller knows of the model."""
    fields: dict[str, Any] = {"imported_from": origin}
    if known.get("organism") is not None:
        fields["organism"] = known["organism"]
    if known.get("gene_ids") is not None:
        fields["genes"] = manifest.genes.model_dump() | {"panel": _panel(manifest, known["gene_ids"])}
    if known.get("term_names") is not None:
        fields["terms"] = names_of_terms.named(manifest, known["term_names"])
    return manifest.changed(**fields)


def _origin(saved: Saved, row: Kind, *, named: bool) -> ImportedFrom:
    attributes = saved.attributes
    lost = [f"{what}: {sentence}" for what, sentence in row.lost.items() if _is_filled(attributes.get(what))]
    lost += [NAMES] if not named and "mask_" in attributes else []
    lost += [f"{what}: no attribute of scArches' models" for what in sorted(attributes.keys() - row.attributes)]
    named_columns = [attributes.get(key) or [] for key in KEYS]
    columns = [column for each in named_columns for column in ([each] if isinstance(each, str) else each)]
    lost += [f"the obs column {one!r}, called {key_of(one)!r} here" for one in columns if key_of(one) != one]
    lost += [f"{scarches_files.CELLS}: its cells"] if saved.cells else []
    lost += [TRAINING if attributes.get("is_trained_", True) else UNTRAINED]
    return ImportedFrom(format=FORMAT, files=saved.files, lost=tuple(lost))


def _is_filled(value: Any) -> bool:
    if isinstance(value, dict):
        return any(part is not None for part in value.values())
    return value is not None and not (hasattr(value, "__len__") and len(value) == 0)


def _organism(given: str | OntologyTerm | None) -> OntologyTerm | None:
    if given is None or isinstance(given, OntologyTerm):
        return given
    known = ORGANISMS | {term.id: term for term in ORGANISMS.values()}
    if given not in known:
        raise errors.InvalidInput(
            f"organism is {given!r}; it is one of {errors.names(ORGANISMS, shown=len(ORGANISMS))}, or an OntologyTerm.",
            facts={"organism": given},
        )
    return known[given]


def _panel(manifest: Manifest, gene_ids: Sequence[str] | Mapping[str, str]) -> list[dict[str, str | None]]:
    """Return the panel with an Ensembl id for each gene that has one."""
    genes = manifest.genes
    if genes.id_type == "ensembl":
        raise errors.InvalidInput("the model's genes are Ensembl ids already; leave gene_ids out.")
    if isinstance(gene_ids, Mapping):
        strangers = sorted(gene_ids.keys() - set(genes.names))
        ids = [gene_ids.get(name, "") for name in genes.names]
    else:
        strangers, ids = [], list(gene_ids)
    if strangers or len(ids) != len(genes.names):
        raise errors.InvalidInput(
            f"gene_ids has {len(ids):,} ids for {len(genes.names):,} genes"
            + (f", and names {errors.names(strangers)}, which the model does not read" if strangers else "")
            + ". Give one for each gene, in the model's order or by its names.",
            facts={"gene_ids": len(ids), "strangers": strangers},
        )
    return [{"symbol": name, "id": plain(id) or None} for name, id in zip(genes.names, ids, strict=True)]


# --- from the folder to the weights ----------------------------------------------------------------------------------


def _check(tensors: Tensors, manifest: Manifest) -> None:
    """Refuse tensors that are not, one for one and in size, those of the model, or hold NaN or an infinity."""
    with torch.device("meta"):  # no memory is taken for sizes that the attributes may only claim
        network = architecture(manifest.architecture.kind).build(manifest)
    expected = {spec.name: manifest.shape(spec) for spec in network.specs()}
    if wrong := torch_files.misfits(tensors, expected):
        raise errors.IntegrityError(
            f"{scarches_files.WEIGHTS} does not hold the weights of the model that {scarches_files.ATTRIBUTES} "
            f"describes: {errors.names(wrong)}. Copy the folder again from where it was saved.",
            file=scarches_files.WEIGHTS,
            expected=expected,
            actual={name: tuple(tensor.shape) for name, tensor in tensors.items()},
        )
