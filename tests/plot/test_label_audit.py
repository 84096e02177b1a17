"""The picture of an audit: a row for each label, with what the table says."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from hub_client import plot
from hub_client.labels.audit import audit_labels
from hub_client.manifest.axes import Markers
from tests.labels.test_audit import TYPES, cells, planted


@pytest.mark.slow
def test_rows_are_labels_and_squares_are_shares(tmp_path: Path) -> None:
    wrong, _ = planted(cells())
    audit = audit_labels(wrong, "cell_type", batch="batch", markers={"T": Markers(absent=("MARK-B",))})
    axes = plot.label_audit(audit)
    rows = [text.get_text() for text in axes.get_yticklabels()]
    assert [row.split("\n")[0] for row in rows] == list(TYPES)
    assert f"{audit.table.loc['T', 'cells']:,} cells" in rows[-1] and "forbidden" in rows[-1]
    (image,) = axes.get_images()
    assert (image.get_array() == audit.called.to_numpy()).all()
    axes.figure.savefig(tmp_path / "audit.png")
    assert (tmp_path / "audit.png").stat().st_size > 5_000


def test_it_draws_where_it_is_told() -> None:
    audit = audit_labels(cells(), "cell_type")
    left, right = Figure().subplots(1, 2)
    assert plot.label_audit(audit, ax=right) is right
    assert right.get_images() and not left.get_images()
