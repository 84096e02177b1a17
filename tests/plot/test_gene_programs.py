"""Figures of gene programs: what is drawn is what the tables say, and whole names fit."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from hub_client import errors, plot
from hub_client.models.model import Model
from hub_client.plot import gene_programs
from hub_client.programs.enrichment import enrichment, term_scores, write_scores
from hub_client.programs.terms import term_genes
from tests.contract.examples import EXAMPLES, trained
from tests.simulated import cells_for

LONG = "Respiratory electron transport, ATP synthesis by chemiosmotic coupling, and heat production by a protein"


@pytest.fixture(scope="module")
def model() -> Model:
    return trained("expimap")


@pytest.fixture(scope="module")
def table(model: Model) -> pd.DataFrame:
    cells = cells_for(model.manifest)
    found = enrichment(model, cells, groups=cells.labels["cell_type"], pairs=200)
    return found.replace({"term": {model.manifest.terms[2].name: LONG}})


@pytest.fixture(scope="module")
def scored(model: Model) -> AnnData:
    cells = cells_for(model.manifest)
    adata = AnnData(obs=pd.DataFrame({"cell_type": cells.labels["cell_type"]}, index=pd.Index(cells.obs_names)))
    write_scores(adata, term_scores(model, cells))
    return adata


def names(figure: Figure, panel: int = 0) -> list[str]:
    """The names of a panel's bars, unwrapped."""
    return [label.get_text().replace("\n", " ") for label in figure.axes[panel].get_yticklabels()]


def lengths(figure: Figure, panel: int = 0) -> list[float]:
    return [bar.get_width() for bar in figure.axes[panel].patches]


def colours(figure: Figure, panel: int = 0) -> list[tuple[float, ...]]:
    return [bar.get_facecolor() for bar in figure.axes[panel].patches]


def assert_nothing_overlaps(figure: Figure, path: Path) -> None:
    """Names are inside the figure and apart from each other."""
    figure.savefig(path)
    assert path.stat().st_size > 1000
    frame = figure.bbox
    for axes in figure.axes:
        boxes = [label.get_window_extent() for label in axes.get_yticklabels() if label.get_text()]
        assert all(frame.x0 <= box.x0 and box.y0 >= frame.y0 and box.y1 <= frame.y1 for box in boxes)
        boxes.sort(key=lambda box: box.y0)
        assert all(below.y1 <= above.y0 + 1 for below, above in pairwise(boxes))


def test_factors_are_ranked_by_size_with_their_sign_as_colour(table: pd.DataFrame) -> None:
    figure = plot.bayes_factors(table, top=4)
    groups = list(dict.fromkeys(table["group"]))
    assert len(figure.axes) == len(groups) == 4
    for panel, group in enumerate(groups):
        rows = table[table["group"] == group].head(4)
        assert names(figure, panel) == list(rows["term"])
        np.testing.assert_allclose(lengths(figure, panel), rows["bayes_factor"].abs())
        expected = [to_rgba(gene_programs.UP if value > 0 else gene_programs.DOWN) for value in rows["bayes_factor"]]
        assert colours(figure, panel) == expected
        assert figure.axes[panel].get_title(loc="left") == f"{group} against rest"


def test_a_dashed_line_stands_at_the_threshold(table: pd.DataFrame) -> None:
    for threshold in (gene_programs.STRONG, 1.0):
        (line,) = plot.bayes_factors(table, groups=["NK"], threshold=threshold).axes[0].lines
        assert list(line.get_xdata()) == [threshold, threshold]
        assert line.get_linestyle() == "--"


def test_a_table_in_another_order_gives_the_same_figure(table: pd.DataFrame) -> None:
    shuffled = table.sample(frac=1, random_state=0)
    assert names(plot.bayes_factors(shuffled, groups=["T"])) == names(plot.bayes_factors(table, groups=["T"]))


def test_long_names_are_wrapped_and_whole(table: pd.DataFrame, tmp_path: Path) -> None:
    figure = plot.bayes_factors(table)
    assert LONG in names(figure)
    assert_nothing_overlaps(figure, tmp_path / "factors.png")


def test_genes_inside_and_outside_of_a_program_differ(tmp_path: Path) -> None:
    soft = trained(next(name for name in EXAMPLES if "soft" in name))
    term = soft.manifest.terms[1]
    figure = plot.term_genes(soft, term.id, top=30)
    rows = term_genes(soft, term.id).head(30)
    assert set(rows["in_mask"]) == {True, False}
    assert names(figure) == list(rows["genes"])
    np.testing.assert_allclose(lengths(figure), rows["weights"])
    assert colours(figure) == [
        to_rgba(gene_programs.INSIDE if inside else gene_programs.OUTSIDE) for inside in rows["in_mask"]
    ]
    assert figure.axes[0].get_title(loc="left") == term.name
    assert_nothing_overlaps(figure, tmp_path / "genes.png")


def test_scores_are_drawn_where_the_cells_are(scored: AnnData) -> None:
    adata = scored.copy()
    adata.obsm["X_umap"] = np.random.default_rng(0).normal(size=(adata.n_obs, 2))
    shown = list(adata.uns["X_terms"][:2])
    figure = plot.term_scores(adata, shown, color=["cell_type"])
    titles = [axes.get_title().replace("\n", " ") for axes in figure.axes]
    assert titles[:3] == ["cell_type", *shown]
    (dots,) = figure.axes[1].collections
    values = dict(zip(map(tuple, np.asarray(dots.get_offsets())), dots.get_array(), strict=True))
    for place, value in zip(adata.obsm["X_umap"], adata.obsm["X_terms"][:, 0], strict=True):
        assert values[tuple(place)] == value
    assert {text.get_text() for text in figure.axes[0].get_legend().get_texts()} == set(adata.obs["cell_type"])


@pytest.mark.slow
def test_a_map_is_computed_where_there_is_none(scored: AnnData, tmp_path: Path) -> None:
    shown = [scored.uns["X_terms"][0]]
    one, other = (plot.term_scores(scored, shown) for _ in range(2))
    places = [np.asarray(figure.axes[0].collections[0].get_offsets()) for figure in (one, other)]
    np.testing.assert_array_equal(*places)
    assert "X_umap" not in scored.obsm
    one.savefig(tmp_path / "map.png")


def test_scores_by_cell_name(model: Model, scored: AnnData) -> None:
    scores = term_scores(model, cells_for(model.manifest)).sample(frac=1, random_state=0)
    adata = AnnData(obs=scored.obs, obsm={"X_pca": np.random.default_rng(0).normal(size=(scored.n_obs, 5))})
    figure = plot.term_scores(adata, [scores.columns[0]], scores=scores, basis="X_pca")
    (dots,) = figure.axes[0].collections
    values = dict(zip(map(tuple, np.asarray(dots.get_offsets())), dots.get_array(), strict=True))
    for name, place in zip(adata.obs_names, adata.obsm["X_pca"], strict=True):
        assert values[tuple(place[:2])] == scores.loc[name, scores.columns[0]]
    with pytest.raises(errors.VocabularyError, match="1 cells have no scores"):
        plot.term_scores(adata, [scores.columns[0]], scores=scores.iloc[1:], basis="X_pca")


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda table, model, adata: plot.bayes_factors(table, groups=["Treg"]), "no groups Treg"),
        (lambda table, model, adata: plot.term_scores(adata, ["apoptosis"]), "no programs apoptosis"),
        (lambda table, model, adata: plot.term_scores(adata, [], basis="X_tsne"), "no map 'X_tsne'"),
        (lambda table, model, adata: plot.term_scores(adata, [], color=["donor"]), "no column 'donor'"),
        (lambda table, model, adata: plot.term_genes(model, "apoptosis"), "no term 'apoptosis'"),
    ],
)
def test_what_is_not_there_is_named(
    draw: Callable[[pd.DataFrame, Model, AnnData], Figure],
    message: str,
    table: pd.DataFrame,
    model: Model,
    scored: AnnData,
) -> None:
    with pytest.raises(errors.VocabularyError, match=message):
        draw(table, model, scored)


def test_nothing_to_show_is_told(scored: AnnData) -> None:
    with pytest.raises(errors.InvalidInput, match="nothing to show"):
        plot.term_scores(scored, [])


def test_what_has_no_scores_is_told() -> None:
    with pytest.raises(errors.InvalidInput, match="map it onto an expiMap"):
        plot.term_scores(AnnData(np.ones((3, 2))), ["a"])
