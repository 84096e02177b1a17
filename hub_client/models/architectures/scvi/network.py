"""scVI, scANVI and totalVI: scvi-tools' own modules, built from the manifest, with weights that know their axes.

Lopez, Regier, Cole, Jordan and Yosef, "Deep generative modeling for single-cell transcriptomics", Nature Methods 15
(2018), doi 10.1038/s41592-018-0229-2. Xu, Lopez, Mehlman, Regier, Jordan and Yosef, "Probabilistic harmonization and
annotation of single-cell transcriptomics data with deep generative models", Molecular Systems Biology 17 (2021), doi
10.15252/msb.20209620. Gayoso, Steier, Lopez et al., "Joint probabilistic modeling of single-cell multi-omic data with
totalVI", Nature Methods 18 (2021), doi 10.1038/s41592-020-01050-x.

What they compute, and their losses, are scvi-tools' (1.4). Where this differs on purpose:

- The weights of each category are rows of a table (:mod:`hub_client.nn.injected`). Surgery adds rows where the axis is,
  and trains those rows and nothing else, so that reference cells stay where they were to the bit. scvi-tools appends
  columns behind all keys', trains old ones too, and moves the running statistics of batch normalisation.
- Validation losses are computed under the same noise in every epoch.
- Logistic-normal latents are told by the mean of the normal, before the softmax; scvi-tools averages random draws.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from typing import Any, ClassVar, Final, Literal, NamedTuple, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrize

from hub_client import errors
from hub_client.data.batches import Batch, Batches
from hub_client.data.cells import Cells
from hub_client.data.proteins import lacking, measured
from hub_client.data.threads import same_threads
from hub_client.data.vocabulary import Axis as Names
from hub_client.data.vocabulary import Vocabulary
from hub_client.manifest.configs import Scanvi, Scvi, TotalVi
from hub_client.manifest.plan import Plan
from hub_client.manifest.v1 import Condition, Embedding, Manifest, Proteins, TensorSpec
from hub_client.models.architectures._base import Array, Scores, Start
from hub_client.models.architectures._vae import drawn, kl_weight, padded
from hub_client.models.architectures.scvi import likelihood
from hub_client.nn.injected import Categories, InjectedLayers, Parts, divide, parts
from hub_client.nn.layers import Axis, GrowingTable, tensor_axes
from hub_client.nn.training import History, Runtime, Split, run

Config = Scvi | Scanvi | TotalVi
KNOWN = ("1.4",)
"""The minor versions of scvi-tools whose modules are known. To know another one, add it here, run the tests of this
file and the contract suite with it, and correct the tables below where its modules differ."""
BATCH: Final = "batch"
LABEL: Final = "label"
NOISE_SEED = 0
"""Of the noise under which losses are compared: those of validation cells, and those of conditions that are tried."""


# --- scvi-tools ------------------------------------------------------------------------------------------------------


def check_version(installed: str) -> None:
    """Refuse a version of scvi-tools whose modules are not known.

    Raises
    ------
    Unsupported
        If it is none of ``KNOWN``.
    """
    if ".".join(installed.split(".")[:2]) not in KNOWN:
        newest = KNOWN[-1]
        raise errors.Unsupported(
            f"scvi-tools {installed} is installed, and this version of archzoo knows {errors.names(KNOWN)}: install "
            f"one of these, as in pip install 'scvi-tools=={newest}.*', or an archzoo that knows {installed}.",
            kind=f"scvi-tools {installed}",
            verb="build",
        )


def scvi_tools() -> Any:
    """Return the package ``scvi``; to import it changes settings of PyTorch, which are put back.

    Raises
    ------
    Unsupported
        If its version is not known.
    """
    check_version(version("scvi-tools"))
    benchmark = torch.backends.cudnn.benchmark
    with same_threads():
        import scvi
    torch.backends.cudnn.benchmark = benchmark
    return scvi


# --- what modules are made of: tables --------------------------------------------------------------------------------


class Stack(NamedTuple):
    """Fully connected layers: the axes they read, which categories they are told besides, and what they give."""

    inputs: tuple[str, ...]
    told: Literal["encoder", "decoder", "label", "nothing"]
    outputs: str = "hidden.0"
    hidden: str = "hidden.0"


class PerCategory(NamedTuple):
    """A tensor with an entry for each batch or label.

    Attributes
    ----------
    name
        Where it is in the module.
    other
        Its other axis, ``"1"`` if that is of length one; None if it has no other.
    per
        What it has entries for.
    dim
        The dimension they are along.
    trained
        Whether training moves it.
    """

    name: str
    other: str | None
    per: Literal["batch", "label"]
    dim: int
    trained: bool = True


Generative = Callable[[Any, Batch, Mapping[str, Tensor], Mapping[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Kind:
    """One of scvi-tools' models.

    Attributes
    ----------
    module, model
        Names of its classes in ``scvi.module`` and ``scvi.model``.
    parameters
        scvi-tools' parameter to the config's field.
    nested
        The same for parameters in keyword dictionaries, by the dictionary's name.
    sizes
        The parameters of its module that follow from the manifest's axes.
    stacks, dense
        Where its fully connected layers are; where its linear maps are, and the axes of their outputs and inputs.
    per_category
        Its tensors with an entry for each batch or label.
    initial
        As ``parameters``, for those of its model alone, which say how training starts.
    generative
        What its losses are computed of: module, minibatch, the same as scvi-tools reads it, and what was inferred.
    classifier
        Whether it has a classifier of its own.
    """

    module: str
    model: str
    parameters: Mapping[str, str]
    nested: Mapping[str, Mapping[str, str]]
    sizes: Callable[[Manifest], dict[str, Any]]
    stacks: Mapping[str, Stack]
    dense: Mapping[str, tuple[str, str]]
    per_category: Callable[[Manifest], list[PerCategory]]
    initial: Mapping[str, str] = field(default_factory=dict)
    generative: Generative = likelihood.whole
    classifier: bool = False


def batch_key(manifest: Manifest) -> Condition | None:
    """Return the condition that is scvi-tools' batch."""
    return manifest.conditions[0] if manifest.conditions else None


def embedded(manifest: Manifest) -> Embedding | None:
    """Return how batches are embedded; None where they are one-hot."""
    batch = batch_key(manifest)
    return batch.encoding if batch and isinstance(batch.encoding, Embedding) else None


def _shared_sizes(manifest: Manifest) -> dict[str, Any]:
    batch, covariates = batch_key(manifest), manifest.covariates
    batches = len(batch.categories) if batch else 1
    return {
        "n_batch": batches,
        "n_labels": len(manifest.labels[0].categories) if manifest.labels else 1,
        "n_continuous_cov": len(covariates.continuous),
        "n_cats_per_cov": [len(key.categories) for key in covariates.categorical] or None,
        "use_size_factor_key": manifest.input.size_factor is not None,
        "library_log_means": np.zeros((1, batches)),
        "library_log_vars": np.ones((1, batches)),
    }


def _vae_sizes(manifest: Manifest) -> dict[str, Any]:
    return {"n_input": len(manifest.genes.panel)} | _shared_sizes(manifest)


def _dispersed(name: str, dispersion: str, other: str) -> list[PerCategory]:
    """Return a dispersion's entry where it is one for each batch or label, as in ``gene-batch``."""
    per = dispersion.partition("-")[2]
    return [PerCategory(name, other, cast(Any, per), dim=1)] if per in (BATCH, LABEL) else []


def _libraries(manifest: Manifest) -> list[PerCategory]:
    config = cast(Config, manifest.architecture)
    if config.use_observed_library_size or manifest.input.size_factor is not None:
        return []
    names = ("library_log_means", "library_log_vars")
    return [PerCategory(name, "1", BATCH, dim=1, trained=False) for name in names]


def _vae_per_category(manifest: Manifest) -> list[PerCategory]:
    config = cast(Scvi | Scanvi, manifest.architecture)
    return [*_dispersed("px_r", config.dispersion, "genes"), *_libraries(manifest)]


VAE_PARAMETERS = {
    "n_latent": "latent",
    "n_hidden": "hidden",
    "n_layers": "layers",
    "dropout_rate": "dropout",
    "dispersion": "dispersion",
    "gene_likelihood": "likelihood",
    "latent_distribution": "latent_distribution",
    "encode_covariates": "encode_covariates",
    "deeply_inject_covariates": "deeply_inject_covariates",
    "use_observed_lib_size": "use_observed_library_size",
    "use_layer_norm": "layer_norm",
    "use_batch_norm": "batch_norm",
    "log_variational": "log1p_input",
}
VAE_STACKS = {
    "z_encoder.encoder": Stack(("genes",), "encoder"),
    "l_encoder.encoder": Stack(("genes",), "encoder"),
    "decoder.px_decoder": Stack(("latent",), "decoder"),
}
VAE_DENSE = {
    "z_encoder.mean_encoder": ("latent", "hidden.0"),
    "z_encoder.var_encoder": ("latent", "hidden.0"),
    "l_encoder.mean_encoder": ("1", "hidden.0"),
    "l_encoder.var_encoder": ("1", "hidden.0"),
    "decoder.px_scale_decoder.0": ("genes", "hidden.0"),
    "decoder.px_r_decoder": ("genes", "hidden.0"),
    "decoder.px_dropout_decoder": ("genes", "hidden.0"),
}
CLASSIFIER_PARAMETERS = {
    "n_layers": "classifier_layers",
    "n_hidden": "classifier_hidden",
    "dropout_rate": "classifier_dropout",
    "logits": "classifier_logits",
}
SCANVAE_STACKS = VAE_STACKS | {
    "encoder_z2_z1.encoder": Stack(("latent",), "label"),
    "decoder_z1_z2.decoder": Stack(("latent",), "label"),
    "classifier.classifier.0": Stack(("latent",), "nothing", "classifier", "classifier"),
}
SCANVAE_DENSE = VAE_DENSE | {
    "encoder_z2_z1.mean_encoder": ("latent", "hidden.0"),
    "encoder_z2_z1.var_encoder": ("latent", "hidden.0"),
    "decoder_z1_z2.mean_decoder": ("latent", "hidden.0"),
    "decoder_z1_z2.var_decoder": ("latent", "hidden.0"),
}


def _scanvae_per_category(manifest: Manifest) -> list[PerCategory]:
    """Return also the prior of the labels and the classifier's last map, which is its only one if it is linear."""
    hidden = _classifier_layers(cast(Scanvi, manifest.architecture)) > 0
    last = f"classifier.classifier.{int(hidden)}"
    return [
        *_vae_per_category(manifest),
        PerCategory("y_prior", "1", LABEL, dim=1, trained=False),
        PerCategory(f"{last}.weight", "classifier" if hidden else "latent", LABEL, dim=0),
        PerCategory(f"{last}.bias", None, LABEL, dim=0),
    ]


def _classifier_layers(config: Scanvi) -> int:
    """Return how many hidden layers a classifier has: a linear one without a width or layers of its own has none."""
    layers = config.classifier_layers
    linear = config.linear_classifier and (config.classifier_hidden is None or layers is None)
    return 0 if linear else config.layers if layers is None else layers


def _totalvae_sizes(manifest: Manifest) -> dict[str, Any]:
    sizes = _shared_sizes(manifest)
    panel = len(cast(Proteins, manifest.proteins).panel)
    return sizes | {
        "n_labels": 0,
        "n_input_genes": len(manifest.genes.panel),
        "n_input_proteins": panel,
        "n_panel": sizes["n_batch"],
        "protein_batch_mask": protein_masks(manifest),
    }


def protein_masks(manifest: Manifest) -> dict[str, NDArray[np.bool_]] | None:
    """Return which proteins each batch measured, ``(proteins,)``, by its code; None where all measured all."""
    panel, batch = cast(Proteins, manifest.proteins), batch_key(manifest)
    if not panel.measured or batch is None:
        return None
    everything = range(len(panel.panel))
    found = {str(code): panel.measured.get(name, everything) for code, name in enumerate(batch.categories)}
    return {code: np.isin(everything, list(indices)) for code, indices in found.items()}


def _totalvae_per_category(manifest: Manifest) -> list[PerCategory]:
    config = cast(TotalVi, manifest.architecture)
    backgrounds = ("background_pro_alpha", "background_pro_log_beta", "log_per_batch_efficiency")
    return [
        *_dispersed("px_r", config.gene_dispersion, "genes"),
        *_dispersed("py_r", config.protein_dispersion, "proteins"),
        *_libraries(manifest),
        *(PerCategory(name, "proteins", BATCH, dim=1) for name in backgrounds),
    ]


TOTALVAE_PARAMETERS = {
    "n_latent": "latent",
    "n_hidden": "hidden",
    "n_layers_encoder": "encoder_layers",
    "n_layers_decoder": "decoder_layers",
    "dropout_rate_encoder": "encoder_dropout",
    "dropout_rate_decoder": "decoder_dropout",
    "gene_dispersion": "gene_dispersion",
    "protein_dispersion": "protein_dispersion",
    "gene_likelihood": "gene_likelihood",
    "latent_distribution": "latent_distribution",
    "encode_covariates": "encode_covariates",
    "use_observed_lib_size": "use_observed_library_size",
    "use_layer_norm": "layer_norm",
    "use_batch_norm": "batch_norm",
    "log_variational": "log1p_input",
}
TOTALVAE_STACKS = {
    "encoder.encoder": Stack(("genes", "proteins"), "encoder"),
    "encoder.l_gene_encoder": Stack(("genes", "proteins"), "encoder"),
    **{
        f"decoder.{name}": Stack(("latent",), "decoder")
        for name in ("px_decoder", "py_back_decoder", "py_fore_decoder", "sigmoid_decoder")
    },
    **{
        f"decoder.{name}": Stack(("hidden.0", "latent"), "decoder", "genes")
        for name in ("px_scale_decoder", "px_dropout_decoder_gene")
    },
    **{
        f"decoder.{name}": Stack(("hidden.0", "latent"), "decoder", "proteins")
        for name in (
            "py_back_mean_log_alpha",
            "py_back_mean_log_beta",
            "py_fore_scale_decoder",
            "py_background_decoder",
        )
    },
}
TOTALVAE_DENSE = {
    "encoder.z_mean_encoder": ("latent", "hidden.0"),
    "encoder.z_var_encoder": ("latent", "hidden.0"),
    "encoder.l_gene_mean_encoder": ("1", "hidden.0"),
    "encoder.l_gene_var_encoder": ("1", "hidden.0"),
}


KINDS: Mapping[str, Kind] = {
    "scvi": Kind(
        "VAE",
        "SCVI",
        VAE_PARAMETERS,
        {},
        _vae_sizes,
        VAE_STACKS,
        VAE_DENSE,
        _vae_per_category,
        generative=likelihood.generative,
    ),
    "scanvi": Kind(
        "SCANVAE",
        "SCANVI",
        VAE_PARAMETERS | {"linear_classifier": "linear_classifier"},
        {"classifier_parameters": CLASSIFIER_PARAMETERS},
        _vae_sizes,
        SCANVAE_STACKS,
        SCANVAE_DENSE,
        _scanvae_per_category,
        generative=likelihood.generative,
        classifier=True,
    ),
    "totalvi": Kind(
        "TOTALVAE",
        "TOTALVI",
        TOTALVAE_PARAMETERS,
        {"extra_decoder_kwargs": {"activation_function_bg": "background_activation"}},
        _totalvae_sizes,
        TOTALVAE_STACKS,
        TOTALVAE_DENSE,
        _totalvae_per_category,
        initial={"empirical_protein_background_prior": "empirical_protein_background_prior"},
    ),
}


# --- a module whose weights know their axes --------------------------------------------------------------------------


def plain_module(manifest: Manifest) -> Any:
    """Return scvi-tools' own module as the manifest describes it, freshly initialised."""
    kind = KINDS[manifest.architecture.kind]
    return getattr(scvi_tools().module, kind.module)(**parameters(manifest), **kind.sizes(manifest))


def parameters(manifest: Manifest) -> dict[str, Any]:
    """Return the parameters that scvi-tools' module and model have in common."""
    config = manifest.architecture
    kind = KINDS[config.kind]
    given = {parameter: getattr(config, field) for parameter, field in kind.parameters.items()}
    for group, fields in kind.nested.items():
        told = {parameter: getattr(config, field) for parameter, field in fields.items() if _chosen(config, field)}
        given |= {group: told} if told else {}
    if embedding := embedded(manifest):
        told = {"embedding_dim": embedding.dim, "max_norm": embedding.max_norm}
        given |= {"batch_representation": "embedding", "batch_embedding_kwargs": told}
    return given


def _chosen(config: Any, field: str) -> bool:
    return bool(getattr(config, field) != type(config).model_fields[field].default)


class Anatomy:
    """The axes of a module's tensors, read from the manifest and the tables of its kind."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.config = cast(Config, manifest.architecture)
        self.kind = KINDS[self.config.kind]
        self.vocabulary = Vocabulary.of(manifest)
        self.sizes = manifest.axes() | {"1": 1}

    def axis(self, *names: str) -> Axis:
        """Return the sum of some axes."""
        return Axis("+".join(names), sum(self.sizes[name] for name in names))

    @cached_property
    def batch(self) -> Categories | None:
        """The batches; None for a model without a batch key."""
        found = batch_key(self.manifest)
        return None if found is None else self._categories("conditions", found.key, self.vocabulary.conditions)

    @property
    def covariates(self) -> list[Categories]:
        """The categorical covariates."""
        axes = self.vocabulary.covariates
        return [self._categories("categorical", key, axes) for key in axes]

    @cached_property
    def label(self) -> Categories:
        """The labels that the model itself knows: the first level's."""
        if not self.manifest.labels:
            raise errors.ManifestError(
                f"{self.manifest.name}: a {self.config.kind} like this needs a label level.", path="labels"
            )
        return self._categories("labels", self.manifest.labels[0].key, self.vocabulary.labels)

    def _categories(self, axis: str, key: str, axes: Mapping[str, Names]) -> Categories:
        return Categories(self.axis(f"{axis}.{key}"), axes[key].reference)

    def per(self, entry: PerCategory) -> Categories:
        """Return the categories a tensor has entries for; without a batch key all cells are of one batch."""
        if entry.per == LABEL:
            return self.label
        return self.batch or Categories(Axis("1", 1), 1)

    def keys(self, stack: Stack) -> list[Categories | None]:
        """Return the categorical keys that layers are told, in scvi-tools' order."""
        if stack.told == "label":
            return [self.label]
        if stack.told == "nothing" or (stack.told == "encoder" and not self.config.encode_covariates):
            return []
        return [*([] if embedded(self.manifest) else [self.batch]), *self.covariates]

    def inputs(self, stack: Stack) -> Axis:
        """Return the axis that layers read: what the table says, then continuous covariates and embedded batches."""
        more = []
        if stack.told == "decoder" or (stack.told == "encoder" and self.config.encode_covariates):
            batch = batch_key(self.manifest)
            more += ["continuous"] if self.manifest.covariates.continuous else []
            more += [f"embedding.{batch.key}"] if batch and embedded(self.manifest) else []
        return self.axis(*stack.inputs, *more)

    def widths(self, stack: Stack, layers: int) -> list[Axis]:
        """Return the axes of the input and of each layer."""
        return [self.inputs(stack), *[self.axis(stack.hidden)] * (layers - 1), self.axis(stack.outputs)]


def dissect(module: Any, anatomy: Anatomy) -> None:
    """Put the weights of each category into tables and parameters of their own, in place."""
    for path, stack in anatomy.kind.stacks.items():
        layers = module.get_submodule(path)
        if hasattr(layers, "fc_layers"):
            widths = anatomy.widths(stack, len(layers.fc_layers))
            _replace(module, path, InjectedLayers(layers, widths=widths, keys=anatomy.keys(stack)))
    if embedding := embedded(anatomy.manifest):
        _embed(module, anatomy, embedding)
    for entry in anatomy.kind.per_category(anatomy.manifest):
        if entry.trained:
            owner, attribute = _place(module, entry.name)
            divide(owner, attribute, reference=anatomy.per(entry).reference, dim=entry.dim)


def _embed(module: Any, anatomy: Anatomy, embedding: Embedding) -> None:
    """Put the embeddings of batches into a table, in place."""
    batch = cast(Categories, anatomy.batch)
    width = Axis(batch.axis.name.replace("conditions", "embedding", 1), embedding.dim)
    table = GrowingTable(batch.axis, width, reference=batch.reference, max_norm=embedding.max_norm)
    table.load(module.embeddings_dict[BATCH].weight.detach())
    module.embeddings_dict[BATCH] = table


def _place(module: nn.Module, path: str) -> tuple[nn.Module, str]:
    """Return the module that owns a tensor, and what it calls it."""
    owner, _, attribute = path.rpartition(".")
    return module.get_submodule(owner), attribute


def _replace(module: nn.Module, path: str, part: nn.Module) -> None:
    owner, attribute = _place(module, path)
    owner._modules[attribute] = part


def plain_state(module: nn.Module, plain: nn.Module) -> dict[str, Tensor]:
    """Return a dissected module's tensors under the names and in the layout that scvi-tools' own has."""
    stacks = [(path, part) for path, part in module.named_modules() if isinstance(part, InjectedLayers)]
    inside = {f"{path}.{name}": tensor for path, part in stacks for name, tensor in part.state().items()}
    names = plain.state_dict()
    return {name: (inside[name] if name in inside else _read(module, name)).detach().cpu().clone() for name in names}


def _read(module: nn.Module, path: str) -> Tensor:
    owner, attribute = _place(module, path)
    found: Tensor = owner.rows if isinstance(owner, GrowingTable) else getattr(owner, attribute)
    return found


@torch.no_grad()
def _write(module: nn.Module, path: str, value: Tensor) -> None:
    owner, attribute = _place(module, path)
    if isinstance(owner, GrowingTable):
        owner.load(value)
    elif parametrize.is_parametrized(owner, attribute):
        setattr(owner, attribute, value.detach())
    else:
        getattr(owner, attribute).copy_(value)


# --- the network -----------------------------------------------------------------------------------------------------


class ScviTools(nn.Module):
    """The network a manifest of kind ``scvi``, ``scanvi`` or ``totalvi`` describes.

    Attributes
    ----------
    module
        scvi-tools' module, with the weights of categories in tables and parameters of their own.
    """

    kind: ClassVar[str] = "scvi-tools"

    def __init__(self, manifest: Manifest) -> None:
        super().__init__()
        _check(manifest)
        self.manifest = manifest
        self.config = cast(Config, manifest.architecture)
        self.vocabulary = Vocabulary.of(manifest)
        self.anatomy = Anatomy(manifest)
        self.grown_by_surgery = manifest.lineage is not None and manifest.lineage.relation == "surgery"
        self.seen_data = False
        self._labelled: Labelled | None = None
        self._adversary: Adversary | None = None
        self.module = plain_module(manifest)
        dissect(self.module, self.anatomy)
        self._freeze()

    @classmethod
    def build(cls, manifest: Manifest, *, seed: int = 0) -> Self:
        """Return a freshly initialised network with the manifest's axes."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(manifest).eval()

    def _freeze(self) -> None:
        """Let the zero rows of keys with one category stay zero, and after surgery nothing but new rows move."""
        if self.grown_by_surgery:
            self.requires_grad_(False)
            for part in self._grown():
                part.query.requires_grad_(True)
        for table in self._tables():
            if len(table.rows) == 1:
                table.requires_grad_(False)

    def _tables(self) -> list[GrowingTable]:
        return [table for table in self.module.modules() if isinstance(table, GrowingTable)]

    def _grown(self) -> list[Parts]:
        """Return the parameters of everything that surgery grows."""
        return [part for parts in self._grown_by_axis().values() for part in parts]

    def _grown_by_axis(self) -> dict[str, list[Parts]]:
        """Return the parameters of everything that surgery grows, by the axis they have an entry for each name of."""
        found: dict[str, list[Parts]] = {}
        for table in self._tables():
            found.setdefault(table.axes()["rows"][0], []).append(Parts(table.reference, table.query, dim=0))
        for entry in self._per_category():
            if entry.trained:
                found.setdefault(self.anatomy.per(entry).axis.name, []).append(parts(*_place(self.module, entry.name)))
        return found

    def _per_category(self) -> list[PerCategory]:
        return self.anatomy.kind.per_category(self.manifest)

    # --- tensors -----------------------------------------------------------------------------------------------------

    @cached_property
    def _axes(self) -> dict[str, tuple[str, ...]]:
        """The axes of every tensor as a release stores it, the one that surgery grows first."""
        found = tensor_axes(self.module)
        for path, (outputs, inputs) in self.anatomy.kind.dense.items():
            found |= {f"{path}.weight": (outputs, inputs), f"{path}.bias": (outputs,)}
        per_category = self._per_category()
        for name, other in OUTRIGHT.items():
            if hasattr(self.module, name):
                found[name] = (other,)
        for entry in per_category:
            own = self.anatomy.per(entry).axis.name
            found[entry.name] = (own,) if entry.other is None else (own, entry.other)
        return found

    def specs(self) -> tuple[TensorSpec, ...]:
        """Return name, dtype and axis names of every tensor a release of this network holds."""
        return tuple(TensorSpec(name=name, dtype="F32", shape=shape) for name, shape in sorted(self._axes.items()))

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor of :meth:`specs`, on the CPU; reference and query rows as one."""
        found = {name: self._turned(name, _read(self.module, name)) for name in sorted(self._axes)}
        return {
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in found.items()
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take over tensors as :meth:`tensors` returned them."""
        for name in self._axes:
            _write(self.module, name, self._turned(name, tensors[name]))
        self.seen_data = True

    def take(self, plain: nn.Module) -> None:
        """Take over the weights of scvi-tools' own module, which is used up."""
        dissect(plain, self.anatomy)
        self.load({name: self._turned(name, _read(plain, name)) for name in self._axes})

    def plain(self) -> Any:
        """Return scvi-tools' own module with these weights."""
        plain = plain_module(self.manifest)
        plain.load_state_dict(plain_state(self.module, plain))
        return plain.eval()

    def _turned(self, name: str, tensor: Tensor) -> Tensor:
        """Return a tensor with an entry for each category in scvi-tools' layout from a release's, or the reverse."""
        return tensor.T if name in self._columns else tensor

    @cached_property
    def _columns(self) -> frozenset[str]:
        return frozenset(entry.name for entry in self._per_category() if entry.dim == 1)

    # --- the function ------------------------------------------------------------------------------------------------

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """Return what scvi-tools' modules read of a minibatch, by its registry's keys."""
        found = {
            "X": batch.dense(batch.values),
            "batch": batch.conditions[:, :1] if batch.conditions.shape[1] else torch.zeros_like(batch.index)[:, None],
            "labels": self._label_codes(batch)[:, None],
        }
        if batch.covariates.shape[1]:
            found["extra_categorical_covs"] = batch.covariates
        if batch.continuous.shape[1]:
            found["extra_continuous_covs"] = batch.continuous
        if self.manifest.input.size_factor is not None:
            found["size_factor"] = batch.size_factor[:, None]
        if self.manifest.proteins is not None:
            none = batch.size_factor.new_zeros((len(batch), len(self.manifest.proteins.panel)))
            found["proteins"] = batch.proteins if batch.proteins.shape[1] else none
        return found

    def _label_codes(self, batch: Batch) -> Tensor:
        """Return the code of each cell's label, ``(cells,)``; 0 where it has none, which only some dispersions read."""
        return batch.labels[:, 0].clamp(min=0) if batch.labels.shape[1] else torch.zeros_like(batch.index)

    def posterior(self, batch: Batch) -> Any:
        """Return the latent's posterior, a normal distribution ``(cells, latent)``."""
        with self._forked():
            given = self.module._get_inference_input(self.inputs(batch), full_forward_pass=True)
            return self.module.inference(**given)["qz"]

    def forward(
        self, batch: Batch, *, kl_weight: float = 1.0, classification_weight: float = 0.0, sample: bool = True
    ) -> dict[str, Tensor]:
        """Return scvi-tools' loss and its terms, over cells.

        ``sample=False`` draws the latent under the same noise each time.
        """
        weights = {"kl_weight": kl_weight} | self._classification(batch, classification_weight, sample=sample)
        z, found = self._losses(batch, sample=sample, **weights)
        terms = {"reconstruction": _total(found.reconstruction_loss).mean(), "kl": _total(found.kl_local).mean()}
        if self.anatomy.kind.classifier:
            lost = found.classification_loss
            terms["classification"] = torch.zeros_like(terms["kl"]) if lost is None else lost
        loss = found.loss
        if self._adversary is not None and sample and kl_weight < 1:
            loss = loss + (1 - kl_weight) * self._adversary.fooled(z, self.inputs(batch)["batch"], 1 - kl_weight)
        return {"loss": loss, "unweighted": torch.stack(list(terms.values())).sum(), **terms}

    def _classification(self, batch: Batch, weight: float, *, sample: bool) -> dict[str, Any]:
        """Return what a classifier's loss is told: labelled cells, in training drawn apart from the minibatch's."""
        if not self.anatomy.kind.classifier:
            return {}
        drawn = self._labelled.take(len(batch)) if self._labelled and sample else batch
        labelled = drawn.labels[:, 0] >= 0
        inputs = (
            {name: tensor[labelled] for name, tensor in self.inputs(drawn).items()} if bool(labelled.any()) else None
        )
        return {"labelled_tensors": inputs, "classification_ratio": weight}

    def _losses(self, batch: Batch, *, sample: bool, **weights: Any) -> tuple[Tensor, Any]:
        """Return points of the latent, ``(cells, latent)``, and scvi-tools' losses at them."""
        with nullcontext() if sample else self._forked(NOISE_SEED):
            tensors = self.inputs(batch)
            inferred = self.module.inference(**self.module._get_inference_input(tensors))
            generated = self.anatomy.kind.generative(self.module, batch, tensors, inferred)
            losses = self.module.loss(tensors, inferred, generated, **weights)
        return inferred["z"], losses

    @contextmanager
    def _forked(self, seed: int | None = None) -> Iterator[None]:
        """Leave the caller's random state as it is, and draw under a seed."""
        device = self.module.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            if seed is not None:
                torch.manual_seed(seed)
            yield

    # --- training: what the loop asks --------------------------------------------------------------------------------

    def fit(self, cells: Cells, plan: Plan, *, seed: int, runtime: Runtime) -> History:
        """Train in place what may move: everything, or after surgery the rows of new categories."""
        self._check_labels(cells)
        if not self.seen_data:
            self._look_at(cells)
            self._look_at_proteins(cells, seed)
        history = run(self, cells, plan=plan, seed=seed, runtime=runtime, vocabulary=self.vocabulary)
        self.seen_data = True
        return history

    def in_training(self) -> list[nn.Module]:
        """Return what runs in training mode: everything, or nothing after surgery.

        Without dropout and with batch normalisation's running statistics, frozen layers are the same function for the
        query as for the reference.
        """
        return [] if self.grown_by_surgery else [self]

    def objective(self, plan: Plan, epoch: int) -> dict[str, float]:
        """Return the loss weights of an epoch: the KL term rises linearly from 0."""
        told = {"classification_weight": plan.scanvi.classification_weight} if self.anatomy.kind.classifier else {}
        return {"kl_weight": kl_weight(plan, epoch), **told}

    def _check_labels(self, cells: Cells) -> None:
        """Refuse to train on unlabelled cells where each label has a dispersion of its own."""
        if not any(entry.per == LABEL and entry.name in OUTRIGHT for entry in self._per_category()):
            return
        level = self.manifest.labels[0]
        found = cells.labels.get(level.key, np.full(len(cells), ""))
        if unlabelled := int((~np.isin(found, level.categories)).sum()):
            raise errors.InvalidInput(
                f"{unlabelled:,} of {len(cells):,} cells have no label of {level.key!r}, and this {self.config.kind} "
                f"has a dispersion for each label: give labels={{{level.key!r}: column}} to align().",
                facts={"level": level.key, "unlabelled": unlabelled},
            )

    def parameter_groups(self, plan: Plan) -> list[dict[str, Any]]:
        """Return what may move, all with the plan's weight decay."""
        moving = [parameter for parameter in self.parameters() if parameter.requires_grad and parameter.numel()]
        return [{"params": moving, "weight_decay": plan.weight_decay}] if moving else []

    def first_judged_epoch(self, plan: Plan, data: Split) -> int:
        """Return 0: every epoch has the same terms."""
        return 0

    def before_training(self, plan: Plan, data: Split) -> None:
        """Make an adversary of the batches where a reference lacks proteins in some."""
        wanted = self._lacks_proteins() if plan.totalvi.adversarial is None else plan.totalvi.adversarial
        if wanted and not self.grown_by_surgery and self.module.n_batch > 1:
            self._adversary = Adversary(self.module, plan)

    def _lacks_proteins(self) -> bool:
        return self.manifest.proteins is not None and bool(self.manifest.proteins.measured)

    def before_epoch(self, epoch: int, plan: Plan, data: Split) -> None:
        """Draw the labelled cells that a classifier learns from in this epoch."""
        if self.anatomy.kind.classifier:
            codes = data.labels[:, 0].cpu()
            self._labelled = Labelled.drawn(data.batches, data.train, codes, per_label=plan.scanvi.samples_per_label)

    def after_step(self, plan: Plan, learning_rate: float, *, epoch: int) -> None:
        """Let the adversary learn."""
        if self._adversary is not None:
            self._adversary.learn()

    def after_epoch(self, epoch: int, plan: Plan, data: Split) -> None:
        """Do nothing."""

    def after_training(self, plan: Plan, data: Split) -> None:
        """Let go of the data and of the adversary."""
        self._labelled = self._adversary = None

    def facts(self) -> dict[str, object]:
        """Return the manifest's fields that training can change: which proteins the batches measured."""
        return {} if self.manifest.proteins is None else {"proteins": self.manifest.proteins}

    @torch.no_grad()
    def _look_at_proteins(self, cells: Cells, seed: int) -> None:
        """Take from the data which proteins the batches measured, and where their background starts.

        Raises
        ------
        InvalidInput
            If a reference is to be trained on cells without proteins.
        """
        panel, batch = self.manifest.proteins, self.anatomy.batch
        if panel is None:
            return
        if cells.proteins is None:
            raise errors.InvalidInput(
                f"the cells have none of the {len(panel.panel)} proteins of this totalvi, which cannot be trained "
                "without; give align() their key with proteins=.",
                facts={"proteins": panel.panel},
            )
        names = cells.conditions[self.manifest.conditions[0].key] if batch else np.zeros(len(cells), dtype=str)
        known = lacking(measured(cells.proteins, names), len(panel.panel)) if batch else {}
        self.manifest = self.manifest.changed(proteins=panel.model_copy(update={"measured": known}))
        self.module.protein_batch_mask = protein_masks(self.manifest)
        config = cast(TotalVi, self.config)
        empirical = config.empirical_protein_background_prior
        if len(panel.panel) > 10 if empirical is None else empirical:
            codes = self.vocabulary.condition_codes(cells.conditions, cells=len(cells)).sum(axis=1)
            means, scales = backgrounds(cells.proteins, codes, batches=self.module.n_batch, seed=seed)
            self.module.background_pro_alpha = torch.from_numpy(means).expand(len(panel.panel), -1).clone()
            self.module.background_pro_log_beta = torch.from_numpy(scales).log().expand(len(panel.panel), -1).clone()

    @torch.no_grad()
    def _look_at(self, cells: Cells) -> None:
        """Take from the data what is not trained: the library sizes of batches, after surgery of new ones.

        scvi-tools' placeholders, 0 and 1, stay for batches without cells.
        """
        if not hasattr(self.module, "library_log_means"):
            return
        codes = self.vocabulary.condition_codes(cells.conditions, cells=len(cells)).sum(axis=1)
        logs = np.log(np.maximum(np.asarray(cells.x.sum(axis=1), dtype=np.float64).reshape(-1), 1))
        batch = self.anatomy.batch
        for code in np.unique(codes[codes >= batch.reference] if batch and self.grown_by_surgery else codes):
            self.module.library_log_means[0, code] = logs[codes == code].mean()
            self.module.library_log_vars[0, code] = logs[codes == code].var()

    def restrict(self, parts: Literal["all", "expression"]) -> None:
        """Let only some parts train: all, or the rows of categories and the first layers of the encoders."""
        if parts == "expression":
            self.requires_grad_(False)
            for part in self._grown():
                part.reference.requires_grad_(True)
                part.query.requires_grad_(True)
            for stack in self._encoders():
                stack.first.values.requires_grad_(True)

    def _encoders(self) -> list[InjectedLayers]:
        stacks = self.anatomy.kind.stacks.items()
        return [cast(InjectedLayers, self.module.get_submodule(path)) for path, s in stacks if "genes" in s.inputs]

    # --- inference ---------------------------------------------------------------------------------------------------

    def batches(self, cells: Cells) -> Batches:
        """Return cells encoded for this network, where it lives."""
        return Batches(cells, self.vocabulary, device=self.module.device)

    @torch.no_grad()
    def embed(self, cells: Cells, *, batch_size: int = 512) -> Array:
        """Return the posterior mean of every cell, ``(cells, latent)``."""
        self.eval()
        means = self.batches(cells).rows(lambda batch: self.posterior(batch).loc, batch_size=batch_size)
        found: Array = means.cpu().numpy()
        return found

    @torch.no_grad()
    def reconstruction_losses(self, cells: Cells, *, batch_size: int = 512) -> Array:
        """Return each cell's reconstruction loss under the same noise each time, ``(cells,)`` (nats)."""
        self.eval()
        found = self.batches(cells).rows(self._reconstruction, batch_size=batch_size)
        losses: Array = found.cpu().numpy()
        return losses

    def _reconstruction(self, batch: Batch) -> Tensor:
        terms = dict(self._losses(batch, sample=False)[1].reconstruction_loss)
        if not batch.proteins.shape[1]:
            terms.pop("reconst_loss_protein", None)
        return _total(terms)

    @torch.no_grad()
    def score(self, latent: Array) -> dict[str, Scores]:
        """Return the classifier's probability of each label at points of the latent; without one, nothing."""
        if not self.anatomy.kind.classifier:
            return {}
        level = self.manifest.labels[0]
        classifier = self.eval().module.classifier
        found = classifier(torch.from_numpy(np.ascontiguousarray(latent, np.float32)).to(self.module.device))
        likely = torch.softmax(found, dim=1) if classifier.logits else found
        return {level.key: Scores(level.categories, likely.cpu().numpy(), "probability")}

    def gene_usage(self) -> Array:
        """Return the L2 norm of each gene's first-layer weights, ``(genes,)``."""
        weight = self._encoders()[0].first.values.weight[:, : len(self.vocabulary.genes)]
        usage: Array = torch.linalg.vector_norm(weight.detach(), dim=0).cpu().numpy()
        return usage

    # --- surgery -----------------------------------------------------------------------------------------------------

    def grown(self, manifest: Manifest, *, start: Start, cells: Cells, seed: int) -> tuple[Self, dict[str, str]]:
        """Return the same function on old categories with trainable rows for the manifest's new ones.

        ``start`` and ``seed`` are those of :func:`hub_client.surgery`; ``best`` tries the categories of one key after
        those of another. What is not trained, the mean and variance of a batch's library sizes, comes from ``cells``.

        Returns
        -------
        tuple
            The network, and for ``best`` which reference category each new one was started from.
        """
        network = type(self).build(manifest, seed=seed)
        network.load(padded(self.tensors(), network.tensors()))
        network._look_at(cells)
        return network, START[start](self, network, cells, seed)

    def labelled(self, manifest: Manifest, *, level: str, clusters: Sequence[int], cells: Cells) -> Self:
        """Refuse: only architectures with prototypes can learn a label from them.

        Raises
        ------
        Unsupported
            Always.
        """
        raise errors.Unsupported(
            f"{self.config.kind} has no prototypes, so no label can be added to level {level!r}; scPoli has.",
            kind=self.config.kind,
            verb="add_label",
        )


def _total(terms: Mapping[str, Tensor]) -> Tensor:
    """Return the sum of loss terms of each cell, ``(cells,)``."""
    return torch.stack(list(terms.values())).sum(0)


class Adversary:
    """A classifier of batches by the latent, which the encoder learns to fool while the KL term's weight rises.

    scvi-tools trains totalVI against one where proteins are missing in some batches (its AdversarialTrainingPlan).
    """

    def __init__(self, module: Any, plan: Plan) -> None:
        parts = scvi_tools().module
        self.classifier = parts.Classifier(
            n_input=module.n_latent, n_hidden=32, n_labels=module.n_batch, n_layers=2, logits=True
        ).to(module.device)
        self.optimizer = torch.optim.Adam(
            self.classifier.parameters(), lr=1e-3, eps=0.01, weight_decay=plan.weight_decay
        )
        self.seen: tuple[Tensor, Tensor, float] | None = None

    def fooled(self, z: Tensor, batches: Tensor, weight: float) -> Tensor:
        """Return the cross-entropy with all batches but the true one, at points ``(cells, latent)``."""
        if len(z) < 2:
            return z.new_zeros(())
        self.seen = (z.detach(), batches[:, 0], weight)
        others = 1.0 - nn.functional.one_hot(batches[:, 0], self.classifier.classifier[-1].out_features).float()
        logs = torch.log_softmax(self.classifier(z), dim=1)
        return -(logs * others / others.sum(dim=1, keepdim=True)).sum(dim=1).mean()

    def learn(self) -> None:
        """Take a step towards telling the batches of the last minibatch apart."""
        if self.seen is not None:
            z, batches, weight = self.seen
            self.optimizer.zero_grad()
            (weight * nn.functional.cross_entropy(self.classifier(z), batches)).backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.seen = None


def backgrounds(
    counts: NDArray[np.float32], codes: NDArray[np.int64], *, batches: int, seed: int, cells: int = 100
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the mean and scale of each batch's protein background in log1p counts, ``(batches,)`` each.

    As scvi-tools': mixtures of two Gaussians over the proteins of each of 100 cells; the lower one's mean and variance,
    over cells (Gayoso 2021, Methods). Batches with fewer than five proteins have 0 and 0.05.
    """
    generator = np.random.default_rng(seed)
    means, scales = np.zeros(batches, np.float32), np.full(batches, 0.05, np.float32)
    for code in np.unique(codes):
        members = counts[codes == code]
        members = members[:, (members > 0).any(axis=0)]
        if members.shape[1] >= 5:
            drawn = np.log1p(members[generator.choice(len(members), cells)])
            lower = np.array([_lower(values, int(generator.integers(2**31))) for values in drawn])
            means[code], scales[code] = lower[:, 0].mean(), np.sqrt((lower[:, 1] ** 2).sum()) / cells
    return means, scales


def _lower(values: NDArray[np.float32], seed: int) -> tuple[float, float]:
    """Return mean and scale of the lower of two Gaussians over one cell's proteins; 0 and 0.05 if all are alike."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    if np.ptp(values) == 0:
        return 0.0, 0.05
    found = GaussianMixture(n_components=2, random_state=seed, max_iter=200)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found.fit(values.reshape(-1, 1).astype(np.float64))
    low = int(found.means_.reshape(-1).argmin())
    return float(found.means_[low, 0]), float(np.sqrt(found.covariances_[low, 0, 0]))


class Labelled:
    """Labelled cells in random order, again and again."""

    def __init__(self, batches: Batches, rows: Tensor) -> None:
        self.batches = batches
        self.rows = rows
        self.left = rows[:0]

    @classmethod
    def drawn(cls, batches: Batches, train: Tensor, codes: Tensor, *, per_label: int | None) -> Self | None:
        """Return the labelled ones of the cells that train, at most so many of each label; None without any."""
        labels = torch.unique(codes[codes >= 0])
        members = [train[codes == label] for label in labels]
        if per_label is not None:
            members = [rows[torch.randperm(len(rows))[:per_label]] for rows in members]
        return cls(batches, torch.cat(members)) if members else None

    def take(self, count: int) -> Batch:
        """Return the next cells as a minibatch."""
        if not len(self.left):
            self.left = self.rows[torch.randperm(len(self.rows))]
        chosen, self.left = self.left[:count], self.left[count:]
        return self.batches.take(chosen)


OUTRIGHT = {"px_r": "genes", "py_r": "proteins"}
"""Dispersions of a module, where they are one for all cells."""


def _check(manifest: Manifest) -> None:
    config = manifest.architecture
    if config.kind not in KINDS:
        raise errors.ManifestError(
            f"the manifest's architecture is {config.kind}; scvi-tools' are {errors.names(KINDS)}.",
            path="architecture.kind",
        )
    if len(manifest.conditions) > 1:
        raise errors.ManifestError(
            f"{config.kind} has one batch key, and the manifest has {len(manifest.conditions)} conditions; name the "
            "others in covariates.categorical.",
            path="conditions",
        )

    if config.kind == "totalvi" and "label" in f"{config.gene_dispersion} {config.protein_dispersion}":
        raise errors.ManifestError(
            "a dispersion for each label is not to be had: scvi-tools tells totalVI no labels.", path="architecture"
        )


# --- how new rows start ----------------------------------------------------------------------------------------------


def _random(old: ScviTools, new: ScviTools, cells: Cells, seed: int) -> dict[str, str]:
    return {}


@torch.no_grad()
def _mean(old: ScviTools, new: ScviTools, cells: Cells, seed: int) -> dict[str, str]:
    for part in new._grown():
        part.query.copy_(part.reference.mean(part.dim, keepdim=True).expand_as(part.query))
    return {}


@torch.no_grad()
def _best(old: ScviTools, new: ScviTools, cells: Cells, seed: int) -> dict[str, str]:
    """Start each new category from the reference's that reconstructs its cells best, one key after another."""
    _mean(old, new, cells, seed)
    known = {key: cells.conditions[key].astype(object) for key in _axes(old)}
    for key, axis in _axes(old).items():
        known[key][~np.isin(known[key], axis.names)] = axis.names[0]
    grown, choices = new._grown_by_axis(), {}
    for key, axis in _axes(new).items():
        for offset, name in enumerate(axis.new):
            rows = np.flatnonzero(cells.conditions[key] == name)
            if len(rows):
                source = _tried(old, cells, known, key, rows=drawn(rows, seed))
                known[key][rows] = source
                choices[f"{key}={name}"] = source
                for part in grown[_axis_name(new, key)]:
                    code = _axes(old)[key].names.index(source)
                    part.query.select(part.dim, offset).copy_(part.reference.select(part.dim, code))
    return choices


def _axes(network: ScviTools) -> dict[str, Names]:
    return network.vocabulary.conditions | network.vocabulary.covariates


def _axis_name(network: ScviTools, key: str) -> str:
    return f"conditions.{key}" if key in network.vocabulary.conditions else f"categorical.{key}"


def _tried(old: ScviTools, cells: Cells, known: dict[str, NDArray[Any]], key: str, *, rows: NDArray[np.int64]) -> str:
    """Return the reference's category of a key under which some cells have the smallest mean loss."""
    names = _axes(old)[key].names
    tried = replace(cells, conditions=cells.conditions | known).rows(rows)
    losses = [
        old.reconstruction_losses(replace(tried, conditions=tried.conditions | {key: np.full(len(rows), name)})).mean()
        for name in names
    ]
    return names[int(np.argmin(losses))]


START: dict[Start, Callable[[ScviTools, ScviTools, Cells, int], dict[str, str]]] = {
    "random": _random,
    "mean": _mean,
    "best": _best,
}
