"""Write one self-contained HTML page about runs: results, settings, curves, isotropy, best and worst queries."""

from ragcun.cli.parser import ArgumentParser, run_script


def main() -> None:
    from ragcun.reporting.html import write_report

    parser = ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN_DIR", help="run folders of train.py")
    results = "further results of evaluate_beir.py (those in the run folders are taken anyway)"
    parser.add_argument("--results", nargs="+", default=[], metavar="FILE", help=results)
    isotropy = "further isotropy.json of compute_isotropy.py (those in the run folders are taken anyway)"
    parser.add_argument("--isotropy", nargs="+", default=[], metavar="FILE", help=isotropy)
    data = "folder of BEIR collections, for texts of queries and documents (default: the one the results name)"
    parser.add_argument("--data_dir", metavar="DIR", help=data)
    output = "page to write (default for one run: RUN_DIR/report.html; needed for several)"
    parser.add_argument("--output", metavar="FILE", help=output)
    flags = parser.parse_args()
    print(f"report: {write_report(flags.runs, flags.output, flags.results, flags.isotropy, flags.data_dir)}")


if __name__ == "__main__":
    run_script(main)
