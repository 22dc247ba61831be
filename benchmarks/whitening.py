"""What whitening does to isotropy and to retrieval: exponent of soft whitening against NDCG@10 and IsoScore.

`ragcun.calibrate` without queries (no shift) at each exponent, on frozen all-MiniLM-L6-v2; 0 is the untouched
base, 1/2 whitens. Test queries, nothing is chosen by them. Writes the figures as JSON and the plot as PNG, and prints a
Markdown table. Needs SciFact, NFCorpus and Cranfield in ``--data_dir``; their texts are encoded once.
"""

import argparse
from pathlib import Path

from ragcun.cli.parser import run_script

SETS = {"scifact": "SciFact", "nfcorpus": "NFCorpus", "cranfield": "Cranfield"}
EXPONENTS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5)


def measure(folder: Path, cache) -> dict:
    """Return NDCG@10, its p-value against the base, and the isotropy of documents at each exponent."""
    import ragcun
    from ragcun.isotropy.measures import isoscore, isotropy_score
    from ragcun.retrieval.metrics import evaluate_run, paired_tests
    from ragcun.retrieval.runs import make_run
    from ragcun.retrieval.search import top_k

    collection = ragcun.load_collection(folder, "test")
    documents = cache.encode([document.content for document in collection.documents.values()], "document")
    queries = cache.encode(list(collection.queries.values()), "query")
    points, base = [], {}
    for exponent in EXPONENTS:
        fitted = ragcun.calibrate(documents, exponent=exponent)
        embedded = fitted.embed_documents(documents)
        found = top_k(fitted.embed_queries(queries), embedded, 11)
        run = make_run(
            list(collection.queries), list(collection.documents), found.scores, found.indices, 10, collection.own_ids
        )
        values = evaluate_run(run, collection.qrels, (10,))["NDCG@10"]
        base = base or values
        point = {"exponent": exponent, "NDCG@10": sum(values.values()) / len(values)}
        point["p_randomisation"] = paired_tests(values, base).p_randomisation if exponent else None
        points.append(point | {"isoscore": isoscore(embedded), "isotropy_score": isotropy_score(embedded)})
    return {"documents": len(documents), "queries": len(collection.qrels), "points": points}


def draw(figures: dict, output: Path) -> None:
    """Draw NDCG@10 minus the base's, and IsoScore, against the exponent."""
    from ragcun.reporting.plots import BLUE, GREY, VERMILLION, panel_grid, write_png

    figure, (gain, isotropy) = panel_grid(2, 3.6)
    styles = zip((BLUE, VERMILLION, "#009E73"), ("o", "s", "^"), ("-", "--", "-."), strict=True)
    for (name, result), (colour, marker, line) in zip(figures.items(), styles, strict=True):
        points, style = result["points"], {"color": colour, "marker": marker, "linestyle": line, "label": SETS[name]}
        exponents = [point["exponent"] for point in points]
        gain.plot(exponents, [point["NDCG@10"] - points[0]["NDCG@10"] for point in points], **style)
        isotropy.plot(exponents, [point["isoscore"] for point in points], **style)
    gain.axhline(0, color=GREY, linewidth=1.2)
    gain.annotate("untouched base", (0.5, 0), xytext=(0, 3), textcoords="offset points", ha="right", color=GREY)
    gain.set(title="retrieval", xlabel="exponent of whitening", ylabel="NDCG@10 minus the untouched base's")
    isotropy.set(title="isotropy", xlabel="exponent of whitening", ylabel="IsoScore of documents (0 to 1)")
    gain.legend()
    write_png(figure, output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, default=Path("data"), help="folder that holds the collections")
    parser.add_argument("--output", type=Path, default=Path("docs/measurements/whitening.json"))
    parser.add_argument("--figure", type=Path, default=Path("docs/figures/whitening.png"))
    parser.add_argument("--cache_dir")
    flags = parser.parse_args()

    import ragcun
    from ragcun.io import write_json
    from ragcun.reporting.tables import markdown_table

    cache = ragcun.EmbeddingCache(ragcun.TextBase.load("minilm"), flags.cache_dir)
    figures = {name: measure(flags.data_dir / name, cache) for name in SETS}
    write_json(flags.output, figures)
    draw(figures, flags.figure)
    rows = []
    for place, exponent in enumerate(EXPONENTS):
        row = [f"{exponent:.2f}"]
        for result in figures.values():
            point = result["points"][place]
            p = "" if point["p_randomisation"] is None else f" (p {point['p_randomisation']:.4f})"
            row += [f"{point['NDCG@10']:.4f}{p}", f"{point['isoscore']:.3f}", f"{point['isotropy_score']:.2f}"]
        rows.append(row)
    columns = [f"{SETS[name]}{what}" for name in SETS for what in ("", " IsoScore", " 1 − std/mean")]
    print(markdown_table(["exponent", *columns], rows))


if __name__ == "__main__":
    run_script(main)
