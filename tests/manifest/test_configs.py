"""What each kind of architecture says about itself, and what it says of what it has not."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from hub_client import errors
from hub_client.manifest.configs import CONFIGS, ExpiMapConfig, Part, ScANVIConfig, ScVIConfig, TotalVIConfig, having
from hub_client.manifest.reading import read_manifest
from hub_client.manifest.recipe import Recipe

KEPT = Path(__file__).parents[1] / "manifests"
kinds = pytest.mark.parametrize("kind", CONFIGS)
EXTENDING = {"constrained": 1, "unconstrained": 2, "soft": True, "hsic": False, "hsic_one_vs_all": False}


@kinds
def test_a_kind_has_a_title_and_a_paper(kind: str) -> None:
    config = CONFIGS[kind]
    assert config.title.lower() == kind
    assert config.doi.startswith("10.")
    assert config.doi in str(config.__doc__)


@kinds
def test_a_kind_says_its_axes(kind: str) -> None:
    """The latent is a hyperparameter but where it has a dimension for each gene program."""
    axes = CONFIGS[kind]().axes()
    assert ("latent" in axes) != ("terms" in CONFIGS[kind].parts)
    assert all(name in ("latent", "classifier") or name.startswith("hidden.") for name in axes)


def test_every_part_has_an_owner() -> None:
    assert {part: having(part) for part in get_args(Part)} == {
        "terms": ["expimap"],
        "proteins": ["totalvi"],
        "prototypes": ["scpoli"],
        "classifier": ["scanvi"],
    }


def test_what_surgery_changes_are_hyperparameters() -> None:
    for config in CONFIGS.values():
        assert config.grown <= config.model_fields.keys()


def test_a_scanvi_starts_from_the_scvi_with_its_layers() -> None:
    scvi = ScVIConfig(hidden=32, layers=2, likelihood="nb")
    scanvi = scvi.with_classifier(linear=True)
    assert scanvi == ScANVIConfig(hidden=32, layers=2, likelihood="nb", linear_classifier=True)
    assert scanvi.starts_from == scvi
    assert scvi.starts_from is None
    with pytest.raises(errors.Unsupported, match="a scANVI starts from a scVI, not from totalvi"):
        TotalVIConfig().with_classifier(linear=False)


def test_terms_are_added_to_what_has_terms() -> None:
    before = ExpiMapConfig(unconstrained_extensions=1)
    after = before.extended(**EXTENDING)
    assert dict(after.extensions) == {"constrained": 1, "unconstrained": 3}
    with pytest.raises(errors.InvalidInput, match="have soft masks"):
        after.extended(**EXTENDING | {"soft": False})
    with pytest.raises(errors.Unsupported, match=r"scvi has no gene programs, so none can be added; expiMap has\."):
        ScVIConfig().extended(**EXTENDING)


def test_models_of_a_package_are_named() -> None:
    error = ExpiMapConfig().foreign("scvi-tools", verb="to_scvi")
    assert str(error) == "expimap is no model of scvi-tools; these are scvi, scanvi, totalvi."


@pytest.mark.parametrize("kind", sorted(CONFIGS.keys() - {"totalvi"}))
def test_what_an_encoder_reads_is_written_only_where_it_came_later(kind: str) -> None:
    old, new = CONFIGS[kind](), CONFIGS[kind](encoder_input="centred")
    assert "encoder_input" not in old.model_dump(mode="json") and old.encoder_input == "log1p"
    assert new.model_dump(mode="json") == old.model_dump(mode="json") | {"encoder_input": "centred"}
    assert CONFIGS[kind].model_validate_json(new.model_dump_json()) == new != old


def test_an_older_file_still_means_log1p_counts() -> None:
    for name in ("1.0-trvae.json", "1.0-expimap.json", "1.0-totalvi.json"):
        manifest = read_manifest((KEPT / name).read_bytes(), source=name)
        assert manifest.architecture.encoder_input == "log1p"
    recipe = Recipe.read(KEPT / "recipe-1.toml")
    assert recipe.architecture.encoder_input == "log1p"
    assert "encoder_input" not in recipe.model_dump(mode="json")["architecture"]
    changed = recipe.architecture.model_copy(update={"encoder_input": "centred"})
    fields = recipe.model_copy(update={"architecture": changed}).model_dump(mode="json")
    assert Recipe.model_validate(fields).architecture == changed
