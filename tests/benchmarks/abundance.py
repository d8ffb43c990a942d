"""Differential abundance on counts with known effects: false calls, power and coverage, beside simple tests.

Donors in two conditions, a quarter of the types with effects (`_shares.py`). `t` is a t-test of each type on logit
shares (paired where donors are in both conditions), `chi2` a test of pooled cells; both with Benjamini-Hochberg.
"""

import time

import numpy as np
from _common import parser, report
from _docs_table import write_table
from _shares import Shares, shares
from scipy import stats

FDR = 0.05
#: Donors per arm, types, and what else differs.
DESIGNS = [
    (3, 10, {}),
    (4, 10, {}),
    (8, 10, {}),
    (4, 5, {}),
    (4, 20, {}),
    (4, 10, {"paired": True}),
    (8, 10, {"paired": True}),
    (4, 10, {"changed": 0.0}),
    (8, 10, {"changed": 0.0}),
    (4, 10, {"logit_sd": 0.3}),
    (8, 10, {"logit_sd": 0.3}),
    (8, 10, {"logit_sd": 0.3, "changed": 0.0}),
]


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("--runs", type=int, default=200)
    cli.add_argument("--docs", action="store_true", help="write the table into docs/abundance.md")
    args = cli.parse_args()
    rows = []
    for n, n_types, settings in DESIGNS:
        runs = [one(shares(n, n_types, **settings, rng=np.random.default_rng(seed))) for seed in range(args.runs)]
        about = {"donors": f"{n} v {n}", "types": n_types, "paired": "yes" if settings.get("paired") else "no"}
        about |= {"shares": "logit-normal" if "logit_sd" in settings else "Dirichlet"}
        about |= {"changed": f"{settings.get('changed', 0.25):.0%}"}
        rows.append(about | {name: float(np.mean(np.concatenate([run[name] for run in runs]))) for name in runs[0]})
        print(rows[-1], flush=True)  # noqa: T201
    report(args, abundance=rows)
    if args.docs:
        shown = [{name: f"{v:.3f}" if isinstance(v, float) else v for name, v in row.items()} for row in rows]
        shown = [{name: "" if v == "nan" else v for name, v in row.items()} for row in shown]
        print(write_table("abundance.md", "abundance", shown, f"{args.runs} data sets a row, nominal FDR {FDR:.0%}"))  # noqa: T201


def one(data: Shares) -> dict[str, np.ndarray]:
    """What is averaged over runs: each number in an array, empty where it does not exist."""
    from scbayes.models._abundance import abundances

    start = time.perf_counter()
    columns = {name: value[0] for name, value in abundances(data.samples, "unchanged", fdr=FDR).columns.items()}
    seconds = time.perf_counter() - start
    covered = (columns["ci_low"] <= data.lfc) & (data.lfc <= columns["ci_high"])
    of_share = (columns["share_lfc_ci_low"] <= data.share_lfc) & (data.share_lfc <= columns["share_lfc_ci_high"])
    row = judged("", columns["is_changed"], data.lfc)
    row |= {"coverage": covered, "coverage of changed": covered[data.lfc != 0], "coverage of shares": of_share}
    counts, treated = data.samples.counts, data.samples.level == 1
    share = (counts + 0.5) / (counts.sum(1, keepdims=True) + 1)
    logit = np.log(share / (1 - share))
    test = stats.ttest_rel if data.samples.people.shape[1] else stats.ttest_ind
    row |= judged("t: ", adjusted(test(logit[treated], logit[~treated]).pvalue), data.lfc)
    pooled = np.stack([counts[treated].sum(0), counts[~treated].sum(0)])
    rest = pooled.sum(1, keepdims=True) - pooled
    p = [stats.chi2_contingency(np.stack([pooled[:, k], rest[:, k]], 1)).pvalue for k in range(pooled.shape[1])]
    return row | judged("chi2: ", adjusted(np.array(p)), data.lfc) | {"seconds": np.array([seconds])}


def adjusted(p: np.ndarray) -> np.ndarray:
    return stats.false_discovery_control(p) <= FDR


def judged(name: str, called: np.ndarray, truth: np.ndarray) -> dict[str, np.ndarray]:
    """Share of false calls; whether each changed type is called."""
    false = (called & (truth == 0)).sum() / max(called.sum(), 1)
    return {f"{name}FDR": np.array([false]), f"{name}power": called[truth != 0]}


if __name__ == "__main__":
    main()
