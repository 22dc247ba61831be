#!/usr/bin/env bash
# Evaluate the three publication experiments on all BEIR sets, beside their untouched base, BM25 and Contriever.
#
#   scripts/evaluate_all_beir.sh [--smoke] [--root DIR]
#
# Options as in train_publication_recommended.sh, which is to run first. Each set is written when it is done; started
# again, it continues with the next. Then: isotropy of each model, comparison table, tables for a paper, one HTML page.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/publication_options.sh

evaluate() {
    "$PYTHON" scripts/evaluate_beir.py "${datasets[@]}" --data_dir "$beir" --resume "$@"
}

stored=()
for name in "${baselines[@]}"; do
    evaluate --model "$name" --output_file "$results/$name.json"
    stored+=("$results/$name.json")
done
runs=()
tables=()
for name in "${experiments[@]}"; do
    run=$checkpoints/publication_$name
    evaluate --model_path "$run/best_model" --baseline "${stored[@]}" --output_file "$results/$name.json"
    "$PYTHON" scripts/compute_isotropy.py --model_path "$run/best_model" --datasets "$measured" --data_dir "$beir" \
        --output_dir "$run/isotropy" >/dev/null
    runs+=("$run")
    tables+=("$results/$name.json")
done

"$PYTHON" scripts/generate_paper_results.py --results "${tables[@]}" --output "$paper/results_table.tex"
"$PYTHON" scripts/report.py "${runs[@]}" --results "${tables[@]}" --data_dir "$beir" --output "$results/report.html"
"$PYTHON" scripts/generate_comparison_table.py "${tables[@]}"
