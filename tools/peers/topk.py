"""Exact top-K beside FAISS: the same vectors, threads and k, in one run.

    cargo build --release
    python tools/peers/topk.py --rows 1000000 --dim 256 --batch 1 8 64 --k 10

Runs `mercer knn --report` and `faiss.IndexFlatIP` by turns, checks that both name the same neighbours, and prints the
medians and their ratio. Random unit vectors, seeded. Needs numpy and faiss-cpu.
"""

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path

import faiss
import numpy as np


def unit(rng: np.random.Generator, rows: int, dim: int) -> np.ndarray:
    vectors = rng.standard_normal((rows, dim), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def mercer(binary: str, folder: Path, k: int, threads: int, repeat: int) -> float:
    """Median milliseconds of a search, loading excluded."""
    command = [binary, "knn", "--vectors", folder / "rows.npy", "--queries", folder / "queries.npy", "--top", str(k),
               "--metric", "ip", "--output", folder / "out", "--threads", str(threads), "--repeat", str(repeat),
               "--report"]
    output = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True).stdout
    return json.loads(output)["search_ms"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--binary", default="target/release/mercer")
    options = parser.parse_args()
    rng = np.random.default_rng(1)
    rows = unit(rng, options.rows, options.dim)
    faiss.omp_set_num_threads(options.threads)
    index = faiss.IndexFlatIP(options.dim)
    index.add(rows)
    print(f"{options.rows:,} x {options.dim}, k = {options.k}, {options.threads} threads, medians in ms")
    print(f"{'batch':>6} {'mercer':>9} {'FAISS':>9} {'ratio':>7}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "rows.npy", rows)
        for batch in options.batch:
            queries = unit(rng, batch, options.dim)
            np.save(folder / "queries.npy", queries)
            ours, theirs = [], []
            for _ in range(options.rounds):
                ours.append(mercer(options.binary, folder, options.k, options.threads, 5))
                for _ in range(5):
                    start = time.perf_counter()
                    scores, ids = index.search(queries, options.k)
                    theirs.append(1e3 * (time.perf_counter() - start))
            found = np.load(folder / "out.ids.npy")
            # Rounding may swap neighbours whose scores agree to the last bits; a different set is an error.
            swapped = [q for q in range(batch) if set(found[q]) != set(ids[q])]
            assert not swapped, f"queries {swapped}: {found[swapped[0]]} is not {ids[swapped[0]]}"
            ours, theirs = np.median(ours), np.median(theirs)
            print(f"{batch:>6} {ours:>9.1f} {theirs:>9.1f} {theirs / ours:>6.1f}x", flush=True)


if __name__ == "__main__":
    main()
