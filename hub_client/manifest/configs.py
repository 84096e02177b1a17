"""Hyperparameters of the six architectures, each default stated once: the tagged union on ``kind``."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from hub_client.manifest._frozen import Frozen

Normalization = Literal["layer", "batch", "none"]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Hidden = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]


class TrVAE(Frozen):
    """Conditional VAE with an MMD penalty between conditions (Lotfollahi 2020, doi 10.1093/bioinformatics/btaa800)."""

    kind: Literal["trvae"] = "trvae"
    hidden: Hidden = (256, 64)
    """Widths of the encoder's hidden layers; the decoder has them reversed."""
    latent: PositiveInt = 10
    dropout: Fraction = 0.05
    likelihood: Literal["nb", "zinb", "mse"] = "nb"
    normalization: Normalization = "layer"
    mmd: bool = True
    mmd_on: Literal["z", "y"] = "z"
    """Where conditions are pulled together: on the latent (z) or on the decoder's first layer (y)."""
    mmd_boundary: PositiveInt | None = None
    """Compare only conditions before this index with those from it on; None compares all pairs."""
    mmd_weight: Annotated[float, Field(ge=0)] = 1.0


class ExpiMap(Frozen):
    """VAE whose decoder is a linear map masked by gene programs (Lotfollahi 2023, doi 10.1038/s41556-022-01072-x)."""

    kind: Literal["expimap"] = "expimap"
    hidden: Hidden = (256, 256)
    dropout: Fraction = 0.05
    likelihood: Literal["nb", "mse"] = "nb"
    normalization: Normalization = "layer"
    last_layer: Literal["softmax", "softplus", "exp", "relu", "identity"] | None = None
    """What makes a mean of the decoder's linear map; None is softmax, times the size factor, for nb and identity for
    mse."""
    soft_mask: bool = False
    """Genes outside a program may get a weight, under an L1 penalty."""
    library_encoder: bool = False
    """Infer each cell's size factor instead of using its total counts; for softmax."""
    constrained_extensions: Annotated[int, Field(ge=0)] = 0
    """How many terms with genes there are beyond the annotated ones."""
    unconstrained_extensions: Annotated[int, Field(ge=0)] = 0
    """How many terms there are that may use every gene."""
    soft_extension_mask: bool = False
    """As ``soft_mask``, for constrained extensions."""
    hsic: bool = False
    """Keep unconstrained extensions independent of the other terms, by a penalty."""
    hsic_one_vs_all: bool = False
    """Compare each unconstrained extension with all other terms, instead of all of them at once with the rest."""

    @property
    def mean_layer(self) -> str:
        """The last layer, its default filled in."""
        return self.last_layer or ("identity" if self.likelihood == "mse" else "softmax")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.likelihood == "mse" and self.mean_layer == "softmax":
            raise ValueError("last_layer softmax gives shares of counts, and mse models read log1p counts")
        if self.likelihood == "nb" and self.mean_layer == "identity":
            raise ValueError("last_layer identity gives negative means, and nb needs expected counts")
        if self.library_encoder and self.mean_layer != "softmax":
            raise ValueError("library_encoder infers a size factor, which only last_layer softmax is multiplied by")
        return self


class ScPoli(Frozen):
    """Conditional VAE with condition embeddings and label prototypes.

    De Donno 2023, doi 10.1038/s41592-023-02035-2.
    """

    kind: Literal["scpoli"] = "scpoli"
    hidden: Hidden = (128,)
    """Widths of the encoder's hidden layers; the decoder has them reversed."""
    latent: PositiveInt = 16
    dropout: Fraction = 0.05
    likelihood: Literal["nb", "zinb", "mse", "poisson"] = "nb"
    normalization: Normalization = "layer"
    inject: Annotated[tuple[Literal["encoder", "decoder"], ...], Field(min_length=1)] = ("encoder", "decoder")
    """Which networks are given the condition embeddings."""


class _ScviTools(Frozen):
    hidden: PositiveInt = 128
    layers: PositiveInt = 1
    dropout: Fraction = 0.1
    dispersion: Literal["gene", "gene-batch", "gene-label", "gene-cell"] = "gene"
    likelihood: Literal["zinb", "nb", "poisson", "normal"] = "zinb"
    encode_covariates: bool = False
    deeply_inject_covariates: bool = True
    use_observed_library_size: bool = True
    layer_norm: Literal["encoder", "decoder", "none", "both"] = "none"
    batch_norm: Literal["encoder", "decoder", "none", "both"] = "both"
    log1p_input: bool = True
    """The encoder reads log1p counts, not counts."""


class Scvi(_ScviTools):
    """scVI (Lopez 2018, doi 10.1038/s41592-018-0229-2), through scvi-tools."""

    kind: Literal["scvi"] = "scvi"
    latent: PositiveInt = 10
    latent_distribution: Literal["normal", "ln"] = "normal"


class Scanvi(_ScviTools):
    """scANVI (Xu 2021, doi 10.15252/msb.20209620), through scvi-tools."""

    kind: Literal["scanvi"] = "scanvi"
    latent: PositiveInt = 10
    latent_distribution: Literal["normal", "ln"] = "normal"
    linear_classifier: bool = False
    classifier_hidden: PositiveInt | None = None
    """Width of the classifier's hidden layers; None is ``hidden``."""
    classifier_layers: PositiveInt | None = None
    """None is ``layers``; a linear classifier has none."""
    classifier_dropout: Fraction | None = None
    """None is ``dropout``."""
    classifier_logits: bool = True
    """Whether the classifier ends in logits; in models from before scvi-tools 1.1 it ends in probabilities."""


class TotalVi(Frozen):
    """TotalVI (Gayoso 2021, doi 10.1038/s41592-020-01050-x), through scvi-tools."""

    kind: Literal["totalvi"] = "totalvi"
    latent: PositiveInt = 20
    hidden: PositiveInt = 256
    encoder_layers: PositiveInt = 2
    decoder_layers: PositiveInt = 1
    encoder_dropout: Fraction = 0.2
    decoder_dropout: Fraction = 0.2
    gene_dispersion: Literal["gene", "gene-batch", "gene-label"] = "gene"
    protein_dispersion: Literal["protein", "protein-batch", "protein-label"] = "protein"
    gene_likelihood: Literal["nb", "zinb"] = "nb"
    latent_distribution: Literal["normal", "ln"] = "normal"
    encode_covariates: bool = True
    use_observed_library_size: bool = True
    layer_norm: Literal["encoder", "decoder", "none", "both"] = "none"
    batch_norm: Literal["encoder", "decoder", "none", "both"] = "both"
    log1p_input: bool = True
    """The encoder reads log1p counts of genes and proteins, not counts."""
    empirical_protein_background_prior: bool | None = None
    """Whether training starts from a protein background that mixtures fitted to each batch say; None does so for more
    than 10 proteins."""
    background_activation: Literal["softplus", "exp"] = "softplus"
    """What makes the protein background's scale positive; in models from before scvi-tools 1.2 it is exp."""


ArchitectureConfig = Annotated[
    TrVAE | ExpiMap | ScPoli | Scvi | Scanvi | TotalVi,
    Field(discriminator="kind"),
]
