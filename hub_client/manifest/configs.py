"""Each kind of architecture: its hyperparameters, their defaults, and what is known of it; the union on ``kind``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import (
    ConfigDict,
    Field,
    PositiveInt,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from hub_client import errors
from hub_client.manifest._frozen import Frozen, as_before

Normalization = Literal["layer", "batch", "none"]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Hidden = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
Part = Literal["terms", "proteins", "prototypes", "classifier"]
EncoderInput = Literal["log1p", "centred"]
"""What an encoder reads of each cell. ``log1p``: log1p of its counts, as scArches. ``centred``: log1p of its counts per
ten thousand of its size factor, less the mean of each gene over the reference's cells, so that neither depth nor what
all cells have in common takes up the latent. Models of log1p values read the values themselves, or centred."""


class KindConfig(Frozen, ABC):
    """Hyperparameters of one kind of architecture, and the facts that hold for every model of the kind."""

    kind: str
    title: ClassVar[str]
    """What the architecture is called."""
    doi: ClassVar[str]
    """The paper to cite for it."""
    encoding: ClassVar[Literal["one-hot", "embedding"] | None] = None
    """How it encodes every condition; None takes both ways."""
    parts: ClassVar[frozenset[Part]] = frozenset()
    """What its models have that others have not: gene programs (``terms``), ``proteins``, ``prototypes`` of labels, or
    a ``classifier`` of its own."""
    grown: ClassVar[frozenset[str]] = frozenset()
    """The hyperparameters that surgery changes."""
    package: ClassVar[str | None] = None
    """The package whose model it is, which training records the version of; None for our own."""

    recommended: ClassVar[Mapping[str, Any]] = {}
    """The hyperparameters that :func:`hub_client.recommended` has otherwise than their defaults, which are 1.0's."""
    recommended_small: ClassVar[Mapping[str, Any]] = {}
    """Those that it has otherwise again for a reference of few cells."""
    recommended_plan: ClassVar[Mapping[str, Any]] = {"steps": 2000}
    """What it has of the plan for a new reference, beside what all kinds share."""
    recommended_small_plan: ClassVar[Mapping[str, Any]] = {}
    """What of the plan it has otherwise for a reference of few cells."""

    @abstractmethod
    def axes(self) -> dict[str, int]:
        """Return the lengths of the axes that follow from the hyperparameters: ``hidden.<i>``, ``latent``."""

    @model_serializer(mode="wrap")
    def _as_before(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what came later and is as it was before: files of earlier formats keep their bytes."""
        return as_before(fields(self), LATER)

    @property
    def extensions(self) -> Mapping[str, int]:
        """How many terms there are of each kind beyond the annotated ones."""
        return {}

    @property
    def starts_from(self) -> KindConfig | None:
        """The architecture whose trained weights a model of this kind can start from."""
        return None

    def with_classifier(self, *, linear: bool) -> KindConfig:
        """Return the hyperparameters of a model with a classifier that starts from a trained one of this kind.

        Raises
        ------
        Unsupported
            If none starts from this kind.
        """
        raise errors.Unsupported(f"a scANVI starts from a scVI, not from {self.kind}.", kind=self.kind, verb="scanvi")

    def extended(
        self, *, constrained: int, unconstrained: int, soft: bool, hsic: bool, hsic_one_vs_all: bool
    ) -> KindConfig:
        """Return the hyperparameters with so many terms more, and how training treats them.

        Raises
        ------
        Unsupported
            If models of this kind have no terms.
        InvalidInput
            If the masks of new terms are not those of the terms that surgery added before.
        """
        raise self.without("terms", "gene programs, so none can be added", verb="surgery with extensions")

    def without(self, part: Part, what: str, *, verb: str) -> errors.Unsupported:
        """Return the error of asking models of this kind for what others have."""
        owners = errors.names([CONFIGS[kind].title for kind in having(part)])
        return errors.Unsupported(f"{self.kind} has no {what}; {owners} has.", kind=self.kind, verb=verb)

    def foreign(self, package: str, *, verb: str) -> errors.Unsupported:
        """Return the error of asking models of this kind for what a package's models are."""
        owners = errors.names([kind for kind, config in CONFIGS.items() if config.package == package])
        message = f"{self.kind} is no model of {package}; these are {owners}."
        return errors.Unsupported(message, kind=self.kind, verb=verb)


LATER: Mapping[str, Any] = {"encoder_input": "log1p"}
"""The hyperparameters that came after format 1.0, and what models from before them compute."""


def widths(hidden: tuple[int, ...]) -> dict[str, int]:
    """Return the axes of hidden layers, ``hidden.<i>``."""
    return {f"hidden.{index}": width for index, width in enumerate(hidden)}


class TrVAEConfig(KindConfig):
    """Conditional VAE with an MMD penalty between conditions (Lotfollahi 2020, doi 10.1093/bioinformatics/btaa800)."""

    model_config = ConfigDict(title="TrVAE")
    title = "trVAE"
    doi = "10.1093/bioinformatics/btaa800"
    encoding = "one-hot"
    recommended = {"encoder_input": "centred", "latent": 16, "dropout": 0.1}
    recommended_plan = {"steps": 2000, "gene_dropout": 0.3}
    kind: Literal["trvae"] = "trvae"
    hidden: Hidden = (256, 64)
    """Widths of the encoder's hidden layers; the decoder has them reversed."""
    latent: PositiveInt = 10
    dropout: Fraction = 0.05
    likelihood: Literal["nb", "zinb", "mse"] = "nb"
    normalization: Normalization = "layer"
    encoder_input: EncoderInput = "log1p"
    mmd: bool = True
    mmd_on: Literal["z", "y"] = "z"
    """Where conditions are pulled together: on the latent (z) or on the decoder's first layer (y)."""
    mmd_boundary: PositiveInt | None = None
    """Compare only conditions before this index with those from it on; None compares all pairs."""
    mmd_weight: Annotated[float, Field(ge=0)] = 1.0

    def axes(self) -> dict[str, int]:
        """Return the lengths of the hidden layers and of the latent."""
        return widths(self.hidden) | {"latent": self.latent}


class ExpiMapConfig(KindConfig):
    """VAE whose decoder is a linear map masked by gene programs (Lotfollahi 2023, doi 10.1038/s41556-022-01072-x)."""

    model_config = ConfigDict(title="ExpiMap")
    title = "expiMap"
    doi = "10.1038/s41556-022-01072-x"
    encoding = "one-hot"
    parts = frozenset({"terms"})
    grown = frozenset(
        {"constrained_extensions", "unconstrained_extensions", "soft_extension_mask", "hsic", "hsic_one_vs_all"}
    )
    kind: Literal["expimap"] = "expimap"
    hidden: Hidden = (256, 256)
    dropout: Fraction = 0.05
    likelihood: Literal["nb", "mse"] = "nb"
    normalization: Normalization = "layer"
    encoder_input: EncoderInput = "log1p"
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

    def axes(self) -> dict[str, int]:
        """Return the lengths of the hidden layers; the latent has a dimension for each of the manifest's terms."""
        return widths(self.hidden)

    @property
    def extensions(self) -> Mapping[str, int]:
        """How many terms there are of each kind beyond the annotated ones."""
        return {"constrained": self.constrained_extensions, "unconstrained": self.unconstrained_extensions}

    def extended(
        self, *, constrained: int, unconstrained: int, soft: bool, hsic: bool, hsic_one_vs_all: bool
    ) -> KindConfig:
        """Return the hyperparameters with so many terms more, and how training treats them."""
        if constrained and self.constrained_extensions and self.soft_extension_mask != soft:
            raise errors.InvalidInput(
                f"soft is {soft}, and the reference's {self.constrained_extensions} constrained extensions "
                f"have {'soft' if self.soft_extension_mask else 'hard'} masks; add terms with the same.",
                facts={"soft": soft},
            )
        changed = {
            "constrained_extensions": self.constrained_extensions + constrained,
            "unconstrained_extensions": self.unconstrained_extensions + unconstrained,
            "soft_extension_mask": soft if constrained else self.soft_extension_mask,
            "hsic": hsic,
            "hsic_one_vs_all": hsic_one_vs_all,
        }
        return self.model_copy(update=changed)

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
        if self.library_encoder and self.encoder_input == "centred":
            raise ValueError("library_encoder infers depth of what the encoder reads, which centred input hides")
        return self


class ScPoliConfig(KindConfig):
    """Conditional VAE with condition embeddings and label prototypes.

    De Donno 2023, doi 10.1038/s41592-023-02035-2.
    """

    model_config = ConfigDict(title="ScPoli")
    title = "scPoli"
    doi = "10.1038/s41592-023-02035-2"
    encoding = "embedding"
    parts = frozenset({"prototypes"})
    recommended = {"encoder_input": "centred", "hidden": (128,), "latent": 10, "dropout": 0.1}
    recommended_plan = {
        "steps": 2000,
        "gene_dropout": 0.5,
        "pretraining_epochs": 20,
        "prototype_weight": 5.0,
        "contrast_weight": 100.0,
        "label_smoothing": 0.1,
    }
    recommended_small_plan = {"gene_dropout": 0.0}
    kind: Literal["scpoli"] = "scpoli"
    hidden: Hidden = (128,)
    """Widths of the encoder's hidden layers; the decoder has them reversed."""
    latent: PositiveInt = 16
    dropout: Fraction = 0.05
    likelihood: Literal["nb", "zinb", "mse", "poisson"] = "nb"
    normalization: Normalization = "layer"
    encoder_input: EncoderInput = "log1p"
    inject: Annotated[tuple[Literal["encoder", "decoder"], ...], Field(min_length=1)] = ("encoder", "decoder")
    """Which networks are given the condition embeddings."""

    def axes(self) -> dict[str, int]:
        """Return the lengths of the hidden layers and of the latent."""
        return widths(self.hidden) | {"latent": self.latent}


class _ScviTools(KindConfig):
    package = "scvi-tools"
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
    encoder_input: EncoderInput = "log1p"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.encoder_input == "centred" and not self.log1p_input:
            raise ValueError("encoder_input centred centres log1p counts, and log1p_input is false")
        if self.encoder_input == "centred" and not self.use_observed_library_size:
            raise ValueError("encoder_input centred hides depth, which use_observed_library_size false infers of it")
        return self


class ScVIConfig(_ScviTools):
    """scVI (Lopez 2018, doi 10.1038/s41592-018-0229-2), through scvi-tools."""

    model_config = ConfigDict(title="Scvi")
    title = "scVI"
    doi = "10.1038/s41592-018-0229-2"
    recommended = {"likelihood": "nb"}
    kind: Literal["scvi"] = "scvi"
    latent: PositiveInt = 10
    latent_distribution: Literal["normal", "ln"] = "normal"

    def axes(self) -> dict[str, int]:
        """Return the lengths of the hidden layers and of the latent."""
        return widths((self.hidden,)) | {"latent": self.latent}

    def with_classifier(self, *, linear: bool) -> KindConfig:
        """Return the hyperparameters of the scANVI that starts from a trained model of these."""
        return ScANVIConfig.model_validate(self.model_dump() | {"kind": "scanvi", "linear_classifier": linear})


class ScANVIConfig(_ScviTools):
    """scANVI (Xu 2021, doi 10.15252/msb.20209620), through scvi-tools."""

    model_config = ConfigDict(title="Scanvi")
    title = "scANVI"
    doi = "10.15252/msb.20209620"
    parts = frozenset({"classifier"})
    recommended = {"likelihood": "nb"}
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

    def axes(self) -> dict[str, int]:
        """Return the lengths of the hidden layers, the classifier's too, and of the latent."""
        own = {"classifier": self.classifier_hidden or self.hidden}
        return widths((self.hidden,)) | own | {"latent": self.latent}

    @property
    def starts_from(self) -> KindConfig | None:
        """The scVI with the same encoder and decoder."""
        shared = self.model_dump(include=set(ScVIConfig.model_fields))
        return ScVIConfig.model_validate(shared | {"kind": "scvi"})


class TotalVIConfig(KindConfig):
    """TotalVI (Gayoso 2021, doi 10.1038/s41592-020-01050-x), through scvi-tools."""

    model_config = ConfigDict(title="TotalVi")
    title = "totalVI"
    doi = "10.1038/s41592-020-01050-x"
    parts = frozenset({"proteins"})
    package = "scvi-tools"
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

    @property
    def likelihood(self) -> str:
        """What the genes' counts follow."""
        return self.gene_likelihood

    @property
    def encoder_input(self) -> EncoderInput:
        """What the encoder reads of genes: log1p counts, as it reads proteins."""
        return "log1p"

    def axes(self) -> dict[str, int]:
        """Return the lengths of the hidden layers and of the latent."""
        return widths((self.hidden,)) | {"latent": self.latent}


ArchitectureConfig = Annotated[
    TrVAEConfig | ExpiMapConfig | ScPoliConfig | ScVIConfig | ScANVIConfig | TotalVIConfig,
    Field(discriminator="kind"),
]
CONFIGS: Mapping[str, type[KindConfig]] = {
    config.model_fields["kind"].default: config for config in get_args(get_args(ArchitectureConfig)[0])
}
"""Every kind's class, by the kind's name."""


def having(part: Part) -> list[str]:
    """Return the kinds whose models have a part that others have not."""
    return [kind for kind, config in CONFIGS.items() if part in config.parts]
