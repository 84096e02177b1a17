"""totalVI: the counts of genes and of proteins from one latent, also where proteins were not measured."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hub_client import errors
from hub_client.data.batches import Batch
from hub_client.data.cells import Cells
from hub_client.data.proteins import lacking, measured
from hub_client.manifest.configs import TotalVIConfig
from hub_client.manifest.plan import Plan
from hub_client.manifest.v1 import Manifest
from hub_client.models.architectures._network import Decoded, with_sum
from hub_client.models.architectures.scvi import export
from hub_client.models.architectures.scvi.modules import scvi_tools
from hub_client.models.architectures.scvi.network import ScviTools, terms_of
from hub_client.models.architectures.scvi.tables import protein_masks
from hub_client.nn.processes import of_all_cells
from hub_client.nn.training import Split


class TotalVI(ScviTools):
    """The network a manifest of kind ``totalvi`` describes."""

    kind: ClassVar[str] = "totalvi"
    config: TotalVIConfig

    def __init__(self, manifest: Manifest) -> None:
        super().__init__(manifest)
        self._adversary: Adversary | None = None

    def forward(
        self, batch: Batch, *, kl_weight: float = 1.0, gene_dropout: float = 0.0, sample: bool = True
    ) -> dict[str, Tensor]:
        """Return scvi-tools' loss and its terms, over cells; the rest as for :meth:`losses`."""
        z, found = self.losses(batch, sample=sample, gene_dropout=gene_dropout, kl_weight=kl_weight)
        loss = found.loss
        if self._adversary is not None and sample and kl_weight < 1:
            loss = loss + (1 - kl_weight) * self._adversary.fooled(z, self.inputs(batch)["batch"], 1 - kl_weight)
        return with_sum(loss, terms_of(found))

    def expected(self, generated: Mapping[str, Any]) -> Decoded:
        """Return the parameters of the genes' counts from what the module's ``generative`` returned."""
        genes = generated["px_"]
        logits = genes["dropout"] if self.config.gene_likelihood == "zinb" else None
        return Decoded(genes["rate"], logits, genes["r"])

    def imputed_proteins(self, cells: Cells, *, under: Sequence[str], samples: int) -> pd.DataFrame:
        """Return the expected foreground counts of each protein under some batches, ``(cells, proteins)``."""
        gene = self.vocabulary.genes[0]  # scvi-tools holds every draw of every gene that is not left out
        drawn = {"n_samples": samples, "transform_batch": list(under) or None, "return_numpy": False}
        with export.quiet():
            _, found = self.to_scvi(cells).get_normalized_expression(gene_list=[gene], silent=True, **drawn)
        proteins: pd.DataFrame = found
        return proteins

    def facts(self) -> dict[str, object]:
        """Return the manifest's fields that training can change: which proteins the batches measured."""
        return {"proteins": self.manifest.proteins}

    def before_training(self, plan: Plan, data: Split) -> None:
        """Make an adversary of the batches where a reference lacks proteins in some."""
        super().before_training(plan, data)
        lacks = self.manifest.proteins is not None and bool(self.manifest.proteins.measured)
        wanted = lacks if plan.totalvi.adversarial is None else plan.totalvi.adversarial
        if wanted and not self.grown_by_surgery and self.module.n_batch > 1:
            self._adversary = Adversary(self.module, plan)

    def after_step(self, plan: Plan, learning_rate: float, *, epoch: int) -> None:
        """Let the adversary learn."""
        if self._adversary is not None:
            self._adversary.learn()

    def after_training(self, plan: Plan, data: Split) -> None:
        """Let go of the adversary."""
        self._adversary = None

    @torch.no_grad()
    def look_at_proteins(self, cells: Cells, seed: int) -> None:
        """Take from the data which proteins the batches measured, and where their background starts.

        Raises
        ------
        InvalidInput
            If a reference is to be trained on cells without proteins.
        """
        panel, batch = self.manifest.proteins, self.module_axes.batch
        if panel is None:
            return
        if cells.proteins is None:
            raise errors.InvalidInput(
                f"the cells have none of the {len(panel.panel)} proteins of this totalvi, which cannot be trained "
                "without; give align() their key with proteins=.",
                facts={"proteins": panel.panel},
            )
        names = cells.conditions[self.manifest.conditions[0].key] if batch else np.zeros(len(cells), dtype=str)
        known = lacking(measured(cells.proteins, names), panel.panel) if batch else {}
        self.manifest = self.manifest.changed(proteins=panel.model_copy(update={"measured": known}))
        self.module.protein_batch_mask = protein_masks(self.manifest)
        empirical = self.config.empirical_protein_background_prior
        if len(panel.panel) > 10 if empirical is None else empirical:
            codes = self.vocabulary.condition_codes(cells.conditions, cells=len(cells)).sum(axis=1)
            means, scales = backgrounds(cells.proteins, codes, batches=self.module.n_batch, seed=seed)
            self.module.background_pro_alpha = torch.from_numpy(means).expand(len(panel.panel), -1).clone()
            self.module.background_pro_log_beta = torch.from_numpy(scales).log().expand(len(panel.panel), -1).clone()


class Adversary:
    """A classifier of batches by the latent, which the encoder learns to fool while the KL term's weight rises.

    scvi-tools trains totalVI against one where proteins are missing in some batches (its AdversarialTrainingPlan).
    """

    def __init__(self, module: Any, plan: Plan) -> None:
        self.classifier = (
            scvi_tools()
            .module.Classifier(n_input=module.n_latent, n_hidden=32, n_labels=module.n_batch, n_layers=2, logits=True)
            .to(module.device)
        )
        weights = self.classifier.parameters()
        self.optimizer = torch.optim.Adam(weights, lr=1e-3, eps=0.01, weight_decay=plan.weight_decay)
        self.seen: tuple[Tensor, Tensor, float] | None = None

    def fooled(self, z: Tensor, batches: Tensor, weight: float) -> Tensor:
        """Return the cross-entropy with all batches but the true one, at points ``(cells, latent)``."""
        if len(z) < 2:
            return z.new_zeros(())
        self.seen = (of_all_cells(z.detach()), of_all_cells(batches[:, 0]), weight)
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
