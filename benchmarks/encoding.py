"""How fast texts are encoded: sentence-transformers beside ours, by each backend and dtype that there is.

Documents of a BEIR folder go through MiniLM by ``SentenceTransformer.encode`` (float32, 32 texts at a time), and by
``TextBase.encode``. The ways take turns in one process, so that a machine that is busy at times is so for all. Says
tokens in a second, how many times faster than sentence-transformers (median, least and most over the rounds), and the
cosine of vectors with those of sentence-transformers. ``--tokens`` tries other budgets, ``--full`` ranks the whole set.
"""

import argparse
import copy
import importlib.util
import time
from collections.abc import Callable
from pathlib import Path

from ragcun.cli.parser import run_script

PUBLISHED = "sentence-transformers"


def ways(base, documents: list[str], budgets: list[int]) -> dict[str, Callable]:
    from ragcun.embeddings import encode as encoding
    from ragcun.embeddings.encode import resolve_dtype

    def ours(dtype: str, tokens: int) -> Callable:
        def encode():
            encoding.CPU_TOKENS = encoding.GPU_TOKENS = tokens
            base.compute_in(dtype)
            return base.encode(documents, "document")

        return encode

    def openvino(dtype: str) -> Callable:
        compiled = copy.copy(base)
        compiled.compute_in(dtype, "openvino")
        compiled.encode(documents[:8], "document")  # converted and compiled

        def encode():
            return compiled.encode(documents, "document")

        return encode

    native = resolve_dtype("auto", base.model.device)
    found = {PUBLISHED: lambda: base.model.encode_document(documents, batch_size=32, show_progress_bar=False)}
    for dtype in dict.fromkeys(("float32", native)):
        found |= {f"{dtype}, {tokens} tokens": ours(dtype, tokens) for tokens in budgets}
    if base.model.device.type == "cpu" and importlib.util.find_spec("openvino"):
        found |= {f"openvino, {dtype}": openvino(dtype) for dtype in dict.fromkeys(("float32", native, "int8"))}
    return found


def measure(flags: argparse.Namespace) -> str:
    import numpy as np

    from ragcun import TextBase, load_collection
    from ragcun.embeddings.encode import token_budget

    base = TextBase.load(flags.model, device=flags.device)
    base.freeze(True)
    contents = [document.content for document in load_collection(flags.data_dir, flags.split).documents.values()]
    documents = contents[:: max(1, len(contents) // flags.documents)][: flags.documents]
    tokens = sum(int(base.features([text], "document")["attention_mask"].sum()) for text in documents)
    encoders = ways(base, documents, flags.tokens or [token_budget(base.model.device)])
    seconds: dict[str, list[float]] = {name: [] for name in encoders}
    vectors, clock = {}, time.process_time if flags.processor_time else time.perf_counter
    for _ in range(flags.rounds):
        for name, encode in encoders.items():
            start = clock()
            vectors[name] = encode()
            seconds[name].append(clock() - start)
    unit = {name: each / np.linalg.norm(each, axis=1, keepdims=True) for name, each in vectors.items()}
    clocked = ", processor time" if flags.processor_time else ""
    lines = [
        f"{len(documents)} documents, {tokens} tokens, {flags.rounds} rounds{clocked}",
        hardware(base.model.device),
    ]
    for name, taken in seconds.items():
        ratios = np.sort(np.array(seconds[PUBLISHED]) / taken)
        cosine = (unit[name] * unit[PUBLISHED]).sum(axis=1)
        lines.append(
            f"{name:24s} {tokens / np.median(taken):7.0f} tokens/s, {np.median(ratios):.2f} times "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f}), cosine: least {cosine.min():.6f}, mean {cosine.mean():.6f}"
        )
    return "\n".join(lines)


def hardware(device) -> str:
    import torch

    from ragcun.embeddings.encode import bfloat16_features, resolve_dtype

    known = torch.cpu.get_capabilities()
    vectors = [name for name in ("avx2", "avx512_f", "avx512_vnni") if known.get(name, False)]
    features = ", ".join([*vectors, *bfloat16_features()]) or "none known"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return f"{name}; CPU features: {features}; native: {resolve_dtype('auto', device)}"


def rank(flags: argparse.Namespace) -> str:
    """Say NDCG@10 of the whole set in float32 and in the native dtype."""
    from ragcun import load_collection
    from ragcun.retrieval.systems import EncodingOptions, evaluate_retriever, open_system

    collection, lines = load_collection(flags.data_dir, flags.split), []
    for dtype in ("float32", "auto"):
        system = open_system(flags.model, EncodingOptions(device=flags.device, base_dtype=dtype))
        mean = evaluate_retriever(system.retriever, collection, cutoffs=(10,)).mean
        lines.append(f"{collection.name} {dtype}: NDCG@10 {mean['NDCG@10']:.4f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, required=True, help="BEIR folder")
    parser.add_argument("--split", default="test")
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--documents", type=int, default=512, help="how many documents, taken evenly from all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, nargs="+", help="budgets to try (default: the one that is used)")
    parser.add_argument("--device")
    shared = "count processor time, for a machine shared with others; with one thread it is the time alone"
    parser.add_argument("--processor_time", action="store_true", help=shared)
    parser.add_argument("--full", action="store_true", help="NDCG@10 on the whole set too")
    flags = parser.parse_args()
    print(measure(flags))
    if flags.full:
        print(rank(flags))


if __name__ == "__main__":
    run_script(main)
