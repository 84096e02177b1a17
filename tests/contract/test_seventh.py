"""CONTRIBUTING's "Adding an architecture", carried out: a linear VAE in two files and a row, held to the contract."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.rooms import ROOT

pytestmark = pytest.mark.slow
KIND = "linear-vae"
CONFIG = '''
class LinearVaeConfig(KindConfig):
    """VAE whose encoder and decoder are linear maps (Svensson 2020, doi 10.1093/bioinformatics/btaa169)."""

    title = "linear VAE"
    doi = "10.1093/bioinformatics/btaa169"
    encoding = "one-hot"
    kind: Literal["linear-vae"] = "linear-vae"
    latent: PositiveInt = 10
    likelihood: Literal["nb"] = "nb"

    def axes(self) -> dict[str, int]:
        """Return the length of the latent."""
        return {"latent": self.latent}


'''
NETWORK = '''"""A linear VAE: scores of cells times loadings of genes, and what each condition adds.

Svensson, Gayoso, Yosef and Pachter, "Interpretable factor models of single-cell RNA-seq via variational autoencoders",
Bioinformatics 36 (2020), doi 10.1093/bioinformatics/btaa169.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from hub_client.data.batches import Batch
from hub_client.manifest.configs import LinearVaeConfig
from hub_client.manifest.v1 import Manifest
from hub_client.models.architectures._network import Decoded, Network
from hub_client.nn import losses
from hub_client.nn.layers import Dense, GrowingTable


class LinearVae(Network):
    """The network a manifest of kind ``linear-vae`` describes."""

    kind: ClassVar[str] = "linear-vae"
    config: LinearVaeConfig

    def __init__(self, manifest: Manifest) -> None:
        super().__init__(manifest)
        named = self.named_axes()
        self.mean = Dense(named["genes"], named["latent"])
        self.log_variance = Dense(named["genes"], named["latent"])
        self.loadings = Dense(named["latent"], named["genes"])
        self.offsets = nn.ModuleList(
            [
                GrowingTable(named[f"conditions.{key}"], named["genes"], reference=axis.reference, bound=0.1)
                for key, axis in self.vocabulary.conditions.items()
            ]
        )
        self.theta = GrowingTable(
            named["combinations"], named["genes"], reference=self.vocabulary.reference_combinations
        )
        self.freeze_reference()

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the latent's posterior mean and variance, ``(cells, latent)`` each."""
        x = batch.dense(torch.log1p(batch.values))
        return self.mean(x), torch.exp(self.log_variance(x)) + 1e-4

    def decode(self, batch: Batch, z: Tensor) -> Decoded:
        """Return the expected counts of each cell at ``z``, ``(cells, latent)``."""
        logits = self.loadings(z)
        for position, table in enumerate(self.offsets):
            logits = logits + table(batch.conditions[:, position])
        return Decoded(torch.softmax(logits, dim=1) * batch.size_factor[:, None])

    def reconstruction(self, batch: Batch, z: Tensor) -> Tensor:
        """Return the negative log-likelihood of each cell at ``z``, ``(cells,)`` (nats)."""
        rate = self.decode(batch, z).mean
        return losses.negative_binomial(batch.nonzero, rate, log_theta=self.theta.rows, codes=batch.combinations)

    def cell_losses(self, batch: Batch) -> Tensor:
        """Return each cell's reconstruction loss at its posterior mean, ``(cells,)`` (nats)."""
        return self.reconstruction(batch, self.encode(batch)[0])

    def forward(self, batch: Batch, *, kl_weight: float = 1.0, sample: bool = True) -> dict[str, Tensor]:
        """Return the loss, ``reconstruction + kl_weight kl``, and its terms, over cells."""
        mean, variance = self.encode(batch)
        z = mean + variance.sqrt() * torch.randn_like(mean) if sample else mean
        reconstruction = self.reconstruction(batch, z).mean()
        kl = losses.kl_standard_normal(mean, variance).mean()
        loss = reconstruction + kl_weight * kl
        return {"loss": loss, "unweighted": reconstruction + kl, "reconstruction": reconstruction, "kl": kl}

    def first_layers(self) -> list[nn.Module]:
        """Return what reads expression or the latent first."""
        return [self.mean, self.log_variance, self.loadings]

    def first_weight(self) -> Tensor:
        """Return the weights of the genes, ``(latent, genes)``."""
        return self.mean.weight
'''
ROW = f'    "{KIND}": "hub_client.models.architectures.linear_vae:LinearVae",\n'


def put_before(path: Path, mark: str, text: str) -> None:
    """Write text into a file before the only place that has a mark."""
    before, after = path.read_text().split(mark)
    path.write_text(before + text + mark + after)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the package and its tests with a seventh architecture, made as CONTRIBUTING says."""
    root = tmp_path_factory.mktemp("seventh")
    unread = shutil.ignore_patterns("__pycache__", "golden", "manifests")
    for folder in ("hub_client", "tests", "cards"):
        shutil.copytree(ROOT / folder, root / folder, ignore=unread)
    shutil.copy(ROOT / "pyproject.toml", root)
    configs = root / "hub_client" / "manifest" / "configs.py"
    put_before(configs, "ArchitectureConfig = Annotated[", CONFIG.lstrip("\n"))
    put_before(configs, ",\n    Field(discriminator=", " | LinearVaeConfig")
    architectures = root / "hub_client" / "models" / "architectures"
    (architectures / "linear_vae.py").write_text(NETWORK)
    put_before(architectures / "__init__.py", '    "scanvi":', ROW)
    return root


def run(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", *arguments]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)


def test_a_seventh_architecture_keeps_the_contract(package: Path) -> None:
    chosen = f"{KIND} or every_architecture"
    record = package / "record.xml"
    suite = ("tests/contract/test_contract.py", "-k", chosen, f"--junitxml={record}", "-q", "-p", "no:cacheprovider")
    done = run(package, "-m", "pytest", *suite)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    cases = [case for case in ElementTree.parse(record).iter("testcase") if case.find("skipped") is None]
    ran = Counter(case.attrib["name"].partition("[")[0] for case in cases)
    promises = (ROOT / "tests" / "contract" / "test_contract.py").read_text().count("\n@every\n")
    assert len(ran.keys() - {"test_every_architecture_has_an_example"}) == promises
    assert all(KIND in case.attrib["name"] for case in cases if "[" in case.attrib["name"])


def test_it_is_the_copy_that_has_it(package: Path) -> None:
    code = "import hub_client.manifest.configs as c; print(c.__file__, *c.CONFIGS)"
    done = run(package, "-c", code)
    assert done.returncode == 0, done.stderr
    path, *kinds = done.stdout.split()
    assert Path(path).is_relative_to(package)
    assert KIND in kinds
