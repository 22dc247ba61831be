"""Write the tables of a paper from results of evaluate_beir.py: LaTeX, and the same as Markdown and CSV beside it."""

from ragcun.cli.parser import ArgumentParser, run_script


def main() -> None:
    from ragcun.reporting.formats import LABEL, paper_tables

    parser = ArgumentParser(description=__doc__)
    files = "results files, each FILE, NAME=FILE, or NAME=FILE,FILE,… for seeds"
    parser.add_argument("--results", nargs="+", required=True, metavar="RESULTS.json", help=files)
    place = "LaTeX file to write (default: %(default)s)"
    parser.add_argument("--output", default="paper/results_table.tex", metavar="FILE.tex", help=place)
    parser.add_argument("--caption", help="caption of the tables, as plain text (default: the metric)")
    parser.add_argument("--label", default=LABEL, help="label of the first table (default: %(default)s)")
    flags = parser.parse_args()
    written = paper_tables(flags.results, flags.output, flags.caption, flags.label)
    print(f"tables: {', '.join(map(str, written))}")


if __name__ == "__main__":
    run_script(main)
