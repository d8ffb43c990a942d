"""scvi-tools' SCVI with its defaults on training counts, run by the Python of its own environment (see peers.py).

`python _scvi.py FOLDER` reads FOLDER/train.npz and, if it is there, FOLDER/test.npz (CSR), and prints one line of JSON:
seconds of training, CPU seconds, peak memory, and after each of `--checkpoints` epochs the held-out density. With
z ~ q(z | u) drawn S times by the encoder, cell by cell,

    sampled    ln 1/S sum_s p(v | u, z_s)                 the encoder's q taken as the posterior
    weighted   ln sum_s w_s p(v | u, z_s) / sum_s w_s     corrected to it, w = p(u | z) p(z) / q(z | u)
    p(v | u, z) = p(u + v | z, l / TRAIN) / p(u | z, l) x Binomial(v; u + v, 1 - TRAIN)

for the library size l of the training counts: SCVI's zero-inflated negative binomial is closed under thinning, so that
this ratio is its own prediction, with the gamma behind each count updated by the training count.
"""

import argparse
import json
import logging
import sys
import time
import warnings
from pathlib import Path

import numpy as np
from _process import peak_mb
from _thinning import WHOLE, log_split, nats_per_count
from scipy import sparse
from scipy.special import logsumexp


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("folder", type=Path)
    cli.add_argument("--epochs", type=int, help="default: as scvi-tools chooses")
    cli.add_argument("--minutes", type=float, default=np.inf, help="stop training after so long")
    cli.add_argument("--checkpoints", type=int, nargs="*", default=[5, 10, 20, 40, 80, 160, 240, 320, 400])
    cli.add_argument("--draws", type=int, default=10)
    cli.add_argument("--threads", type=int)
    cli.add_argument("--seed", type=int, default=0)
    args = cli.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    stdout, sys.stdout = sys.stdout, sys.stderr  # for the result alone
    sys.path.remove(str(Path(__file__).parent))  # names of our files are not to be found by what torch imports
    found = run(args)
    stdout.write(json.dumps(found) + "\n")


def run(args) -> dict:
    start = time.perf_counter()
    import anndata as ad
    import scvi
    import torch

    scvi.settings.seed = args.seed
    if args.threads:
        torch.set_num_threads(args.threads)
    imported = time.perf_counter()
    train = sparse.load_npz(args.folder / "train.npz").tocsr()
    test = sparse.load_npz(args.folder / "test.npz").tocsr() if (args.folder / "test.npz").exists() else None
    adata = ad.AnnData(sparse.csr_matrix(train))
    scvi.model.SCVI.setup_anndata(adata)
    model = scvi.model.SCVI(adata)
    clock = Clock(args, lambda: held_out(model, train, test, args.draws) if test is not None else {})
    model.train(max_epochs=args.epochs, callbacks=[clock.callback()], enable_progress_bar=False, logger=False)
    default = min(round(20_000 / len(adata) * 400), 400)
    total = {"imports s": imported - start, "seconds": clock.seconds, "cpu s": clock.cpu, "epochs": clock.epochs}
    total |= {"default epochs": default, "peak MB": peak_mb(), "threads": torch.get_num_threads()}
    return total | {"scvi-tools": scvi.__version__, "torch": torch.__version__, "curve": clock.curve}


class Clock:
    """Time of training without that of scoring, and when to score and to stop."""

    def __init__(self, args, score) -> None:
        self.args, self.score, self.curve = args, score, []
        self.epochs, self.seconds, self.cpu = 0, 0.0, 0.0

    def callback(self):
        from lightning.pytorch.callbacks import Callback

        clock = self

        class Epochs(Callback):
            def on_train_start(self, trainer, module) -> None:
                clock.since = time.perf_counter(), time.process_time()

            def on_train_epoch_end(self, trainer, module) -> None:
                clock.epoch(trainer)

        return Epochs()

    def epoch(self, trainer) -> None:
        self.seconds += time.perf_counter() - self.since[0]
        self.cpu += time.process_time() - self.since[1]
        self.epochs += 1
        late = self.seconds > 60 * self.args.minutes
        if self.epochs in self.args.checkpoints or late or self.epochs == trainer.max_epochs:
            row = {
                "epochs": self.epochs,
                "seconds": self.seconds,
                "cpu s": self.cpu,
                "peak MB": peak_mb(),
            } | self.score()
            self.curve.append(row)
            sys.stderr.write(f"{row}\n")
        trainer.should_stop = trainer.should_stop or late
        self.since = time.perf_counter(), time.process_time()


def held_out(model, train, test, n_draws: int, n_batch: int = 128) -> dict[str, float]:
    """Nats per test count, by both ways (see above)."""
    import torch

    was, state = model.module.training, torch.random.get_rng_state()
    model.module.eval()
    sampled, weighted = [], []
    with torch.no_grad():
        for first in range(0, train.shape[0], n_batch):
            cells = slice(first, first + n_batch)
            before, after, log_weight = cell_scores(model.module, train[cells], test[cells], n_draws)
            sampled.append(logsumexp(after - before, axis=0) - np.log(n_draws))
            weighted.append(logsumexp(after + log_weight, axis=0) - logsumexp(before + log_weight, axis=0))
    model.module.train(was)
    torch.random.set_rng_state(state)  # training goes on as if nothing had been scored
    split = log_split(train, test)
    score = {"sampled": sampled, "weighted": weighted}
    return {name: nats_per_count(np.concatenate(parts) + split, test) for name, parts in score.items()}


def cell_scores(module, train, test, n_draws: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ln p(u | z), ln p(u + v | z) and ln p(z) / q(z | u) of each draw and cell: ``(n_draws, n_cells)`` each."""
    import torch

    u, both = (torch.from_numpy(part.toarray()) for part in (train, train + test))
    batch = torch.zeros(len(u), 1)
    inferred = module.inference(u, batch)
    q = inferred["qz"]
    found = []
    for _ in range(n_draws):
        z = q.rsample()
        px = module.generative(z, inferred["library"], batch)["px"]
        parts = px.theta, px.zi_logits
        log_p = torch.distributions.Normal(0.0, 1.0).log_prob(z) - q.log_prob(z)
        found.append([log_zinb(u, px.mu, *parts), log_zinb(both, WHOLE * px.mu, *parts), log_p.sum(1).double()])
    return tuple(np.stack([draw[i].numpy() for draw in found]) for i in range(3))


def log_zinb(u, mean, theta, gate_logit):
    """Log density of each cell's counts: dense sums where counts are zero, lgamma only where they are not."""
    import torch
    from torch.nn.functional import softplus

    theta = theta.expand_as(mean)
    log_open, log_shut = -softplus(gate_logit), -softplus(-gate_logit)
    log_fail = theta * (torch.log(theta) - torch.log(theta + mean))
    zero = torch.logaddexp(log_shut, log_open + log_fail)
    at = u > 0
    x, r, m = u[at].double(), theta[at].double(), mean[at].double()
    counted = torch.lgamma(x + r) - torch.lgamma(r) - torch.lgamma(x + 1) + x * (torch.log(m) - torch.log(m + r))
    rest = torch.zeros(u.shape, dtype=torch.float64)
    rest[at] = counted + (log_open + log_fail - zero)[at].double()
    return (rest + zero).sum(1)


if __name__ == "__main__":
    main()
