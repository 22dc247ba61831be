"""Processes that tests start: forked from one in which libraries are imported, and nothing of ragcun."""

import multiprocessing
import os
import runpy
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.multiprocessing import start_processes

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["sentence_transformers", "sentence_transformers.sentence_transformer.trainer", "peft"])


def as_main(script: str, arguments: list[str], shown: str) -> None:
    """Run a Python file as the main one of this process; what it prints goes to a file."""
    with open(shown, "w", buffering=1, encoding="utf-8") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
        sys.stdout = sys.stderr = file
        os.environ |= {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        sys.argv = [script, *arguments]
        runpy.run_path(script, run_name="__main__")


def run_script(script: str | Path, *arguments: object) -> str:
    """Run a Python file in a process of its own, forked from one that has the libraries; return what it prints."""
    with tempfile.TemporaryDirectory() as folder:
        shown = Path(folder) / "shown"
        process = FORKED.Process(target=as_main, args=(str(script), [*map(str, arguments)], str(shown)))
        process.start()
        process.join(300)
        text = shown.read_text(encoding="utf-8")
    assert process.exitcode == 0, text
    return text


def start_ranks(work: Callable[..., None], *arguments: object) -> Any:
    """Start `work(rank, *arguments)` in two processes as torchrun would, but forked with everything imported."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return start_processes(work, arguments, nprocs=2, join=False, start_method="fork")


def run_ranks(work: Callable[..., None], *arguments: object) -> None:
    """Let `work(rank, *arguments)` end in two processes."""
    ranks = start_ranks(work, *arguments)
    while not ranks.join():
        pass
