"""Whether the parts of a manifest agree with each other: each check raises ValueError for what it finds."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from hub_client.manifest.axes import TERM_ORDER, Term
from hub_client.manifest.configs import Part, having
from hub_client.manifest.scalars import check_oldest_first, check_unique, numbers

if TYPE_CHECKING:
    from hub_client.manifest.v1 import Manifest


def _check_unique(manifest: Manifest) -> None:
    check_unique(
        "condition and covariate keys", [c.key for c in manifest.categorical] + list(manifest.covariates.continuous)
    )
    check_unique("label levels", (level.key for level in manifest.labels))
    check_unique("term ids", (term.id for term in manifest.terms))
    check_unique("term names", (term.name for term in manifest.terms))
    check_unique("levels of prototypes", (p.level for p in manifest.prototypes.levels))
    check_unique("levels of calibrations", (c.level for c in manifest.trust.calibrations))
    check_unique("levels of classifiers", (c.level for c in manifest.trust.classifiers))
    check_unique("tensor names", (spec.name for spec in manifest.tensors))
    check_unique("file paths (in lower case)", (file.path.lower() for file in manifest.files))


def _check_input(manifest: Manifest) -> None:
    likelihood = manifest.architecture.likelihood
    expected = _INPUT.get(likelihood, ("counts",))
    if manifest.input.kind not in expected:
        raise ValueError(
            f"input.kind is {manifest.input.kind!r}, but likelihood {likelihood!r} reads {' or '.join(expected)}"
        )
    if manifest.input.kind == "counts" and manifest.input.target_sum is not None:
        raise ValueError("input.target_sum is for log1p input only")


def _check_kind(manifest: Manifest) -> None:
    """Refuse parts that belong to another architecture."""
    config = manifest.architecture
    given: dict[Part, object] = {"terms": manifest.terms, "proteins": manifest.proteins}
    for part, value in given.items():
        if value and part not in config.parts:
            raise ValueError(f"{part} are for {' and '.join(having(part))}, not for {config.kind}")
    if "proteins" in config.parts and manifest.proteins is None:
        raise ValueError(f"{config.kind} needs proteins")
    for condition in manifest.conditions:
        if config.encoding and condition.encoding.kind != config.encoding:
            raise ValueError(
                f"condition {condition.key!r} is encoded as {condition.encoding.kind}; "
                f"{config.kind} has {config.encoding}"
            )


def _check_proteins(manifest: Manifest) -> None:
    batches = {name for condition in manifest.conditions for name in condition.categories}
    if manifest.proteins and (lost := sorted(manifest.proteins.measured.keys() - batches)):
        raise ValueError(f"proteins.measured names batches that are no condition's: {lost[:5]}")


def _check_terms(manifest: Manifest) -> None:
    config = manifest.architecture
    if "terms" not in config.parts:
        return
    kinds: list[str] = [term.kind for term in manifest.terms]
    if "annotated" not in kinds:
        raise ValueError(f"{config.kind} needs annotated terms: its latent has one dimension for each term")
    places = [_term_place(term) for term in manifest.terms]
    if places != sorted(places):
        raise ValueError(f"terms must stand in the order {', '.join(TERM_ORDER)}, extensions of an older version first")
    for kind, number in config.extensions.items():
        if kinds.count(kind) != number:
            raise ValueError(f"architecture.{kind}_extensions is {number}, but {kinds.count(kind)} terms are {kind}")
    if any(index >= len(manifest.genes.panel) for term in manifest.terms for index in term.genes):
        raise ValueError("a term names a gene index beyond the panel")


def _term_place(term: Term) -> tuple[bool, tuple[int, ...], int]:
    extension = term.kind != "annotated"
    return extension, numbers(term.added_in if extension else None), TERM_ORDER.index(term.kind)


def _check_combinations(manifest: Manifest) -> None:
    if not manifest.combinations:
        return
    if len(manifest.conditions) < 2:
        raise ValueError("combinations are for two or more conditions; with one they are its categories")
    known = [set(condition.categories) for condition in manifest.conditions]
    for combination in manifest.combinations:
        values = combination.values
        if len(values) != len(known) or any(value not in names for value, names in zip(values, known, strict=True)):
            raise ValueError(f"combination {values} does not name one known category per condition")
    check_unique("combinations", (json.dumps(c.values) for c in manifest.combinations))
    check_oldest_first("combinations", (c.added_in for c in manifest.combinations))


def _check_labels(manifest: Manifest) -> None:
    levels = {level.key: set(level.categories) for level in manifest.labels}
    wanted = [p.level for p in manifest.prototypes.levels] + [c.level for c in manifest.trust.calibrations]
    wanted += [c.level for c in manifest.trust.classifiers]
    if lost := [key for key in wanted if key not in levels]:
        raise ValueError(f"label levels named but not described: {lost[:5]}")
    for level in manifest.labels:
        coarser = {name for key, names in levels.items() if key != level.key for name in names}
        if lost := sorted(set(level.parents.values()) - coarser):
            raise ValueError(f"labels of {level.key!r}: parents are labels of no other level: {lost[:5]}")


def _check_delta(manifest: Manifest) -> None:
    if manifest.delta is None:
        return
    if manifest.lineage is None or manifest.lineage.parent is None:
        raise ValueError("delta needs lineage.parent: the release it adds to")
    listed = {file.path for file in manifest.files}
    if listed and (lost := sorted(set(manifest.delta.inherited) - listed)):
        raise ValueError(f"delta.inherited names files that the release does not have: {lost[:5]}")


def _check_tensors(manifest: Manifest) -> None:
    sizes = manifest.axes()
    named = {name for spec in manifest.tensors for name in spec.axes()}
    if lost := sorted(named - sizes.keys()):
        raise ValueError(f"tensor shapes use axes this manifest does not have: {lost[:5]}")
    described = {spec.name for spec in manifest.tensors}
    if described and (lost := [name for name in _named_tensors(manifest) if name not in described]):
        raise ValueError(f"tensors named but not described: {lost[:5]}")


def _named_tensors(manifest: Manifest) -> list[str]:
    named = [p.means for p in manifest.prototypes.levels]
    named += [p.covariances for p in manifest.prototypes.levels if p.covariances]
    named += [name for c in manifest.trust.classifiers for name in (c.weight, c.bias, c.centre)]
    named += list(manifest.test_vectors.tensors.values()) if manifest.test_vectors else []
    return named + (["gene_means"] if manifest.genes.missing == "mean" else [])


_INPUT = {"mse": ("log1p",), "normal": ("counts", "log1p")}
"""What a likelihood reads; the count distributions read counts."""
CHECKS = (
    _check_unique,
    _check_input,
    _check_kind,
    _check_proteins,
    _check_terms,
    _check_combinations,
    _check_labels,
    _check_delta,
    _check_tensors,
)
"""All of them, in the order in which problems are reported."""
