"""Seeded counts with cell types, batches and technologies, for tests that need cells rather than biology."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anndata
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from hub_client.data.align import align
from hub_client.data.cells import Cells
from hub_client.manifest.configs import CONFIGS, KindConfig
from hub_client.manifest.v1 import Manifest, PrototypeLevel

GENES = tuple(f"g{number}" for number in range(60))
PROTEINS = tuple(f"CD{number}" for number in range(12))
CLASSES = {"T": "lymphoid", "B": "lymphoid", "NK": "lymphoid", "Mono": "myeloid"}
REFERENCE, QUERY, SECOND_QUERY = ("b0", "b1", "b2"), ("q0", "q1"), ("r0",)


def counts(
    batches: Sequence[str] = REFERENCE,
    *,
    cells: int = 240,
    types: Sequence[str] = tuple(CLASSES),
    seed: int = 0,
    proteins: bool = False,
) -> anndata.AnnData:
    """Return counts whose gene means depend on type, batch and technology, with all four in obs.

    With ``proteins``, counts of those are in obsm.
    """
    generator = np.random.default_rng([seed, cells])
    obs = pd.DataFrame(
        {
            "batch": np.resize(list(batches), cells),
            "tech": generator.choice(["v2", "v3"], cells),
            "cell_type": generator.choice(list(types), cells),
        },
        index=[f"{batches[0]}-{number}" for number in range(cells)],
    )
    obs["cell_class"] = obs["cell_type"].map(CLASSES).fillna("other")
    obs["age"] = np.random.default_rng([seed, cells, 1]).normal(0, 1, cells)
    obs["depth"] = 1000.0 * np.random.default_rng([seed, cells, 2]).lognormal(0, 0.3, cells)
    logs = sum(_effects(key, obs[key], size=size) for key, size in SIZES.items())
    depth = generator.lognormal(0, 0.3, (cells, 1))
    x = generator.poisson(generator.gamma(3.0, np.exp(logs) * depth / 3.0)).astype(np.float32)
    adata = anndata.AnnData(csr_matrix(x), obs=obs, var=pd.DataFrame(index=list(GENES)))
    if proteins:
        adata.obsm["protein"] = _proteins(obs, seed)
    return adata


def _proteins(obs: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Return counts of proteins over a background, some of them present by type; batch b2 did not measure the last."""
    generator = np.random.default_rng([seed, len(obs), 3])
    logs = sum(_effects(key, obs[key], size=size)[:, : len(PROTEINS)] for key, size in SIZES.items())
    present = _effects("cell_type", obs["cell_type"], size=1.0)[:, -len(PROTEINS) :] > 0
    means = 5 * np.exp(generator.normal(0, 0.3, (len(obs), 1))) + np.where(present, 100 * np.exp(logs), 0)
    counts = generator.poisson(means).astype(np.float32)
    counts[obs["batch"].to_numpy() == "b2", -1] = 0
    return pd.DataFrame(counts, index=obs.index, columns=list(PROTEINS))


SIZES = {"cell_type": 0.8, "batch": 0.3, "tech": 0.2}
"""Standard deviation of each column's effect on the log mean of a gene."""


def _effects(key: str, values: pd.Series, *, size: float) -> NDArray[Any]:
    """Return each cell's effect on each gene, ``(cells, genes)``: a value has the same in every data set."""
    rows = {
        value: np.random.default_rng([*f"{key}={value}".encode()]).normal(0, size, len(GENES)) for value in set(values)
    }
    return np.stack([rows[value] for value in values])


def log_counts(adata: anndata.AnnData) -> anndata.AnnData:
    """Return log1p of counts scaled to 1,000 a cell, as models with squared error read it."""
    found = adata.copy()
    totals = np.asarray(found.X.sum(1))
    found.X = csr_matrix(found.X.multiply(1000 / np.maximum(totals, 1))).log1p().astype(np.float32)
    return found


def cells_for(
    manifest: Manifest, batches: Sequence[str] = REFERENCE, *, labelled: bool = True, **options: Any
) -> Cells:
    """Return simulated cells aligned to a manifest, with or without the labels of its levels."""
    adata = counts(batches, proteins=manifest.proteins is not None, **options)
    columns = {level.key: level.key for level in manifest.labels if labelled}
    return align(log_counts(adata) if manifest.input.kind == "log1p" else adata, manifest, labels=columns)


def manifest(
    kind: str = "scpoli",
    *,
    conditions: Sequence[str] = ("batch",),
    levels: Sequence[str] = ("cell_type",),
    encoding: dict[str, Any] | None = None,
    constrained: int = 0,
    unconstrained: int = 0,
    categorical: Sequence[str] = (),
    continuous: Sequence[str] = (),
    size_factor: str | None = None,
    **architecture: Any,
) -> Manifest:
    """Return the manifest of a small model of :func:`counts`' reference; an expiMap's with some extension terms."""
    known = {"batch": REFERENCE, "tech": ("v2", "v3")}
    labels = {"cell_type": sorted(CLASSES), "cell_class": sorted(set(CLASSES.values()))}
    config = CONFIGS[kind]
    encoding = ENCODINGS[config.encoding or "one-hot"] if encoding is None else encoding
    likelihood = architecture.get("likelihood", "nb")
    prototypes = [PrototypeLevel.of(position, key) for position, key in enumerate(levels)]
    return Manifest.model_validate(
        {
            "name": "simulated",
            "architecture": {"kind": kind} | small(config, constrained, unconstrained) | architecture,
            "genes": {"id_type": "symbol", "panel": [{"symbol": gene} for gene in GENES]},
            "input": {"kind": "log1p", "target_sum": 1000} if likelihood == "mse" else {"size_factor": size_factor},
            "conditions": [{"key": key, "categories": known[key], "encoding": encoding} for key in conditions],
            "covariates": {
                "categorical": [
                    {"key": key, "role": "covariate", "categories": known[key], "encoding": {"kind": "one-hot"}}
                    for key in categorical
                ],
                "continuous": continuous,
            },
            "labels": [
                {"key": key, "categories": labels[key], "ontology": dict.fromkeys(labels[key])} for key in levels
            ],
            "prototypes": {"levels": prototypes if "prototypes" in config.parts else ()},
            "proteins": {"panel": PROTEINS} if "proteins" in config.parts else None,
            "terms": terms(constrained, unconstrained) if "terms" in config.parts else (),
        }
    )


def terms(constrained: int = 0, unconstrained: int = 0, *, annotated: int = 6) -> list[dict[str, Any]]:
    """Return gene programs of ten genes each that overlap by two, and terms beyond them."""
    counts = {"annotated": annotated, "constrained": constrained, "unconstrained": unconstrained}
    kinds = [kind for kind, count in counts.items() for _ in range(count)]
    programs = [{(8 * number + gene) % len(GENES) for gene in range(10)} for number in range(len(kinds))]
    return [
        {
            "id": f"P:{number}",
            "name": f"program {number}",
            "genes": () if kind == "unconstrained" else [GENES[place] for place in sorted(genes)],
            "kind": kind,
        }
        for number, (kind, genes) in enumerate(zip(kinds, programs, strict=True))
    ]


def small(config: type[KindConfig], constrained: int, unconstrained: int) -> dict[str, Any]:
    """Return the hyperparameters that say how large a model of a kind is, so far as it has them."""
    one_width = "hidden" in config.model_fields and isinstance(config.model_fields["hidden"].default, int)
    sizes = {
        "hidden": 16 if one_width else (16,),
        "latent": 6,
        "constrained_extensions": constrained,
        "unconstrained_extensions": unconstrained,
    }
    return {name: size for name, size in sizes.items() if name in config.model_fields}


ENCODINGS: dict[str, dict[str, Any]] = {"one-hot": {"kind": "one-hot"}, "embedding": {"kind": "embedding", "dim": 4}}
"""How conditions are encoded."""
