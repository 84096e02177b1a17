"""What decides results: the one list that version bumps, diffs, receipts, test vectors and digests go by.

The list names what does *not* decide, and what may change in a minor version. All else of a manifest, every tensor and
the whole atlas decide, also what a later format adds: a new field is noticed until a row here says that it is prose.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from hub_client.manifest.axes import LABELS_LATER
from hub_client.manifest.v1 import Manifest, TensorSpec

Role = Literal["describes", "content", "grows", "queries", "checks"]
"""What a field does. ``describes``: it says something of the release; no result depends on it, and a patch may change
it. ``content``: it lists tensors or files, which are compared themselves. ``grows``: surgery appends to it, which a
minor version may do; what was there before has to stay. ``queries``: it decides how the next query is taken in or
trained on, and no result of a cell whose categories are known; a minor version may change it. ``checks``: it is what
the release is checked by. What has none of these decides results: only a major version changes it."""
FIELDS: Mapping[str, Role] = {
    **dict.fromkeys(
        ("schema_version", "name", "version", "title", "summary", "created", "authors", "citation", "license"),
        "describes",
    ),
    **dict.fromkeys(("data_license", "tissue", "assay", "disease", "suspension_type", "gene_annotation"), "describes"),
    **dict.fromkeys(("organism.label", "organism.release"), "describes"),  # its id decides how genes are matched
    **dict.fromkeys(("training", "metrics", "imported_from", "intended_use", "limitations"), "describes"),
    **dict.fromkeys(("trust.validated_on", "extensions", "delta", "signature"), "describes"),
    **dict.fromkeys(("files", "tensors"), "content"),
    **dict.fromkeys(("lineage.parent", "lineage.new_rows", "lineage.copied"), "describes"),
    **dict.fromkeys(("labels.*.ontology", "labels.*.ontology_release", "labels.*.parents"), "describes"),
    "labels.*.corrections": "describes",  # the labels that came of them are in the atlas and the weights
    **dict.fromkeys(("terms.*.source", "terms.*.release", "terms.*.license"), "describes"),
    **dict.fromkeys(("conditions.*.categories", "covariates.categorical.*.categories"), "grows"),
    **dict.fromkeys(("combinations", "labels", "terms", "proteins.measured"), "grows"),
    **dict.fromkeys(("conditions.*.added_in", "covariates.categorical.*.added_in"), "queries"),
    **dict.fromkeys(("combinations.*.added_in", "labels.*.added_in", "terms.*.added_in"), "queries"),
    **dict.fromkeys(("query_plan", "lineage.relation", "lineage.retrained_extensions"), "queries"),
    **dict.fromkeys(("genes.coverage_warn", "genes.coverage_refuse"), "queries"),
    **dict.fromkeys(("conditions.*.unknown", "covariates.categorical.*.unknown"), "queries"),
    **dict.fromkeys(("prototypes.unlabelled", "labels.*.markers", "trust.depth"), "queries"),
    **dict.fromkeys(("trust.calibrations.*.set_coverage", "trust.calibrations.*.fitted_on"), "describes"),
    "trust.calibrations.*.set_above": "grows",  # where there was none, sets are added; they follow from it
    "trust.novelty": "grows",  # where there was none, results are added; what was there decides
    **dict.fromkeys((f"trust.novelty.{name}" for name in ("left_out", "count", "false_positives")), "describes"),
    "test_vectors": "checks",
}
"""Field of a manifest, ``*`` for each entry of a list, to its role; a field in another has that one's role."""
OWN_AXES = frozenset({"test_cells", "prototypes.unlabelled"})
"""The axes of tensors that are of one release alone: test vectors, and prototypes of a query that had no labels. Every
tensor without one decides results."""
UNRECORDED = frozenset({"report", "whole_depth"})
"""What of aligned cells a receipt leaves out: how they were found, and what follows from what was asked and from the
model. The genes that are missing are recorded."""
Effect = Literal["decides", "adds", "none"]


@dataclass(frozen=True)
class Difference:
    """A field in which two manifests differ, and what the difference means for results."""

    field: str
    effect: Effect
    """``decides``: a result of before is another one now; ``adds``: results are added, or found or checked in another
    way; ``none``: the field only describes."""


def compare(before: Manifest, after: Manifest) -> Iterator[Difference]:
    """Return the fields in which two manifests differ, in the format's order, with what that means for results."""
    grown: dict[str, Role] = {f"architecture.{name}": "queries" for name in before.architecture.grown}
    walk = _Walk({**FIELDS, **grown})
    for name in type(before).model_fields:
        if getattr(before, name) != getattr(after, name):
            old, new = (_listed(record, name) for record in (before, after))
            yield from walk.field(old, new, field=name, pattern=name, role=None)
    yield from walk.field(before.unknown, after.unknown, field="unknown", pattern="unknown", role=None)


def _listed(manifest: Manifest, field: str) -> Any:
    """Return a field as JSON; no combinations stand for all of them, and what its own version added moves along."""
    if field == "combinations" and not manifest.combinations and len(manifest.conditions) > 1:
        return [{"values": list(values), "added_in": None} for values in manifest.known_combinations]
    found = manifest.model_dump(mode="json", include={field})[field]
    if field == "labels":  # what is left out of files at its default is one thing with it
        found = [{**LABELS_LATER, **level} for level in found]
    return _moving(found, manifest.version)


def _moving(value: Any, version: str) -> Any:
    if isinstance(value, list):
        return [_moving(entry, version) for entry in value]
    if not isinstance(value, dict):
        return value
    return {key: _own(inner, version) if key == "added_in" else _moving(inner, version) for key, inner in value.items()}


def _own(added: Any, version: str) -> Any:
    """Return which version added something, or each of several, with a manifest's own version told apart."""
    if isinstance(added, dict):
        return {key: _own(value, version) for key, value in added.items()}
    return "this version" if added == version else added


def decides(spec: TensorSpec) -> bool:
    """Return whether results depend on a tensor."""
    return not spec.axes() & OWN_AXES


@dataclass(frozen=True)
class _Walk:
    """A walk through two JSON documents side by side."""

    roles: Mapping[str, Role]

    def field(self, old: Any, new: Any, *, field: str, pattern: str, role: Role | None) -> Iterator[Difference]:
        role = self.roles.get(pattern, role)
        if old == new:
            return
        if role in _EFFECTS:
            yield Difference(field, _EFFECTS[role])
        elif isinstance(old, dict) and isinstance(new, dict):
            yield from self._tables(old, new, field=field, pattern=pattern, role=role)
        elif isinstance(old, list) and isinstance(new, list):
            yield from self._lists(old, new, field=field, pattern=pattern, role=role)
        elif old is None and isinstance(new, dict) and self._named(pattern):
            yield from self._tables({}, new, field=field, pattern=pattern, role=role)
        elif new is None and isinstance(old, dict) and self._named(pattern):
            yield from self._tables(old, {}, field=field, pattern=pattern, role=role)
        elif old is None and self.roles.get(pattern) == "grows":
            yield Difference(field, "adds")
        else:
            yield Difference(field, "decides")

    def _tables(
        self, old: dict[str, Any], new: dict[str, Any], *, field: str, pattern: str, role: Role | None
    ) -> Iterator[Difference]:
        for key in dict.fromkeys([*old, *new]):
            place, inside = f"{field}.{key}", f"{pattern}.{key}"
            if role == "grows" and key not in old:
                yield Difference(place, "adds")
            else:
                yield from self.field(old.get(key), new.get(key), field=place, pattern=inside, role=role)

    def _lists(
        self, old: list[Any], new: list[Any], *, field: str, pattern: str, role: Role | None
    ) -> Iterator[Difference]:
        if len(new) < len(old) or (len(new) > len(old) and role != "grows"):
            yield Difference(field, "decides")
            return
        for before, after in zip(old, new, strict=False):
            place = f"{field}[{_name(before)}]" if isinstance(before, dict) else field
            yield from self.field(before, after, field=place, pattern=f"{pattern}.*", role=role)
        if len(new) > len(old):
            yield Difference(field, "adds")

    def _named(self, pattern: str) -> bool:
        return any(name.startswith(f"{pattern}.") for name in self.roles)


def _name(entry: Mapping[str, Any]) -> str:
    """Return what an entry of a list is called."""
    return next((str(entry[key]) for key in ("key", "level", "id", "name") if key in entry), "")


_EFFECTS: Mapping[Role | None, Effect] = {
    "describes": "none",
    "content": "none",
    "queries": "adds",
    "checks": "adds",
}
"""The effect of any change of a field with a role; of the others, it depends on what changed."""
