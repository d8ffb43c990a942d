"""PyDESeq2 on sums of donors, in its own environment: reads names of files, writes what it found beside them.

Each line of the input is the path of an ``.npz`` with `counts` (units x genes), `condition` and `donor` of the units,
and `paired`; the answer goes to the same name with ``.deseq2.npz``, and its seconds to the output. Donors in both
conditions are a column of the design. All other settings are PyDESeq2's own: Wald tests, Cook's distances, independent
filtering in `padj`.
"""

import json
import os
import sys
import time
import warnings
from pathlib import Path

NAMES = {"lfc": "log2FoldChange", "sd": "lfcSE", "p": "pvalue", "padj": "padj"}


class Peer:
    """The process that runs this file."""

    def __init__(self, python: Path) -> None:
        import subprocess

        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen([python, __file__], text=True, **pipes)

    def __call__(self, folder: Path, counts, condition, donor, *, paired: bool) -> dict:
        """Log2 fold change and its standard error, p, and adjusted p of c1 over c0, by gene; seconds."""
        import numpy as np

        path = Path(folder) / f"units-{os.getpid()}.npz"
        np.savez(path, counts=np.asarray(counts, np.int64), condition=condition, donor=donor, paired=paired)
        self.process.stdin.write(f"{path}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("PyDESeq2 has stopped")
        answer = path.with_suffix(".deseq2.npz")
        found = dict(np.load(answer)) | json.loads(line)
        path.unlink()
        answer.unlink()
        return found


def deseq2(counts, condition, donor, *, paired: bool) -> dict:
    import pandas as pd
    from pydeseq2.dds import DeseqDataSet
    from pydeseq2.ds import DeseqStats

    # names of levels without what formulas take for something else
    donor = [f"p{k}" for k in pd.factorize(donor)[0]]
    units = pd.DataFrame({"condition": condition, "donor": donor}, index=[f"u{i}" for i in range(len(donor))])
    frame = pd.DataFrame(counts, index=units.index, columns=[f"g{j}" for j in range(counts.shape[1])])
    here = counts.sum(0) > 0
    data = DeseqDataSet(
        counts=frame.loc[:, here],
        metadata=units,
        design="~donor + condition" if paired else "~condition",
        quiet=True,
        n_cpus=1,
    )
    data.deseq2()
    stats = DeseqStats(data, contrast=["condition", "c1", "c0"], alpha=0.05, quiet=True, n_cpus=1)
    stats.summary()
    table = stats.results_df.reindex(frame.columns)
    return {name: table[column].to_numpy(float) for name, column in NAMES.items()}


def main() -> None:
    import numpy as np

    warnings.simplefilter("ignore")
    out, sys.stdout = sys.stdout, sys.stderr  # what it prints itself is no answer
    for line in sys.stdin:
        path = Path(line.strip())
        given = np.load(path)
        start = time.perf_counter()
        parts = given["counts"], given["condition"].astype(str), given["donor"].astype(str)
        found = deseq2(*parts, paired=bool(given["paired"]))
        np.savez(path.with_suffix(".deseq2.npz"), **found)
        out.write(json.dumps({"seconds": time.perf_counter() - start}) + "\n")
        out.flush()


if __name__ == "__main__":
    main()
