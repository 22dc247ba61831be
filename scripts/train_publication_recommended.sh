#!/usr/bin/env bash
# Train the three publication experiments: without isotropy, with isotropy, and with isotropy on a frozen base.
#
#   scripts/train_publication_recommended.sh [--parallel] [--smoke] [--root DIR]
#
# --parallel   one GPU each (0, 1, 2) at the same time; else one after the other
# --smoke      the same chain on a hundred documents and all-MiniLM-L6-v2, on a CPU
# --root DIR   folder for data/, checkpoints/, results/ and paper/ (default: . or, with --smoke, results/smoke)
#
# Started again, it resumes. PYTHON names the interpreter (default: python).
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/publication_options.sh

if [ -e "$train_pairs" ]; then
    echo "pairs: $train_pairs, as they are"
elif [ -n "$smoke" ]; then
    "$PYTHON" scripts/prepare_data.py --documents python_docs --packages argparse asyncio collections json logging \
        --max_documents 100 --split 0.2 0.1 0.7 --add_negatives bm25 --output_dir "$beir/python_docs"
else
    "$PYTHON" scripts/download_msmarco.py --output_dir "$(dirname "$train_pairs")" --resume
fi

train() {
    "$PYTHON" scripts/train.py --config "publication_$1" --train_data "$train_pairs" \
        --val_data "$dev_pairs" --output_dir "$checkpoints/publication_$1" --resume "${smaller[@]}"
}

if [ -n "$parallel" ]; then
    processes=()
    gpu=0
    for name in "${experiments[@]}"; do
        mkdir -p "$checkpoints"
        CUDA_VISIBLE_DEVICES=$gpu train "$name" >"$checkpoints/publication_$name.log" 2>&1 &
        processes+=($!)
        gpu=$((gpu + 1))
    done
    for process in "${processes[@]}"; do
        wait "$process" || { echo "an experiment failed; see $checkpoints/publication_*.log" >&2; exit 1; }
    done
else
    for name in "${experiments[@]}"; do
        train "$name"
    done
fi
