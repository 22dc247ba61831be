"""Compare results of evaluate_beir.py in one table: untouched bases, baselines and models on every dataset."""

from ragcun.cli.parser import ArgumentParser, run_script


def main() -> None:
    from ragcun.reporting.formats import LABEL, SUFFIXES, comparison_table

    parser = ArgumentParser(description=__doc__)
    files = "results files, each FILE, NAME=FILE, or NAME=FILE,FILE,… for seeds (default: all in results/)"
    parser.add_argument("files", nargs="*", metavar="RESULTS.json", help=files)
    parser.add_argument("--results", nargs="+", default=[], metavar="RESULTS.json", help="further results files")
    parser.add_argument("--metric", default="NDCG@10", help="what is compared (default: %(default)s)")
    by_suffix = "default: by the name of --output, else markdown"
    parser.add_argument("--format", choices=tuple(SUFFIXES.values()), help=by_suffix)
    parser.add_argument("--output", metavar="FILE", help="file to write (default: print the table)")
    parser.add_argument("--caption", help="caption of a LaTeX table, as plain text (default: the metric)")
    parser.add_argument("--label", default=LABEL, help="label of a LaTeX table (default: %(default)s)")
    flags = parser.parse_args()
    specs = [*flags.files, *flags.results]
    table = comparison_table(specs, flags.metric, flags.format, flags.output, flags.caption, flags.label)
    print(f"table: {flags.output}" if flags.output else table, end="\n" if flags.output else "")


if __name__ == "__main__":
    run_script(main)
