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
        "schema_version": "1.1",
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


DESCRIBED: dict[str, Any] = {
    "title": "Example",
    "summary": "An example that fills every field.",
    "created": "2024-05-01T12:00:00Z",
    "authors": [{"name": "Ada Lovelace", "orcid": "0000-0002-1825-0097"}],
    "citation": {"doi": "10.1000/182", "bibtex": "@article{example, title={Example}}"},
    "license": "CC-BY-4.0",
    "data_license": "CC-BY-4.0",
    "organism": {"id": "NCBITaxon:9606", "label": "Homo sapiens", "release": "2024-01"},
    "tissue": [{"id": "UBERON:0000178", "label": "blood", "release": "2024-01-18"}],
    "assay": [{"id": "EFO:0009922", "label": "10x 3' v3", "release": "3.62.0"}],
    "disease": [{"id": "MONDO:0007915", "label": "systemic lupus erythematosus", "release": "2024-01-03"}],
    "suspension_type": "cell",
    "gene_annotation": {"assembly": "GRCh38", "source": "GENCODE", "release": "44"},
    "training": {
        "datasets": [
            {
                "name": "blood",
                "doi": "10.1000/183",
                "source": "a repository",
                "license": "CC-BY-4.0",
                "cells": 1200,
                "fingerprint": "0" * 64,
            }
        ],
        "plan": {"epochs": 10},
        "seed": 7,
        "epochs": 10,
        "losses": {"reconstruction": 512.25, "kl": 3.5},
        "versions": {"torch": "2.13.0"},
        "device": "cpu",
        "seconds": 125.0,
    },
    "query_plan": {"epochs": 5},
    "metrics": [
        {
            "name": "cell_type.accuracy",
            "definition": "share of cells whose label is right",
            "dataset": "blood",
            "dataset_fingerprint": "0" * 64,
            "split": "held out",
            "value": 0.93,
            "n": 120,
            "seed": 7,
        }
    ],
    "lineage": {
        "parent": {"name": "lab/parent", "version": "0.9.0", "commit": "a" * 40, "digest": "b" * 64},
        "relation": "surgery",
        "new_rows": "best",
        "copied": {"b": "a"},
        "retrained_extensions": True,
    },
    "delta": {
        "path": "delta.safetensors",
        "size": 1000,
        "sha256": "d" * 64,
        "inherited": ["reference.zarr.zip"],
    },
    "signature": {"publisher": "a lab", "key": "e" * 64, "value": "f" * 128},
    "imported_from": {
        "format": "scArches 0.6.1",
        "files": [{"path": "model_params.pt", "sha256": "c" * 64}],
        "lost": ["optimiser state"],
    },
    "intended_use": "Tests.",
    "limitations": "Everything else.",
    "extensions": {"x-lab": {"ticket": 12, "tags": ["a", None, 1.5]}},
}
"""Everything a manifest says that is no matter of its architecture."""

LABELS: list[dict[str, Any]] = [
    {"key": "lineage", "categories": ["lymphoid"], "ontology": {"lymphoid": None}},
    {
        "key": "cell_type",
        "categories": ["T cell", "B cell"],
        "ontology": {"T cell": "CL:0000084", "B cell": None},
        "ontology_release": "2024-01-04",
        "parents": {"T cell": "lymphoid", "B cell": "lymphoid"},
        "unlabelled": "unknown",
        "added_in": {"B cell": "1.1.0"},
        "markers": {"T cell": {"present": ["CD3D", "CD3E"], "absent": ["MS4A1"]}},
        "corrections": [
            {
                "rule": {
                    "given": ["T"],
                    "datasets": ["blood"],
                    "present": ["MS4A1"],
                    "absent": ["CD3D"],
                    "to": "B cell",
                    "reason": "counts of B cells' genes",
                },
                "cells": 12,
                "among": 300,
            }
        ],
    },
]
TRUST: dict[str, Any] = {
    "calibrations": [
        {
            "level": "cell_type",
            "transfer": "average",
            "neighbors": 30,
            "prior": 1.0,
            "temperature": 1.5,
            "sharpness": 1.2,
            "distance_scale": 4.0,
            "unknown_above": 0.4,
            "set_above": 0.2,
            "set_coverage": 0.9,
            "fitted_on": "cells of b",
        }
    ],
    "validated_on": "held-out cells of the reference",
}


NOVELTY = {part: ["genes"] for part in ("mean", "spread", "share", "between")}
NOVELTY |= {"loadings": ["genes", "2"], "scores": ["5", "2"], "ranks": ["2", "3"]}


def batch(encoding: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a batch condition with one category that surgery added."""
    return {
        "key": "batch",
        "role": "batch",
        "categories": ["a", "b"],
        "encoding": encoding,
        "unknown": "error",
        "added_in": {"b": "1.1.0"},
    }


ONE_HOT = {"kind": "one-hot"}
KINDS: dict[str, dict[str, Any]] = {
    "trvae": {
        "architecture": {
            "kind": "trvae",
            "encoder_input": "log1p",
            "hidden": [6, 5],
            "latent": 3,
            "dropout": 0.1,
            "likelihood": "mse",
            "normalization": "batch",
            "mmd": True,
            "mmd_on": "y",
            "mmd_boundary": 1,
            "mmd_weight": 10.0,
        },
        "input": {"kind": "log1p", "target_sum": 10000.0, "layer": "lognorm", "size_factor": None},
        "conditions": [batch(ONE_HOT)],
        "tensors": [{"name": "encoder.0.condition", "dtype": "F32", "shape": ["hidden.0", "conditions.batch"]}],
    },
    "expimap": {
        "architecture": {
            "kind": "expimap",
            "encoder_input": "log1p",
            "hidden": [6],
            "dropout": 0.0,
            "likelihood": "nb",
            "normalization": "none",
            "last_layer": "softmax",
            "soft_mask": True,
            "library_encoder": True,
            "constrained_extensions": 1,
            "unconstrained_extensions": 1,
            "soft_extension_mask": True,
            "hsic": True,
            "hsic_one_vs_all": True,
        },
        "conditions": [batch(ONE_HOT)],
        "terms": [
            {
                "id": "R-HSA-1",
                "name": "a program whose name is longer than thirty letters",
                "source": "Reactome",
                "release": "88",
                "license": "CC0-1.0",
                "genes": ["GAPDH", "CD4"],
                "kind": "annotated",
                "active": False,
                "direction": -1,
            },
            {"id": "new-1", "name": "constrained 1", "genes": ["EEF1A1"], "kind": "constrained", "added_in": "1.1.0"},
            {"id": "new-2", "name": "unconstrained 1", "kind": "unconstrained", "direction": 0, "added_in": "1.1.0"},
        ],
        "tensors": [
            {"name": "decoder.annotated", "dtype": "F32", "shape": ["genes", "terms.annotated"]},
            {"name": "decoder.extended", "dtype": "F32", "shape": ["genes", "terms.constrained+terms.unconstrained"]},
            {"name": "encoder.mean", "dtype": "F32", "shape": ["latent", "hidden.0"]},
        ],
    },
    "scpoli": {
        "architecture": {
            "kind": "scpoli",
            "encoder_input": "log1p",
            "hidden": [5],
            "latent": 3,
            "dropout": 0.0,
            "likelihood": "zinb",
            "normalization": "layer",
            "inject": ["encoder"],
        },
        "input": {"kind": "counts", "layer": "counts", "size_factor": "total"},
        "conditions": [
            batch({"kind": "embedding", "dim": 2, "max_norm": 1.0}),
            {
                "key": "chemistry",
                "role": "covariate",
                "categories": ["v2", "v3"],
                "encoding": {"kind": "embedding", "dim": 3, "max_norm": None},
            },
        ],
        "combinations": [{"values": ["a", "v2"]}, {"values": ["b", "v3"], "added_in": "1.1.0"}],
        "labels": LABELS,
        "prototypes": {
            "levels": [{"level": "cell_type", "means": "prototypes.means", "covariances": "prototypes.covariances"}],
            "unlabelled": 2,
        },
        "trust": TRUST
        | {
            "classifiers": [
                {
                    "level": "cell_type",
                    "weight": "expression.0.weight",
                    "bias": "expression.0.bias",
                    "centre": "expression.0.centre",
                }
            ],
            "novelty": {
                "tensors": {part: f"novelty.{part}" for part in NOVELTY},
                "labels": {"cell_type": "novelty.labels.0"},
                "components": 2,
                "declared": 0.05,
                "typical": 0.02,
                "left_out": "batches",
                "count": 2,
                "false_positives": {"mean": 0.06, "worst": 0.09},
            },
        },
        "test_vectors": {"cells": 2, "tensors": {"input": "test.input"}, "rtol": 1e-3, "atol": 1e-4},
        "tensors": [
            {"name": "theta", "dtype": "F32", "shape": ["genes", "combinations"]},
            {"name": "embeddings", "dtype": "F32", "shape": ["conditions.batch", "embedding.batch"]},
            {"name": "encoder.condition", "dtype": "F32", "shape": ["hidden.0", "embedding"]},
            {"name": "prototypes.means", "dtype": "F64", "shape": ["labels.cell_type", "latent"]},
            {"name": "prototypes.covariances", "dtype": "F32", "shape": ["labels.cell_type", "latent", "latent"]},
            {"name": "prototypes.unlabelled", "dtype": "F32", "shape": ["prototypes.unlabelled", "latent"]},
            {"name": "test.input", "dtype": "I32", "shape": ["test_cells", "genes"]},
            {"name": "expression.0.weight", "dtype": "F32", "shape": ["2", "genes"]},
            {"name": "expression.0.bias", "dtype": "F32", "shape": ["2"]},
            {"name": "expression.0.centre", "dtype": "F32", "shape": ["genes"]},
            *({"name": f"novelty.{part}", "dtype": "F32", "shape": shape} for part, shape in NOVELTY.items()),
            {"name": "novelty.labels.0", "dtype": "I64", "shape": ["5"]},
        ],
    },
    "scvi": {
        "architecture": {
            "kind": "scvi",
            "encoder_input": "log1p",
            "hidden": 6,
            "layers": 2,
            "latent": 3,
            "dropout": 0.0,
            "dispersion": "gene-batch",
            "likelihood": "poisson",
            "encode_covariates": True,
            "deeply_inject_covariates": False,
            "use_observed_library_size": False,
            "layer_norm": "both",
            "batch_norm": "none",
            "log1p_input": False,
            "latent_distribution": "ln",
        },
        "conditions": [batch({"kind": "embedding", "dim": 2, "max_norm": None})],
        "covariates": {
            "categorical": [{"key": "donor", "role": "donor", "categories": ["x", "y"], "encoding": ONE_HOT}],
            "continuous": ["percent_mito"],
        },
        "tensors": [
            {"name": "encoder.0", "dtype": "F32", "shape": ["hidden.0", "genes+categorical.donor+continuous+1"]},
            {"name": "seen", "dtype": "BOOL", "shape": ["conditions.batch"]},
        ],
    },
    "scanvi": {
        "architecture": {
            "kind": "scanvi",
            "encoder_input": "log1p",
            "hidden": 6,
            "layers": 1,
            "latent": 3,
            "dropout": 0.0,
            "dispersion": "gene-label",
            "likelihood": "zinb",
            "encode_covariates": True,
            "deeply_inject_covariates": True,
            "use_observed_library_size": True,
            "layer_norm": "none",
            "batch_norm": "both",
            "log1p_input": True,
            "latent_distribution": "normal",
            "linear_classifier": True,
            "classifier_hidden": 4,
            "classifier_layers": 2,
            "classifier_dropout": 0.2,
            "classifier_logits": False,
        },
        "conditions": [batch(ONE_HOT)],
        "labels": LABELS,
        "trust": TRUST,
        "tensors": [
            {"name": "classifier", "dtype": "F32", "shape": ["labels.cell_type", "latent"]},
            {"name": "steps", "dtype": "I64", "shape": []},
        ],
    },
    "totalvi": {
        "architecture": {
            "kind": "totalvi",
            "latent": 3,
            "hidden": 6,
            "encoder_layers": 1,
            "decoder_layers": 2,
            "encoder_dropout": 0.0,
            "decoder_dropout": 0.0,
            "gene_dispersion": "gene-batch",
            "protein_dispersion": "protein-batch",
            "gene_likelihood": "zinb",
            "latent_distribution": "ln",
            "encode_covariates": False,
            "use_observed_library_size": False,
            "layer_norm": "both",
            "batch_norm": "none",
            "log1p_input": False,
            "empirical_protein_background_prior": True,
            "background_activation": "exp",
        },
        "conditions": [batch(ONE_HOT)],
        "proteins": {"panel": ["CD3", "CD19"], "measured": {"b": ["CD3"]}, "source": "prot"},
        "tensors": [
            {"name": "gene_means", "dtype": "F32", "shape": ["genes"]},
            {"name": "background", "dtype": "F32", "shape": ["proteins", "conditions.batch"]},
        ],
        "genes": {
            "id_type": "ensembl",
            "panel": [{"id": id_, "symbol": symbol} for id_, symbol in GENES],
            "coverage_warn": 0.9,
            "coverage_refuse": 0.6,
            "missing": "mean",
            "duplicates": "sum",
        },
    },
}
"""Kind to the fields of an example of it that fills every field the kind has."""


def of_kind(kind: str, **overrides: Any) -> Manifest:
    """Return a manifest of this architecture that fills every field the architecture has."""
    return Manifest.model_validate(fields_of_kind(kind) | overrides)


def fields_of_kind(kind: str) -> dict[str, Any]:
    """Return the JSON fields of :func:`of_kind`."""
    common = {"schema_version": "1.1", "name": f"example-{kind}", "version": "1.1.0", "genes": fields()["genes"]}
    return common | DESCRIBED | KINDS[kind]
