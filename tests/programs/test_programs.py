"""Gene programs: reading, matching by name, and the report of what was dropped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from hub_client import errors
from hub_client.data.genes import Panel
from hub_client.manifest.inputs import Gene, Genes
from hub_client.programs.programs import Program, as_terms, from_frame, genes_of, read, read_gmt
from tests.contract.examples import trained

SYMBOLS = ("STAT1", "ISG15", "MX1", "CD3E", "MS4A1", "H4C3")


@pytest.fixture
def panel() -> Panel:
    return Panel.over(Genes(id_type="symbol", panel=tuple(Gene(symbol=name) for name in SYMBOLS)), human=True)


def written(folder: Path, *lines: str) -> Path:
    path = folder / "sets.gmt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_names_are_uncut_and_ids_are_found(tmp_path: Path) -> None:
    long = "Interferon signalling, with a name that is much longer than thirty characters"
    path = written(
        tmp_path,
        f"{long}\tR-HSA-913531\tSTAT1\tISG15\tSTAT1",
        "HALLMARK_B\thttp://example.org/b\tMS4A1",
        "T\tsome words\tCD3E",
    )
    assert read_gmt(path) == (
        Program("R-HSA-913531", long, ("STAT1", "ISG15")),
        Program("HALLMARK_B", "HALLMARK_B", ("MS4A1",)),
        Program("T", "T", ("CD3E",)),
    )


def test_without_tabs_blanks_separate(tmp_path: Path) -> None:
    path = written(tmp_path, "IFN http://example.org/ifn STAT1  MX1", "B MS4A1")
    assert read_gmt(path) == (Program("IFN", "IFN", ("STAT1", "MX1")), Program("B", "B", ("MS4A1",)))
    with pytest.raises(errors.InvalidInput, match="separated by tabs or blanks"):
        read_gmt(written(tmp_path, "IFN"))


@pytest.mark.parametrize("line", ["only a name", "\tid\tSTAT1"])
def test_a_line_that_is_no_program_is_named(tmp_path: Path, line: str) -> None:
    with pytest.raises(errors.InvalidInput, match="line 2 of"):
        read_gmt(written(tmp_path, "A\tR-1\tSTAT1", line))


def test_an_empty_file_and_a_missing_one(tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidInput, match="is empty"):
        read_gmt(written(tmp_path, ""))
    with pytest.raises(errors.NotFound, match="no gene program file"):
        read_gmt(tmp_path / "absent.gmt")


def test_a_network_table() -> None:
    frame = pd.DataFrame(
        {"source": ["IFN", "B", "IFN", "IFN", None], "target": ["MX1", "MS4A1", "STAT1", "CD3E", "MX1"], "weight": 1.0}
    )
    frame.loc[3, "weight"] = 0.0
    assert from_frame(frame) == (Program("IFN", "IFN", ("MX1", "STAT1")), Program("B", "B", ("MS4A1",)))


def test_a_table_without_its_columns_and_one_without_rows() -> None:
    with pytest.raises(errors.VocabularyError, match="lacks columns target"):
        from_frame(pd.DataFrame({"source": ["a"], "gene": ["b"]}))
    with pytest.raises(errors.InvalidInput, match="no rows"):
        from_frame(pd.DataFrame({"source": ["a"], "target": [None]}))


def test_genes_are_matched_by_any_of_their_names(panel: Panel) -> None:
    program = Program("x", "x", ("ENSG00000115415", "G1P2", "MX1", "unheard of"))  # STAT1's id, ISG15's previous symbol
    assert genes_of([program], panel) == {0, 1, 2}
    (term,) = as_terms([program], panel, min_genes=3, source="Reactome", release="1", license="CC0-1.0").terms
    assert (term.genes, term.source, term.release, term.license) == (panel.names[:3], "Reactome", "1", "CC0-1.0")


def test_what_is_dropped_is_said(panel: Panel) -> None:
    programs = [
        Program("1", "IFN", ("STAT1", "ISG15", "MX1")),
        Program("2", "B", ("MS4A1", "CD19")),
        Program("1", "IFN again", ("STAT1", "ISG15")),
        Program("3", "all", SYMBOLS),
        Program("4", "IFN", ("STAT1", "MX1")),
        Program("5", "nothing", ()),
        Program("B", "B", ("MS4A1", "MX1", "CD3E")),
        Program("B", "B", ("MS4A1", "MX1", "CD3E")),
    ]
    chosen = as_terms(programs, panel, min_genes=2, max_genes=5)
    assert [term.name for term in chosen.terms] == ["IFN (1)", "IFN (4)", "B"]
    assert list(chosen.report["measured"]) == [3, 1, 2, 6, 2, 0, 3, 3]
    assert list(chosen.report["why"]) == [
        "",
        "fewer than 2 measured genes",
        "an earlier one has the same id",
        "more than 5 measured genes",
        "",
        "no genes",
        "",
        "an earlier one has the same name",
    ]
    assert str(chosen).startswith("3 of 8 programs kept; 1 dropped: ")


def test_no_program_left(panel: Panel) -> None:
    with pytest.raises(errors.AlignmentError, match="has 2, and at least 12"):
        as_terms([Program("1", "IFN", ("STAT1", "MX1"))], panel)


@pytest.mark.slow
def test_reactome_is_read_whole(shared_data: Callable[[str], Path]) -> None:
    programs = read_gmt(shared_data("genesets/reactome_1448.gmt"))
    assert len({program.id for program in programs}) == len({program.name for program in programs}) == 1448
    assert all(program.id.startswith("R-HSA-") for program in programs)
    names = tuple(dict.fromkeys(gene for program in programs for gene in program.genes if gene.isupper()))
    measured = Panel.over(Genes(id_type="symbol", panel=tuple(Gene(symbol=name) for name in names)), human=True)
    chosen = as_terms(programs, measured)
    assert chosen.report["kept"].sum() == len(chosen.terms) > 1000
    longest = max((term.name for term in chosen.terms), key=len)
    assert len(longest) > 100 and longest in {program.name for program in programs}


def test_nearly_the_same_program_is_dropped_for_the_larger_one(panel: Panel) -> None:
    programs = [
        Program("1", "narrow", ("STAT1", "ISG15")),
        Program("2", "wide", ("STAT1", "ISG15", "MX1")),
        Program("3", "wide as well", ("STAT1", "MX1", "ISG15")),
        Program("4", "other", ("MS4A1", "CD3E", "MX1")),
    ]
    by_overlap = {0.7: ["wide", "other"], 0.6: ["wide", "other"], 0.5: ["wide", "other"], 0.1: ["wide"]}
    for overlap, expected in by_overlap.items():
        chosen = as_terms(programs, panel, min_genes=1, max_overlap=overlap)
        assert [term.name for term in chosen.terms] == (["narrow", *expected] if overlap == 0.7 else expected)
    assert len(as_terms(programs, panel, min_genes=1).terms) == 4
    report = as_terms(programs, panel, min_genes=1, max_overlap=0.6).report.set_index("name")
    assert dict(report["instead"]) == {"narrow": "2", "wide": "", "wide as well": "2", "other": ""}
    assert set(report.loc[report["instead"] != "", "why"]) == {"nearly the genes of a larger one"}


def test_the_order_of_programs_stays(panel: Panel) -> None:
    programs = [Program("1", "small", ("CD3E",)), Program("2", "large", ("STAT1", "MX1"))]
    chosen = as_terms(programs, panel, min_genes=1, max_overlap=0.5)
    assert [term.name for term in chosen.terms] == ["small", "large"]


@pytest.mark.parametrize(("file", "separator"), [("net.csv", ","), ("net.tsv", "\t")])
def test_a_table_in_a_file_with_ids_and_weights(tmp_path: Path, file: str, separator: str) -> None:
    frame = pd.DataFrame(
        {
            "id": ["R-1", "R-1", "R-2", "R-2"],
            "source": ["IFN, type I", "IFN, type I", "B", "B"],
            "target": ["MX1", "STAT1", "MS4A1", "CD3E"],
            "weight": [2.5, -0.1, None, 0],
        }
    )
    frame.to_csv(tmp_path / file, sep=separator, index=False)
    expected = (Program("R-1", "IFN, type I", ("MX1", "STAT1")), Program("R-2", "B", ("MS4A1",)))
    assert read(tmp_path / file) == expected == from_frame(frame, id="id")


def test_a_gmt_file_is_told_by_its_name(tmp_path: Path) -> None:
    path = written(tmp_path, "IFN\tR-1\tSTAT1")
    assert read(path) == read_gmt(path)


def test_what_is_wrong_with_a_table_is_said(tmp_path: Path) -> None:
    with pytest.raises(errors.NotFound, match="no gene program file"):
        read(tmp_path / "absent.csv")
    (tmp_path / "empty.tsv").write_text("")
    with pytest.raises(errors.InvalidInput, match="is no table of gene programs"):
        read(tmp_path / "empty.tsv")
    frame = pd.DataFrame({"source": ["a", "b"], "target": ["MX1", "STAT1"], "weight": ["strong", "weak"], "id": "1"})
    with pytest.raises(errors.InvalidInput, match="are no numbers"):
        from_frame(frame)
    with pytest.raises(errors.InvalidInput, match="'1' has several names: a, b"):
        from_frame(frame, weight=None, id="id")


def test_terms_of_a_models_own_genes() -> None:
    model = trained("expimap")
    genes = model.manifest.genes.names
    chosen = as_terms(from_frame(pd.DataFrame({"source": "own", "target": genes[:5]})), model, min_genes=5)
    assert chosen.terms[0].genes == genes[:5]
