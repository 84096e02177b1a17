"""``archzoo audit-labels``: a table for people, JSON for scripts, suspects as CSV and a picture."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from tests.cli.test_cli import Run, run  # noqa: F401 - fixture
from tests.labels.test_audit import cells, planted

RECIPE = Path(__file__).parents[2] / "zoo" / "recipes" / "pbmc-scpoli.toml"


@pytest.mark.slow
def test_suspects_are_written_and_the_table_is_shown(run: Run, tmp_path: Path) -> None:  # noqa: F811
    wrong, rows = planted(cells())
    wrong.write_h5ad(tmp_path / "cells.h5ad")
    words = ("audit-labels", tmp_path / "cells.h5ad", "--labels", "cell_type", "--batch", "batch")
    done = run(*words, "--out", tmp_path / "suspects.csv", "--plot", tmp_path / "audit.png")
    assert done.code == 0 and "called instead" in done.out and "look like others" in done.out
    suspects = pd.read_csv(tmp_path / "suspects.csv")
    assert len(set(suspects["row"]) & set(rows)) >= 0.9 * len(rows)
    assert list(suspects.columns) == ["cell", "row", "batch", "given", "suggested", "probability", "reasons"]
    assert (tmp_path / "audit.png").read_bytes().startswith(b"\x89PNG")
    found = run(*words, "--json").json
    assert found["suspected"] == len(suspects) and {row["label"] for row in found["labels"]} == {"B", "Mono", "NK", "T"}


@pytest.mark.slow
def test_markers_come_from_a_recipe(run: Run, tmp_path: Path) -> None:  # noqa: F811
    adata = cells()
    adata.write_h5ad(tmp_path / "cells.h5ad")
    markers = '[labels.markers]\n"B" = { absent = ["MARK-B"] }\n\n'
    (tmp_path / "recipe.toml").write_text(RECIPE.read_text().replace("[architecture]", f"{markers}[architecture]"))
    words = ("audit-labels", tmp_path / "cells.h5ad", "--labels", "cell_type", "--recipe", tmp_path / "recipe.toml")
    assert "'B' cells have counts of MARK-B" in run(*words).out
    assert run("audit-labels", tmp_path / "cells.h5ad", "--labels", "cell_tpye").code == 8
