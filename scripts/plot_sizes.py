"""Plot NDCG@10 against the bytes of a stored vector, from results of evaluate_beir.py."""

from ragcun.cli.parser import ArgumentParser, run_script


def main() -> None:
    from ragcun.reporting.tradeoffs import plot_sizes

    parser = ArgumentParser(description=__doc__)
    parser.add_argument("results", nargs="+", metavar="RESULTS.json", help="results files of evaluate_beir.py")
    parser.add_argument("--output", required=True, metavar="FILE.png", help="plot to write, as PNG")
    flags = parser.parse_args()
    plot_sizes(flags.results, flags.output)
    print(f"plot: {flags.output}")


if __name__ == "__main__":
    run_script(main)
