"""Kills a fit at random moments, resumes it, and holds its bits against those of one left alone.

    python benchmarks/kill_and_resume.py --kills 10

SIGKILL leaves no time for anything: what the next process finds is what the last checkpoint left.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

STEPS, GROUPS = 6000, 2000


def fit(folder: Path, backend: str) -> None:
    """Fits with free rows in batches, a checkpoint after every record, and prints a digest."""
    from example_model import effects

    import pavi

    trainer = pavi.Trainer(
        effects.graph(),
        effects.data(GROUPS),
        backend=backend,
        family=pavi.Family(encoding="encoder+free"),
        batch={"group": 100},
    )
    print("started", flush=True)
    posterior = trainer.fit(STEPS, progress=False, checkpoint=folder, checkpoint_seconds=0.0)
    digest = hashlib.sha256(posterior.history.elbo.tobytes())
    for arrays in (posterior.weights, posterior.tables):
        for name in sorted(arrays):
            digest.update(arrays[name].tobytes())
    print(f"digest {digest.hexdigest()}", flush=True)


def process(folder: Path, backend: str) -> subprocess.Popen[str]:
    """A process that fits."""
    command = [sys.executable, __file__, "--folder", str(folder), "--backend", backend]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def finished(one: subprocess.Popen[str]) -> str:
    """The digest that a process printed at its end."""
    output, _ = one.communicate()
    (digest,) = [line for line in output.splitlines() if line.startswith("digest")]
    return digest.split()[1]


def study(backend: str, kills: int, seed: int) -> bool:
    """Whether a fit killed so often has the bits of one left alone."""
    rng, root = np.random.default_rng(seed), Path(tempfile.mkdtemp())
    try:
        start = time.perf_counter()
        alone = finished(process(root / "alone", backend))
        seconds = time.perf_counter() - start
        print(f"{backend}: left alone {seconds:.0f} s", flush=True)
        for kill in range(kills):
            one = process(root / "killed", backend)
            assert one.stdout is not None
            one.stdout.readline()
            try:
                one.wait(rng.uniform(0.0, seconds))
            except subprocess.TimeoutExpired:
                one.send_signal(signal.SIGKILL)
            one.wait()
            found = sorted(p.name for p in (root / "killed").glob("step-*"))
            print(f"  kill {kill + 1}: {found[-1] if found else 'no checkpoint yet'}", flush=True)
        resumed = finished(process(root / "killed", backend))
    finally:
        shutil.rmtree(root)
    print(f"  the same bits: {resumed == alone}", flush=True)
    return resumed == alone


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backend", nargs="+", default=["numpyro", "tfp"])
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.folder is not None:
        fit(args.folder, args.backend[0])
        return
    same = [study(backend, args.kills, args.seed) for backend in args.backend]
    sys.exit(0 if all(same) else 1)


if __name__ == "__main__":
    main()
