"""The tables of ``data/bench/README.md`` are those that the stored tables give."""

import pytest

from memlab.experiments import report
from memlab.experiments.report_tables import TABLES, ReportError, table


@pytest.mark.slow  # a quarter of a minute of bootstraps
def test_the_tables_of_the_report_are_those_of_the_stored_tables():
    assert report.write_report(check=True) == []


@pytest.fixture
def two_tables(monkeypatch):
    writers = {"a": lambda: (("x", "y"), [(1, "two")]), "b": lambda: (("z",), [])}
    monkeypatch.setattr(report, "TABLES", writers)


def marked(a="", b=""):
    return f"text\n<!-- table: a -->\n{a}<!-- end -->\nmore\n<!-- table: b -->\n{b}<!-- end -->\n"


def test_only_what_is_between_the_markers_is_rewritten(two_tables):
    assert report.rewrite_tables(marked(a="| old |\n")) == marked(
        a="| x | y |\n| --- | --- |\n| 1 | two |\n", b="| z |\n| --- |\n"
    )


def test_check_names_the_tables_that_would_change_and_leaves_the_file(two_tables, tmp_path):
    file = tmp_path / "README.md"
    file.write_text(marked(b="| z |\n| --- |\n"))
    before = file.read_text()
    assert report.write_report(file, check=True) == ["a"]
    assert file.read_text() == before
    assert report.write_report(file) == ["a"]
    assert report.write_report(file) == []


def test_a_table_without_a_writer_and_a_writer_without_a_table_are_errors(two_tables):
    with pytest.raises(ReportError, match="no writer for the table 'c'"):
        report.rewrite_tables("<!-- table: c -->\n<!-- end -->\n")
    with pytest.raises(ReportError, match="no place for the table 'b'"):
        report.rewrite_tables("<!-- table: a -->\n<!-- end -->\n")


def test_a_name_has_one_writer():
    with pytest.raises(ReportError, match="two writers have the name 'horizons'"):
        table("horizons")(TABLES["horizons"])
