"""Model: what a release has to hold for its network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hub_client import errors
from hub_client.manifest.v1 import Manifest
from hub_client.models.model import Model
from hub_client.release import folder as release_folder
from tests import simulated
from tests.releases import unfit


def test_a_release_without_the_networks_tensors_is_refused(tmp_path: Path) -> None:
    """The example agrees with its manifest, which describes tensors that no network has."""
    release_folder.verify(unfit(tmp_path / "tiny"))
    with pytest.raises(errors.IntegrityError, match=r"has nothing for the tensor .*, which has shape .* kind scpoli"):
        Model.load(tmp_path / "tiny")


def test_a_release_with_tensors_of_another_shape_is_refused(tmp_path: Path) -> None:
    model = Model.build(simulated.manifest())
    model.describe()
    name = "encoder.mean.weight"
    fields = model.manifest.model_dump()
    for spec in fields["tensors"]:
        spec["shape"] = spec["shape"][::-1] if spec["name"] == name else spec["shape"]
    tensors = {key: tensor.T.contiguous() if key == name else tensor for key, tensor in model.tensors().items()}
    release_folder.verify(release_folder.write(tmp_path / "turned", Manifest.model_validate(fields), tensors))
    with pytest.raises(errors.IntegrityError, match=f"{name}, which has shape") as caught:
        Model.load(tmp_path / "turned")
    assert (caught.value.expected, caught.value.actual) == ((6, 16), (16, 6))


@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_a_network_comes_home(device: str) -> None:
    model = Model.build(simulated.manifest())
    with model.on(device):
        pass
    assert next(model.network.parameters()).device == torch.device("cpu")
