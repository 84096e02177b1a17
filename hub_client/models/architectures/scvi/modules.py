"""scvi-tools' modules, built from the manifest, with the weights of each category in tables of their own."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from importlib.metadata import version
from typing import Any, cast

import torch
from torch import Tensor, nn

from hub_client import errors
from hub_client.data.threads import same_threads
from hub_client.data.vocabulary import Axis as Names
from hub_client.data.vocabulary import Vocabulary
from hub_client.manifest.v1 import Embedding, Manifest
from hub_client.models.architectures._network import owner_of, read
from hub_client.models.architectures.scvi.tables import (
    BATCH,
    KINDS,
    LABEL,
    Config,
    PerCategory,
    Stack,
    batch_key,
    embedded,
)
from hub_client.nn.injected import Categories, InjectedLayers, divide
from hub_client.nn.layers import Axis, GrowingTable

KNOWN = ("1.4",)
"""The minor versions of scvi-tools whose modules are known. To know another one, add it here, run the tests of this
folder and the contract suite with it, and correct tables.py where its modules differ."""


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
        usual = {field: type(config).model_fields[field].default for field in fields.values()}
        chosen = {name: value for name, field in fields.items() if (value := getattr(config, field)) != usual[field]}
        given |= {group: chosen} if chosen else {}
    if embedding := embedded(manifest):
        sizes = {"embedding_dim": embedding.dim, "max_norm": embedding.max_norm}
        given |= {"batch_representation": "embedding", "batch_embedding_kwargs": sizes}
    return given


class ModuleAxes:
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
        """Return the categorical keys that layers read, in scvi-tools' order."""
        if stack.given == "label":
            return [self.label]
        if stack.given == "nothing" or (stack.given == "encoder" and not self.config.encode_covariates):
            return []
        return [*([] if embedded(self.manifest) else [self.batch]), *self.covariates]

    def inputs(self, stack: Stack) -> Axis:
        """Return the axis that layers read: what the table names, then continuous covariates and embedded batches."""
        more = []
        if stack.given == "decoder" or (stack.given == "encoder" and self.config.encode_covariates):
            batch = batch_key(self.manifest)
            more += ["continuous"] if self.manifest.covariates.continuous else []
            more += [f"embedding.{batch.key}"] if batch and embedded(self.manifest) else []
        return self.axis(*stack.inputs, *more)

    def widths(self, stack: Stack, layers: int) -> list[Axis]:
        """Return the axes of the input and of each layer."""
        return [self.inputs(stack), *[self.axis(stack.hidden)] * (layers - 1), self.axis(stack.outputs)]


def split_categories(module: Any, axes: ModuleAxes) -> None:
    """Put the weights of each category into tables and parameters of their own, in place."""
    for path, stack in axes.kind.stacks.items():
        layers = module.get_submodule(path)
        if hasattr(layers, "fc_layers"):
            widths = axes.widths(stack, len(layers.fc_layers))
            owner, attribute = owner_of(module, path)
            owner._modules[attribute] = InjectedLayers(layers, widths=widths, keys=axes.keys(stack))
    if embedding := embedded(axes.manifest):
        _embed(module, axes, embedding)
    for entry in axes.kind.per_category(axes.manifest):
        if entry.trained:
            owner, attribute = owner_of(module, entry.name)
            divide(owner, attribute, reference=axes.per(entry).reference, dim=entry.dim)


def _embed(module: Any, axes: ModuleAxes, embedding: Embedding) -> None:
    """Put the embeddings of batches into a table, in place."""
    batch = cast(Categories, axes.batch)
    width = Axis(batch.axis.name.replace("conditions", "embedding", 1), embedding.dim)
    table = GrowingTable(batch.axis, width, reference=batch.reference, max_norm=embedding.max_norm)
    table.load(module.embeddings_dict[BATCH].weight.detach())
    module.embeddings_dict[BATCH] = table


def plain_state(module: nn.Module, plain: nn.Module) -> dict[str, Tensor]:
    """Return a split module's tensors under the names and in the layout that scvi-tools' own has."""
    stacks = [(path, part) for path, part in module.named_modules() if isinstance(part, InjectedLayers)]
    inside = {f"{path}.{name}": tensor for path, part in stacks for name, tensor in part.state().items()}
    names = plain.state_dict()
    return {name: (inside[name] if name in inside else read(module, name)).detach().cpu().clone() for name in names}
