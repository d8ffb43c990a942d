"""scvi-tools' SCVI or SCAR on the arrays that latent.py writes, run by the Python of its own environment.

`python _scvi_latent.py FOLDER TARGET` reads FOLDER/counts.npz and cells.npz (`_latent_data.py`), trains with the
defaults of scvi-tools but for what is given, and writes TARGET.json, TARGET.npz and, of SCAR, TARGET.native_mean.npz
and TARGET.integers.npz (`latent.py` lists what they hold). The split of cells is the given one. Epochs are timed
without validation, which follows every `--validate` epochs. Scores are nats per cell, all terms of the densities
included:

    elbo            E_q ln p(x | z) - KL(q, p), mean of `DRAWS` draws of z
    reconstruction  -E_q ln p(x | z), likewise
    marginal        ln 1/S sum_s p(x | z_s) p(z_s) / q(z_s | x), z_s ~ q; scvi-tools' own
"""

import argparse
import json
import logging
import os
import sys
import time
import warnings
from pathlib import Path

import numpy as np
from _process import peak_mb
from scipy import sparse

#: Of z, for ELBO and reconstruction error.
DRAWS = 5


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("folder", type=Path)
    cli.add_argument("target", type=Path, help="path of the results, without ending")
    cli.add_argument("--model", choices=["SCVI", "SCAR"], default="SCVI")
    cli.add_argument("--likelihood", default="zinb")
    cli.add_argument("--epochs", type=int, default=400)
    cli.add_argument("--warmup", type=int, default=400, help="epochs until the KL term has its full weight")
    cli.add_argument("--validate", type=int, default=5)
    cli.add_argument("--samples", type=int, nargs=2, default=[1000, 100], help="S: validation cells, all cells")
    cli.add_argument("--threads", type=int, default=2)
    cli.add_argument("--seed", type=int, default=0)
    args = cli.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait do not spin: CPU seconds are work
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    stdout, sys.stdout = sys.stdout, sys.stderr  # for the result alone
    sys.path.remove(str(Path(__file__).parent))  # names of our files are not to be found by what torch imports
    facts = run(args)
    Path(f"{args.target}.json").write_text(json.dumps(facts, indent=2) + "\n")
    stdout.write(json.dumps(facts) + "\n")


def run(args) -> dict:
    import scvi
    import torch

    scvi.settings.seed = args.seed
    torch.set_num_threads(args.threads)
    cells = dict(np.load(args.folder / "cells.npz"))
    x = sparse.load_npz(args.folder / "counts.npz").tocsr()
    start = {"load": os.getloadavg()[0], "peak MB": peak_mb()}
    model = made(args, x, cells)
    clock = Clock()
    model.train(
        max_epochs=args.epochs,
        plan_kwargs={"n_epochs_kl_warmup": args.warmup},
        datasplitter_kwargs={"external_indexing": [cells["train"], cells["validation"], np.array([], int)]},
        check_val_every_n_epoch=args.validate,
        callbacks=[clock.callback()],
        enable_progress_bar=False,
    )
    trained = {"load": os.getloadavg()[0], "peak MB": peak_mb()}
    arrays = {"epoch_seconds": clock.seconds, "epoch_cpu": clock.cpu} | history(model)
    arrays["latent"] = model.get_latent_representation()
    facts = {
        "epochs": args.epochs,
        "warmup": args.warmup,
        "seconds": float(np.sum(clock.seconds)),
        "cpu s": float(np.sum(clock.cpu)),
        "seconds an epoch": float(np.median(clock.seconds)),
        "cpu s an epoch": float(np.median(clock.cpu)),
        "peak MB": trained["peak MB"],
        "MB above data": trained["peak MB"] - start["peak MB"],
        "threads": torch.get_num_threads(),
        "load": [start["load"], trained["load"]],
    }
    for name, at, n_samples in zip(("validation", "all"), (cells["validation"], None), args.samples, strict=True):
        found = scores(model, at, n_samples, 10 if args.model == "SCVI" else 1)  # SCAR takes no more than one a pass
        facts[name] = found.pop("facts") | {score: float(values.mean()) for score, values in found.items()}
        arrays |= {f"{score}_{name}": values.astype(np.float32) for score, values in found.items()}
    if args.model == "SCAR":
        arrays["rho"], mean = native(model)
        sparse.save_npz(f"{args.target}.native_mean.npz", mean)
        sparse.save_npz(f"{args.target}.integers.npz", sparse.csr_matrix(model.get_denoised_counts()))
    np.savez_compressed(f"{args.target}.npz", **arrays)
    named = {"model": args.model, "likelihood": args.likelihood, "seed": args.seed}
    return named | facts | {"scvi-tools": scvi.__version__, "torch": torch.__version__}


def made(args, x, cells):
    """Model with scvi-tools' sizes: SCVI 128 hidden units, 10 latent; SCAR twice 150, 15 latent."""
    import anndata as ad
    import scvi

    adata = ad.AnnData(x)
    adata.obs["batch"] = [f"b{b}" for b in cells["batch"]]
    if args.model == "SCVI":
        scvi.model.SCVI.setup_anndata(adata, batch_key="batch")
        return scvi.model.SCVI(adata, gene_likelihood=args.likelihood)
    scvi.external.SCAR.setup_anndata(adata, batch_key="batch")
    return scvi.external.SCAR(adata, ambient_profile=cells["profile"], gene_likelihood=args.likelihood)


class Clock:
    """Seconds of each epoch and those of the processor, all threads together; validation is left out."""

    def __init__(self) -> None:
        self.seconds, self.cpu = [], []

    def callback(self):
        from lightning.pytorch.callbacks import Callback

        clock = self

        class Epochs(Callback):
            def on_train_epoch_start(self, trainer, module) -> None:
                clock.since, clock.left_out = now(), np.zeros(2)

            def on_validation_start(self, trainer, module) -> None:
                clock.aside = now()

            def on_validation_end(self, trainer, module) -> None:
                if not trainer.sanity_checking:
                    clock.left_out = clock.left_out + now() - clock.aside

            def on_train_epoch_end(self, trainer, module) -> None:
                seconds, cpu = now() - clock.since - clock.left_out
                clock.seconds.append(float(seconds))
                clock.cpu.append(float(cpu))
                if len(clock.seconds) % 50 == 0:
                    sys.stderr.write(f"epoch {len(clock.seconds)}: {np.median(clock.seconds):.3f} s an epoch\n")

        return Epochs()


def now() -> np.ndarray:
    return np.array([time.perf_counter(), time.process_time()])


def history(model) -> dict[str, np.ndarray]:
    """Values of each recorded quantity, and the epochs that they belong to."""
    found = {}
    for name, table in model.history.items():
        if name.startswith(("elbo", "reconstruction", "kl_local")):
            column = table.iloc[:, 0].astype(float).dropna()
            found[f"{name}_history"], found[f"{name}_epochs"] = column.to_numpy(), column.index.to_numpy(int)
    return found


def scores(model, indices, n_samples: int, at_once: int) -> dict:
    """Scores of each cell, and the seconds that the marginal took."""
    elbo, error = [], []
    for _ in range(DRAWS):  # the ELBO itself, higher is better; the error is -E_q ln p(x | z), lower is better
        elbo.append(np.asarray(model.get_elbo(indices=indices, return_mean=False)))
        found = model.get_reconstruction_error(indices=indices, return_mean=False)
        error.append(np.asarray(found["reconstruction_loss"]))
    start = now()
    given = {"n_mc_samples": n_samples, "n_mc_samples_per_pass": at_once, "return_mean": False}
    marginal = np.asarray(model.get_marginal_ll(indices=indices, **given))
    seconds, cpu = now() - start
    facts = {"samples": n_samples, "marginal seconds": float(seconds), "marginal cpu s": float(cpu)}
    return {"facts": facts, "elbo": np.mean(elbo, 0), "reconstruction": np.mean(error, 0), "marginal": marginal}


def native(model):
    """Share of ambient counts of each cell, and expected native counts, of one draw of z."""
    import torch

    rho, parts = [], []
    with torch.no_grad():
        model.module.eval()
        for tensors in model._make_data_loader(adata=model.adata):
            _, found = model.module.forward(tensors=tensors, compute_loss=False)
            px = found["px"]
            share = px.probs if model.module.gene_likelihood == "b" else px.scale
            rho.append(found["pamb_scale"].sum(1) / model.module.ambient_profile.sum())
            parts.append(sparse.csr_matrix((tensors["X"].sum(1, keepdim=True) * share).numpy()))
    return torch.cat(rho).numpy(), sparse.vstack(parts, format="csr")


if __name__ == "__main__":
    main()
