"""Record what old versions save: ``python record.py models SCARCHES OUT`` and ``python record.py pickles OUT``.

README.md says with which versions of Python and its packages the files beside this one were made. SCARCHES holds one
unpacked scArches wheel per version, in a folder named after it.
"""

from __future__ import annotations

import pickle
import random
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

GENES = ["ACTB", "CD3E", "HLA-DRA", "MS4A1", "NKG7", "IL7R", "gene, old", "#9", "two words", "LYZ", "GNLY", "PPBP"]


# --- models ----------------------------------------------------------------------------------------------------------


def package(folder: Path) -> None:
    """Make ``import scarches...`` read one version's files.

    The top-level packages import scvi-tools and others that these models do not need: they are not run.
    """
    for name in [name for name in sys.modules if name.split(".")[0] in ("scarches", "scvi")]:
        del sys.modules[name]
    bare = ["scarches", "scarches.models", *(["scarches.trainers"] if folder.name == "0.3.0" else [])]
    for name in [*bare, "scvi", "scvi.data", "scvi.distributions"]:
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [str(folder.joinpath(*name.split(".")))]
    sys.modules["scvi.data"].setup_anndata = None
    sys.modules["scvi.distributions"].NegativeBinomial = None


def cells(seed: int = 0, batches: tuple[str, ...] = ("b1", "b0")):
    import anndata

    rng = np.random.default_rng(seed)
    obs = pd.DataFrame(
        {
            "batch": rng.choice(batches, 90),
            "tech": rng.choice(["v3", "v2"], 90),
            "cell type": pd.Categorical(rng.choice(["T", "B", "NK"], 90)),
            "age": rng.integers(20, 80, 90),
            "score": rng.random(90),
            "dead": rng.random(90) > 0.5,
        },
        index=[f"cell{number}" for number in range(90)],
    )
    counts = rng.poisson(3, (90, len(GENES))) * (1 + np.arange(90)[:, None] % 3)
    return anndata.AnnData(counts.astype("float32"), obs=obs, var=pd.DataFrame(index=GENES))


def seeded() -> None:
    import torch

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def keep(model, adata, out: Path, **outputs) -> None:
    """Write the model, the cells, and what the model says of them."""
    model.save(str(out))
    columns = {f"obs/{key}": adata.obs[key].to_numpy(dtype=str) for key in ("batch", "tech", "cell type")}
    arrays = {name: np.asarray(values) for name, values in outputs.items()}
    np.savez_compressed(str(out / "outputs.npz"), X=adata.X.astype("int32"), **columns, **arrays)


def trvae(folder: Path, out: Path) -> None:
    package(folder)
    from scarches.models.trvae.trvae_model import TRVAE

    seeded()
    adata = cells()
    model = TRVAE(adata, condition_key="batch", hidden_layer_sizes=[8, 6], latent_dim=4)
    model.train(n_epochs=4, batch_size=32)
    keep(model, adata, out, latent_mean=model.get_latent(mean=True))


def expimap(folder: Path, out: Path) -> None:
    package(folder)
    from scarches.models.expimap.expimap_model import EXPIMAP

    seeded()
    adata = cells()
    mask = (np.random.rand(5, len(GENES)) > 0.5).astype("float32")
    model = EXPIMAP(adata, condition_key="batch", hidden_layer_sizes=[8, 6], mask=mask)
    model.train(n_epochs=4, alpha=0.1, batch_size=32)
    model.latent_directions(method="sum")
    keep(model, adata, out, latent_mean=model.get_latent(mean=True), directions=adata.uns["directions"])


def scpoli_of_one_key(folder: Path, out: Path, *, categorical: bool) -> None:
    package(folder)
    from scarches.models.scpoli.scpoli_model import scPoli

    seeded()
    adata, query = cells(), cells(1, ("b0", "q0"))
    if categorical:
        adata.obs["batch"] = pd.Categorical(adata.obs["batch"])
    sizes = {"hidden_layer_sizes": [8], "latent_dim": 4, "embedding_dim": 3}
    model = scPoli(adata, condition_key="batch", cell_type_keys=["cell type"], **sizes)
    model.train(n_epochs=6, pretraining_epochs=3, batch_size=32)
    latent = model.get_latent(adata.X, adata.obs["batch"].values, mean=True)
    keep(model, adata, out / "reference", latent_mean=latent)
    if categorical:  # these versions cannot join the tables of obs then
        return
    grown = scPoli.load_query_data(query, model, labeled_indices=[])
    grown.train(n_epochs=6, pretraining_epochs=3, batch_size=32, unlabeled_prototype_training=False)
    latent = grown.get_latent(query.X, query.obs["batch"].values, mean=True)
    keep(grown, query, out / "query", latent_mean=latent)


def scpoli_of_two_keys(folder: Path, out: Path) -> None:
    package(folder)
    from scarches.models.scpoli.scpoli_model import scPoli

    seeded()
    adata = cells()
    sizes = {"hidden_layer_sizes": [8], "latent_dim": 4, "embedding_dims": 3}
    model = scPoli(adata, condition_keys=["batch", "tech"], cell_type_keys="cell type", **sizes)
    model.train(n_epochs=6, pretraining_epochs=3, batch_size=32)
    keep(model, adata, out, latent_mean=model.get_latent(adata, mean=True))


def models(scarches: Path, out: Path) -> None:
    for version in ("scpoli-0.5.6", "scpoli-0.5.8"):
        out.joinpath(version).mkdir(parents=True)
    trvae(scarches / "0.3.0", out / "trvae-0.3.0")
    expimap(scarches / "0.5.0", out / "expimap-0.5.0")
    scpoli_of_one_key(scarches / "0.5.6", out / "scpoli-0.5.6", categorical=True)
    scpoli_of_one_key(scarches / "0.5.8", out / "scpoli-0.5.8", categorical=False)
    scpoli_of_two_keys(scarches / "0.5.9", out / "scpoli-0.5.9")


# --- pickles ---------------------------------------------------------------------------------------------------------


def plain() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "text": ["a", "b", None],
            "whole": [1, 2, 3],
            "short": np.array([1, 2, 3], dtype="int8"),
            "real": [0.5, np.nan, 2.5],
            "single": np.array([0.5, 1.5, 2.5], dtype="float32"),
            "truth": [True, False, True],
            "kind": pd.Categorical(["x", None, "y"], categories=["y", "x"]),
            "rank": pd.Categorical([2, 1, 2], categories=[1, 2], ordered=True),
            "day": pd.to_datetime(["2020-01-02", "2021-03-04", None]),
            "span": pd.to_timedelta(["1 days", "2 days", "3 days"]),
            "again": [4, 5, 6],
        },
        index=["r0", "r1", "r2"],
    )


def extended() -> pd.DataFrame:
    found = plain()[["whole"]]
    found["count"] = pd.array([1, None, 3], dtype="Int64")
    found["bin"] = pd.cut([1, 5, 9], 2)
    found["month"] = pd.period_range("2020-01", periods=3, freq="M")
    if hasattr(pd, "StringDtype"):
        found["word"] = pd.array(["u", None, "w"], dtype="string")
        found["maybe"] = pd.array([True, None, False], dtype="boolean")
    return found


def by_condition(*keys: str) -> pd.DataFrame:
    table = pd.DataFrame({"batch": ["b1", "b0", "b1", "b0"], "tech": ["v2", "v2", "v3", "v3"], "age": [1, 2, 3, 4]})
    table["category"] = pd.Categorical(table["batch"])
    return table.groupby(list(keys)).first() if len(keys) > 1 else table.groupby(keys[0]).first()


def indexed(index) -> pd.DataFrame:
    return pd.DataFrame({"value": [1.0, 2.0]}, index=index)


def objects() -> dict[str, object]:
    return {
        "plain": plain(),
        "extended": extended(),
        "one key": by_condition("batch"),
        "two keys": by_condition("batch", "tech"),
        "category": by_condition("category"),
        "range": indexed(None),
        "whole": indexed([5, 7]),
        "real": indexed([0.5, 1.5]),
        "days": indexed(pd.to_datetime(["2020-01-02", "2021-03-04"])),
        "bins": indexed(pd.IntervalIndex.from_breaks([0, 1, 2])),
        "no columns": pd.DataFrame(index=["a", "b"]),
        "rows": np.arange(6.0).reshape(2, 3),
        "columns": np.asfortranarray(np.arange(6, dtype="int16").reshape(2, 3)),
        "big-endian": np.arange(3, dtype=">i4"),
        "texts": np.array(["a", "bcd"]),
        "bytes": np.array([b"a", b"bcd"]),
        "mixed": np.array(["a", 1, None], dtype=object),
        "truths": np.array([True, False]),
        "empty": np.zeros((0, 3), dtype="float32"),
        "point": np.array(2.5),
        "half": np.array([0.5], dtype="float16"),
        "scalars": [np.float32(0.5), np.int64(3), np.bool_(True), np.str_("b0"), np.float64(2.0)],
        "builtins": [range(3, 9, 2), slice(1, None), {"a"}, frozenset(["b"]), 1 + 2j, bytearray(b"c"), b"d"],
    }


def pickles(out: Path) -> None:
    version = ".".join(pd.__version__.split(".")[:2])
    out.joinpath(f"pandas-{version}.pkl").write_bytes(pickle.dumps(objects()))


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    what, *folders = sys.argv[1:]
    {"models": models, "pickles": pickles}[what](*map(Path, folders))
