"""A script that trains every kind of model on two processes, as a user's would; run by test_devices.

The first argument is the folder it writes to, the second how many devices, the others names of runs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from hub_client.manifest.plan import EarlyStopping, Plan
from hub_client.manifest.v1 import Manifest
from hub_client.models.model import Model
from hub_client.models.surgery import Extensions, surgery
from hub_client.models.train import train
from tests.simulated import QUERY, cells_for, manifest

CELLS = 131
BATCH = 64
"""Of the whole minibatch: two processes take half of it each. The last minibatch of an epoch is too small to share."""
MANIFESTS: dict[str, Manifest] = {
    "trvae": manifest("trvae", normalization="batch", dropout=0.1, encoder_input="centred"),
    "expimap": manifest("expimap", unconstrained=1, hsic=True),
    "scpoli": manifest("scpoli", dropout=0.1),
    "scvi": manifest("scvi", encoding={"kind": "embedding", "dim": 3, "max_norm": 1.0}),
    "scanvi": manifest("scanvi", encoder_input="centred"),
    "totalvi": manifest("totalvi"),
}
PLAN = Plan(epochs=3, kl_anneal_epochs=6, validation_fraction=0.2, adam_epsilon=0.01, gene_dropout=0.3, steps=6)
OWN: dict[str, dict[str, object]] = {
    "scpoli": {
        "pretraining_epochs": 1,
        "unlabelled_weight": 0.1,
        "prototype_weight": 1,
        "contrast_weight": 5,
        "label_smoothing": 0.1,
    },
    "scanvi": {"classification_weight": 50},
    "totalvi": {"adversarial": True},
}


def reports(name: str, *, devices: int) -> list[dict[str, object]]:
    """Return how training and then query training of a kind went: losses, and the sum of every tensor."""
    model = Model.build(MANIFESTS[name])
    plan = Plan.model_validate(PLAN.model_dump() | {"batch_size": BATCH // devices} | OWN.get(name, {}))
    reference = cells_for(model.manifest, cells=CELLS)
    found = [_report(model, reference, plan, devices)]
    query = cells_for(model.manifest, QUERY, cells=90, labelled=False)
    extensions = Extensions(unconstrained=1) if name == "expimap" else None
    grown = surgery(model, query, device="cpu", extensions=extensions)
    stopping = plan.model_copy(
        update={"steps": None, "epochs": 12, "early_stopping": EarlyStopping(patience=1, threshold=1e6)}
    )
    found.append(_report(grown, query, stopping, devices))
    return found


def _report(model: Model, cells: object, plan: Plan, devices: int) -> dict[str, object]:
    history = train(model, cells, plan=plan, accelerator="cpu", devices=devices, progress=True)  # type: ignore[arg-type]
    kept = history.epochs.drop(columns="cells/s")
    tensors = {key: tensor.double().sum().item() for key, tensor in model.tensors().items()}
    return {"epochs": kept.to_dict("list"), "best": history.best_epoch, "stopped": history.stopped, "tensors": tensors}


def main() -> None:
    folder, devices, *names = sys.argv[1:]
    torch.set_num_threads(1)
    found = {name: reports(name, devices=int(devices)) for name in names}
    rank = torch.distributed.get_rank()
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    model = Model.build(MANIFESTS["trvae"])
    model.save(Path(folder, "model"))  # every process comes here, and one writes


if __name__ == "__main__":
    main()
