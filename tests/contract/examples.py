"""One small model of each architecture of the table, and the variants whose code differs."""

from __future__ import annotations

from functools import cache

from hub_client.labels.atlas import with_atlas
from hub_client.labels.predict import predictable
from hub_client.manifest.plan import Plan
from hub_client.manifest.v1 import Manifest
from hub_client.models.architectures import ARCHITECTURES
from hub_client.models.model import Model
from hub_client.models.train import train
from tests.simulated import cells_for, manifest

VARIANTS: dict[str, Manifest] = {
    "scpoli-two-conditions": manifest(conditions=("batch", "tech"), levels=("cell_type", "cell_class")),
    "scpoli-zinb-batch-norm": manifest(likelihood="zinb", normalization="batch"),
    "scpoli-mse-no-norm": manifest(likelihood="mse", normalization="none", inject=("encoder",)),
    "scpoli-poisson-deep": manifest(likelihood="poisson", hidden=(16, 8), inject=("decoder",), levels=()),
    "trvae-zinb-y-batch-norm": manifest("trvae", likelihood="zinb", mmd_on="y", normalization="batch", hidden=(16, 8)),
    "trvae-mse-boundary-no-norm": manifest("trvae", likelihood="mse", mmd_boundary=1, normalization="none"),
    "expimap-soft-library-batch-norm": manifest(
        "expimap", soft_mask=True, library_encoder=True, normalization="batch", hidden=(16, 8)
    ),
    "expimap-mse-no-norm": manifest("expimap", likelihood="mse", normalization="none"),
    "expimap-extensions-hsic": manifest("expimap", constrained=1, unconstrained=2, hsic=True, last_layer="softplus"),
    "scvi-covariates-encoded": manifest(
        "scvi", categorical=("tech",), continuous=("age",), encode_covariates=True, layers=2, likelihood="nb"
    ),
    "scvi-gene-batch-poisson-libraries": manifest(
        "scvi", dispersion="gene-batch", likelihood="poisson", use_observed_library_size=False, layer_norm="both"
    ),
    "scvi-embedded-size-factor-logistic": manifest(
        "scvi",
        encoding={"kind": "embedding", "dim": 3, "max_norm": None},
        categorical=("tech",),
        encode_covariates=True,
        deeply_inject_covariates=False,
        layers=2,
        dispersion="gene-batch",
        likelihood="nb",
        latent_distribution="ln",
        batch_norm="none",
        size_factor="depth",
    ),
    "scanvi-covariates-linear": manifest(
        "scanvi",
        categorical=("tech",),
        encode_covariates=True,
        likelihood="nb",
        linear_classifier=True,
    ),
    "totalvi-covariates-dispersions": manifest(
        "totalvi",
        categorical=("tech",),
        continuous=("age",),
        gene_dispersion="gene-batch",
        protein_dispersion="protein-batch",
        gene_likelihood="zinb",
        encoder_layers=1,
        use_observed_library_size=False,
        empirical_protein_background_prior=False,
    ),
}
EXAMPLES = {kind: manifest(kind) for kind in ARCHITECTURES} | VARIANTS
SHORT = Plan(epochs=3, batch_size=64, kl_anneal_epochs=0)


def untrained(example: str, *, seed: int = 0) -> Model:
    """Return a model of an example nobody has trained."""
    return Model.build(EXAMPLES[example], seed=seed)


@cache
def trained(example: str) -> Model:
    """Return an example trained for a few epochs, with an atlas if it has no classifier; callers must not train it."""
    model = untrained(example)
    cells = cells_for(model.manifest)
    train(model, cells, plan=SHORT, progress=False, accelerator="cpu")
    return model if predictable(model) else with_atlas(model, cells)
