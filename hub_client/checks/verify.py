"""Test vectors: a few simulated cells in every release, with all that the release's maker computed of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch import Tensor

from hub_client import errors
from hub_client.checks.outputs import outputs
from hub_client.data.cells import Cells, GeneReport
from hub_client.manifest.v1 import Manifest, TensorSpec, TestVectors
from hub_client.models.model import Model

CELLS = "test_cells"
PREFIX = "test_vectors."
MATRICES = {
    "counts": "genes",
    "latent": "latent",
    "continuous": "continuous",
    "proteins": "proteins",
    "imputed_proteins": "proteins",
}
"""The second axis of parts that have two, by name; of the others it is counted, for a label level may grow."""


def with_test_vectors(model: Model, cells: Cells, *, count: int = 8, seed: int = 0) -> Model:
    """Return the model with test vectors: simulated cells, and what it computes for them.

    No cell of the data is published: counts are Poisson draws around the mean profile of all cells of a label, under
    the conditions of one of them. The labels of the finest level take turns.

    Parameters
    ----------
    model
        A trained model.
    cells
        The cells whose mean profiles are drawn from, with labels if the model has any.
    count
        How many cells to simulate.
    seed
        Of the draws.
    """
    model = replace(model)
    model.describe()  # what training changed in the manifest, such as which way a gene program points
    simulated = _simulated(cells, model.manifest, count=count, seed=seed)
    parts = _inputs(model, simulated) | _outputs(model, simulated)
    tensors = {PREFIX + part: value for part, value in parts.items() if bool(torch.isfinite(value).all())}
    vectors = TestVectors(cells=count, tensors={name.removeprefix(PREFIX): name for name in tensors})
    kept = tuple(spec for spec in model.manifest.tensors if not spec.name.startswith(PREFIX))
    manifest = model.manifest.changed(test_vectors=vectors, tensors=(*kept, *map(_spec, tensors, tensors.values())))
    return replace(model, manifest=manifest, extras={**model.extras, **tensors})


def verify(model: Model) -> None:
    """Replay a model's test vectors: latent, labels by number and by name, their uncertainty, scores and proteins.

    Vectors that were made before uncertainty was among them are replayed for what they hold.

    Raises
    ------
    Unsupported
        If the release has none.
    ManifestError
        If they are not complete, or name conditions the model does not have.
    IntegrityError
        If anything is not, within the release's tolerances, what its maker got.
    """
    vectors = _vectors(model.manifest)
    expected = _parts(model.manifest, model.extras)
    found = _outputs(model, _replayed(model.manifest, expected))
    for part, value in found.items():
        exact = not value.is_floating_point()
        rtol, atol = (0.0, 0.0) if exact else (vectors.rtol, vectors.atol)
        if part in expected and not _close(value, expected[part], rtol=rtol, atol=atol):
            raise errors.IntegrityError(
                f"the release's test vectors are not reproduced: {part} {_apart(value, expected[part])}. Its weights, "
                "what its manifest states of labels, or this machine's arithmetic are not what its maker had; find out "
                "which before comparing its results with others'.",
                file="model.safetensors",
                expected=expected[part].tolist(),
                actual=value.tolist(),
            )


def _close(value: Tensor, expected: Tensor, *, rtol: float, atol: float) -> bool:
    return value.shape == expected.shape and torch.allclose(value, expected, rtol=rtol, atol=atol)


def _apart(value: Tensor, expected: Tensor) -> str:
    if value.shape != expected.shape:
        return f"has shape {tuple(value.shape)}, and its maker got {tuple(expected.shape)}"
    if not value.is_floating_point():
        return f"differs in {int((value != expected).sum())} of {len(value)} cells"
    return f"differs by up to {float((value.double() - expected.double()).abs().max()):.3g}"


def simulated_cells(model: Model) -> Cells:
    """Return the simulated cells of a model's test vectors, aligned to it.

    Raises
    ------
    Unsupported, ManifestError
        As :func:`verify`.
    """
    return _replayed(model.manifest, _parts(model.manifest, model.extras))


def replayed_differences(model: Model, before: Manifest, tensors: Mapping[str, Tensor]) -> list[str]:
    """Return in what a model grown from another differs from the other's test vectors, beyond their tolerances.

    Columns that only the grown model has, such as those of gene programs it added, are left out; of a label level that
    has new labels nothing is compared, and of one that is calibrated anew only the labels.

    Parameters
    ----------
    model
        The grown model.
    before, tensors
        Manifest and tensors of the release it was grown from, which has test vectors.

    Raises
    ------
    Unsupported, ManifestError
        As :func:`verify`; also if the two have not the same genes.
    VocabularyError
        If the grown model does not know the other's conditions.
    """
    if model.manifest.genes.names != before.genes.names:
        raise errors.ManifestError(f"{model.manifest.name} has other genes than the release that it was grown from.")
    vectors = _vectors(before)
    expected = _parts(before, tensors)
    found = _outputs(model, _replayed(before, expected))
    kept = {part: value for part, value in found.items() if part in expected and _stays(part, before, model.manifest)}
    differences = []
    for part, value in kept.items():
        exact = not value.is_floating_point()
        rtol, atol = (0.0, 0.0) if exact else (vectors.rtol, vectors.atol)
        shared = value[:, : expected[part].shape[1]] if value.ndim == expected[part].ndim == 2 else value
        if not _close(shared, expected[part], rtol=rtol, atol=atol):
            differences.append(f"the parent's test vectors are not reproduced: {part} {_apart(shared, expected[part])}")
    return differences


def _stays(part: str, before: Manifest, after: Manifest) -> bool:
    """Return whether surgery leaves a result of known cells as it was."""
    what, _, level = part.partition(".")
    if not level:
        return True
    old, new = ({one.key: one.categories for one in side.labels}.get(level) for side in (before, after))
    return old == new and (what in ("labels", "names") or before.trust == after.trust)


def _vectors(manifest: Manifest) -> TestVectors:
    if manifest.test_vectors is None:
        raise errors.Unsupported(
            f"{manifest.name} has no test vectors to replay.", kind=manifest.architecture.kind, verb="verify"
        )
    return manifest.test_vectors


def _parts(manifest: Manifest, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the test vectors by the name of each part, complete."""
    parts = {part: tensors[name] for part, name in _vectors(manifest).tensors.items()}
    known = {f"conditions.{c.key}": len(c.categories) for c in manifest.categorical}
    continuous = {"continuous"} if manifest.covariates.continuous else set()
    if missing := sorted({"counts", "size_factor", "latent", *known, *continuous} - parts.keys()):
        raise errors.ManifestError(f"{manifest.name}: its test vectors lack {errors.names(missing)}.")
    for part, categories in known.items():
        if bool(((parts[part] < 0) | (parts[part] >= categories)).any()):
            raise errors.ManifestError(f"{manifest.name}: its test vectors hold codes in {part} that are no category.")
    return parts


def _simulated(cells: Cells, manifest: Manifest, *, count: int, seed: int) -> Cells:
    """Return simulated cells with the conditions of real ones; their names are numbers."""
    generator = np.random.default_rng(seed)
    finest = max(manifest.labels, key=lambda level: len(level.categories)).key if manifest.labels else None
    groups = _groups(cells, finest)
    chosen = [groups[index % len(groups)] for index in range(count)]
    counts = np.stack([_draw(cells, members, manifest.input.kind, generator) for members in chosen])
    samples = np.array([generator.choice(members) for members in chosen])
    factors = [cells.size_factor[members].mean() for members in chosen]
    observed = manifest.input.size_factor is not None
    proteins = _means(cells.proteins, chosen)
    return Cells(
        x=csr_matrix(counts, dtype=np.float32),
        obs_names=np.arange(count).astype(str).astype(object),
        conditions={key: names[samples] for key, names in cells.conditions.items()},
        labels={},
        size_factor=np.asarray(factors if observed else counts.sum(axis=1).clip(min=1), dtype=np.float32),
        report=GeneReport(coverage=1.0),
        continuous=_means(cells.continuous, chosen),
        proteins=None if proteins is None else generator.poisson(proteins).astype(np.float32),
    )


def _means(values: NDArray[np.float32] | None, groups: Sequence[NDArray[np.int64]]) -> NDArray[np.float32] | None:
    """Return the mean of each column over each group of cells, ``(groups, columns)``: no cell's own value."""
    return None if values is None else np.stack([values[members].mean(axis=0) for members in groups])


def _groups(cells: Cells, level: str | None) -> Sequence[NDArray[np.int64]]:
    """Return the rows of each label's cells, those with no label left out; all rows where there are no labels."""
    names = cells.labels.get(level, np.empty(0)) if level else np.empty(0)
    found = [np.flatnonzero(names == name) for name in np.unique(names) if name != ""]
    return found or [np.arange(len(cells))]


def _draw(cells: Cells, members: NDArray[np.int64], kind: str, generator: np.random.Generator) -> NDArray[np.float32]:
    """Return one cell's values, ``(genes,)``, in the unit the network reads."""
    values = cells.x[members].astype(np.float64)
    values = values.expm1() if kind == "log1p" else values
    drawn = generator.poisson(np.asarray(values.mean(axis=0)).reshape(-1)).astype(np.float32)
    return np.log1p(drawn) if kind == "log1p" else drawn


def _inputs(model: Model, cells: Cells) -> dict[str, Tensor]:
    axes = model.vocabulary.conditions | model.vocabulary.covariates
    values = {"counts": cells.x.toarray(), "size_factor": cells.size_factor}
    values |= {f"conditions.{key}": axis.codes(cells.conditions[key]) for key, axis in axes.items()}
    values |= {} if cells.continuous is None else {"continuous": cells.continuous}
    values |= {} if cells.proteins is None else {"proteins": cells.proteins}
    return {part: torch.from_numpy(value) for part, value in values.items()}


def _outputs(model: Model, cells: Cells) -> dict[str, Tensor]:
    """Return every result as computed on the CPU: numbers as float32, labels as codes and as hashes of their names."""
    found = outputs(model, cells, device="cpu").by_name()
    parts = {part: torch.from_numpy(value.astype(np.float32)) for part, value in found.items() if _numeric(value)}
    for part, names in found.items():
        if not _numeric(names):
            level = part.partition(".")[2]
            parts[part] = torch.from_numpy(model.vocabulary.labels[level].codes(names))
            parts[f"names.{level}"] = torch.tensor([_number(name) for name in names], dtype=torch.int64)
    return parts


def _numeric(values: NDArray[Any]) -> bool:
    return values.dtype.kind == "f"


def _number(name: object) -> int:
    """Return a whole number that stands for a name: codes alone do not notice two names that were exchanged."""
    return int.from_bytes(hashlib.sha256(str(name).encode()).digest()[:8], "little", signed=True)


def _replayed(manifest: Manifest, parts: dict[str, Tensor]) -> Cells:
    names = {c.key: np.array(c.categories)[parts[f"conditions.{c.key}"].numpy()] for c in manifest.categorical}
    counts = parts["counts"].numpy()
    return Cells(
        x=csr_matrix(counts),
        obs_names=np.arange(len(counts)).astype(str).astype(object),
        conditions=names,
        labels={},
        size_factor=parts["size_factor"].numpy(),
        report=GeneReport(coverage=1.0),
        continuous=parts["continuous"].numpy() if manifest.covariates.continuous else None,
        proteins=parts["proteins"].numpy() if "proteins" in parts else None,
    )


def _spec(name: str, value: Tensor) -> TensorSpec:
    part = name.removeprefix(PREFIX)
    inner = () if value.ndim == 1 else (MATRICES.get(part, str(value.shape[1])),)
    return TensorSpec(name=name, dtype="F32" if value.is_floating_point() else "I64", shape=(CELLS, *inner))
