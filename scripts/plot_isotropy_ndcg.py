"""Plot NDCG@10 against a measure of isotropy, from results of evaluate_beir.py and reports of compute_isotropy.py."""

from ragcun.cli.parser import ArgumentParser, run_script


def main() -> None:
    from ragcun.reporting.tradeoffs import plot_isotropy_against_ndcg

    parser = ArgumentParser(description=__doc__)
    files = {"nargs": "+", "required": True}
    parser.add_argument("--results", metavar="RESULTS.json", help="results files of evaluate_beir.py", **files)
    parser.add_argument("--isotropy", metavar="isotropy.json", help="reports of compute_isotropy.py", **files)
    parser.add_argument("--output", required=True, metavar="FILE.png", help="plot to write, as PNG")
    parser.add_argument("--measure", default="isoscore", help="measure in the reports (default: %(default)s)")
    spaces = ("documents", "queries", "together", "pairs")
    parser.add_argument("--space", default="documents", choices=spaces, help="what it is of (default: %(default)s)")
    flags = parser.parse_args()
    plot_isotropy_against_ndcg(flags.results, flags.isotropy, flags.output, flags.measure, flags.space)
    print(f"plot: {flags.output}")


if __name__ == "__main__":
    run_script(main)
