"""Small valid manifests with tensors, for tests of everything that reads them."""

from __future__ import annotations

from typing import Any

import torch

from hub_client.manifest.v1 import Manifest

GENES = [
    ("ENSG00000111640", "GAPDH"),
    ("ENSG00000156508", "EEF1A1"),
    ("ENSG00000010610", "CD4"),
    ("ENSG00000153563", "CD8A"),
]


def manifest(**overrides: Any) -> Manifest:
    """Return a tiny valid scPoli manifest: 4 genes, 2 batches, 2 labels, latent of 3."""
    return Manifest.model_validate(fields() | overrides)


def fields() -> dict[str, Any]:
    """Return the JSON fields of :func:`manifest`."""
    return {
        "schema_version": "1.0",
        "name": "tiny-scpoli",
        "version": "1.0.0",
        "title": "Tiny scPoli",
        "summary": "Four genes, for tests.",
        "license": "CC-BY-4.0",
        "architecture": {"kind": "scpoli", "hidden": [5], "latent": 3},
        "genes": {"id_type": "symbol", "panel": [{"id": id_, "symbol": symbol} for id_, symbol in GENES]},
        "conditions": [
            {"key": "batch", "categories": ["a", "b"], "encoding": {"kind": "embedding", "dim": 2, "max_norm": 1.0}}
        ],
        "labels": [
            {
                "key": "cell_type",
                "categories": ["T cell", "B cell"],
                "ontology": {"T cell": "CL:0000084", "B cell": "CL:0000236"},
            }
        ],
        "prototypes": {"levels": [{"level": "cell_type", "means": "prototypes.cell_type.means"}]},
        "tensors": [
            {"name": "encoder.weight", "dtype": "F32", "shape": ["hidden.0", "genes"]},
            {"name": "embeddings.batch", "dtype": "F32", "shape": ["conditions.batch", "embedding.batch"]},
            {"name": "prototypes.cell_type.means", "dtype": "F32", "shape": ["labels.cell_type", "latent"]},
            {"name": "steps", "dtype": "I64", "shape": []},
        ],
    }


def tensors(described: Manifest | None = None, *, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return random tensors of the names, dtypes and shapes a manifest describes."""
    described = described or manifest()
    generator = torch.Generator().manual_seed(seed)
    shapes = described.shapes()
    return {spec.name: _tensor(spec.dtype, shapes[spec.name], generator) for spec in described.tensors}


def _tensor(dtype: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    kinds = {"F32": torch.float32, "F64": torch.float64}
    if dtype in kinds:
        return torch.randn(shape, dtype=kinds[dtype], generator=generator)
    whole = {"I64": torch.int64, "I32": torch.int32, "U8": torch.uint8, "BOOL": torch.bool}
    return torch.randint(0, 2, shape, generator=generator).to(whole[dtype])
