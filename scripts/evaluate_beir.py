"""Evaluate a checkpoint or any model on BEIR collections, beside the untouched base and other baselines."""

import argparse
from pathlib import Path

from ragcun.cli import ArgumentParser, run_script


def parse() -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__)
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--model_path", metavar="DIR", help="checkpoint folder; its untouched base is evaluated too")
    model.add_argument("--model", metavar="NAME", help="hub name, folder, minilm, or bm25")
    names = "folders in --data_dir (default: all)"
    parser.add_argument("--datasets", nargs="+", default=["all"], metavar="NAME", help=names)
    parser.add_argument("--data_dir", default="data", metavar="DIR", help="folder of BEIR collections (default: data)")
    parser.add_argument("--split", default="test", help="qrels to use (default: test)")
    parser.add_argument(
        "--output_file",
        "--output",
        metavar="FILE",
        default="results/beir.json",
        help="results, as JSON (default: %(default)s)",
    )
    parser.add_argument(
        "--baseline",
        nargs="+",
        default=[],
        metavar="SPEC",
        help="more rows to test against: bm25, models, result files",
    )
    parser.add_argument("--distance", choices=("euclidean", "cosine", "dot"), help="of the model (default: its own)")
    parser.add_argument(
        "--cache_dir", metavar="DIR", help="cached base vectors (default: $RAGCUN_CACHE or ~/.cache/ragcun)"
    )
    parser.add_argument("--batch_size", type=int, default=32, help="texts encoded at a time (default: 32)")
    parser.add_argument("--device", help="cpu or cuda (default: a GPU where there is one)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the randomisation test (default: 0)")
    parser.add_argument("--update_card", action="store_true", help="write the table into the checkpoint's model card")
    return parser.parse_args()


def main() -> None:
    flags = parse()

    from ragcun.data.beir import find_collections, load_collection
    from ragcun.files import write_text
    from ragcun.reporting.tables import results_table
    from ragcun.retrieval.benchmark import run_benchmark
    from ragcun.retrieval.systems import EncodingOptions, open_system
    from ragcun.training.card import write_scores
    from ragcun.training.runfolder import environment

    collections = [load_collection(folder, flags.split) for folder in find_collections(flags.data_dir, flags.datasets)]
    options = EncodingOptions(flags.cache_dir, flags.batch_size, flags.device)
    model = open_system(flags.model_path or flags.model, options, flags.distance)
    baselines = [open_system(spec, options) for spec in flags.baseline]
    output = Path(flags.output_file)
    manifest = environment(flags.device or "auto")
    table = results_table(run_benchmark(model, baselines, collections, output, manifest, seed=flags.seed))
    write_text(output.with_suffix(".md"), table + "\n")
    if flags.update_card:
        write_scores(flags.model_path or flags.model, table)
    print(
        f"{table}\n\nreport: {output.with_suffix('.md')}, figures: {output}, run files: {output.with_suffix('.runs')}"
    )


if __name__ == "__main__":
    run_script(main)
