# What the publication scripts share; sourced by them, after cd to the repository.
PYTHON=${PYTHON:-python}
experiments=(baseline isotropy frozen)
smoke=
parallel=
root=
while [ $# -gt 0 ]; do
    case $1 in
        --smoke) smoke=1 ;;
        --parallel) parallel=1 ;;
        --root) root=${2:?"--root needs a folder"}; shift ;;
        *) echo "$(basename "$0"): unknown option $1; there are --smoke, --parallel and --root DIR" >&2; exit 2 ;;
    esac
    shift
done
root=${root:-${smoke:+results/smoke}}
root=${root:-.}
beir=$root/data
train_pairs=$root/data/msmarco/train.jsonl
dev_pairs=$root/data/msmarco/dev.jsonl
checkpoints=$root/checkpoints
results=$root/results/publication
paper=$root/paper
smaller=()
datasets=(--datasets all --download)
measured=scifact
baselines=(bm25 contriever)
if [ -n "$smoke" ]; then
    smaller=(--base_model minilm --epochs 1 --mixed_precision no --device cpu --batch_size 8 --output_dim 128)
    datasets=(--datasets python_docs)
    train_pairs=$beir/python_docs/pairs/train.jsonl
    dev_pairs=$beir/python_docs/pairs/dev.jsonl
    measured=python_docs
    baselines=(bm25)
fi
