"""A model with a latent space: latent numbers of a cell to counts (decoder), and counts back (encoder)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from numpyro import handlers

from scbayes.models._latent_config import VAEConfig
from scbayes.models._latent_counts import Decoded, LatentCounts
from scbayes.models._rows_of import rows_of

#: Share of the largest activation below which softplus with sparsity is taken as zero.
FLOOR = 1e-10
#: Smallest share of ambient counts, and smallest part of what was decoded as native that stays so.
LEAST, KEPT = 1e-6, 0.05


class Sizes(NamedTuple):
    """What a network's shape depends on beside its config."""

    n_genes: int
    n_batches: int = 1
    n_labels: int = 0
    n_covariates: int = 0


class Cells(NamedTuple):
    """What is known of B cells.

    Attributes
    ----------
    counts
        ``(B, n_genes)`` float32; None where they are to be drawn.
    total
        Sum of the counts, ``(B,)``.
    log_size
        Log of the library size or size factor, ``(B,)``.
    batch, label, soup
        Codes, int32 ``(B,)``; label -1 where it is not known; soup is the row of the cell's ambient profile.
    covariates
        ``(B, n_covariates)``: indicators of categories, standardised numbers.
    """

    counts: Array | None
    total: Array
    log_size: Array
    batch: Array
    label: Array
    soup: Array
    covariates: Array


class Inputs(NamedTuple):
    """What program and guide are given: networks and gene-wise numbers, what is fixed, and cells.

    Attributes
    ----------
    params
        `encoder`, `decoder`, `log_theta` ``(1 or n_batches or n_labels, n_genes)``, `classifier`,
        `contamination` ``(2,)``: mean and log sd of its latent number; whichever the model has.
    fixed
        `library` ``(n_batches, 2)``: mean and sd of the log library size; `log_ambient` ``(n_profiles, n_genes)``;
        `contamination` ``(n_profiles, 2)``: mean share of ambient counts, and sd of its log odds, as they were before
        training; `hidden` ``(n_profiles,)``: see :meth:`LatentModel.contamination`.
    """

    params: dict
    fixed: dict
    cells: Cells


class Parts(NamedTuple):
    """Parts of the ELBO of each cell, nats ``(B,)``.

    ``ELBO = reconstruction - kl``; `label` is the log probability of known labels, 0 without.
    """

    reconstruction: Array
    kl: Array
    label: Array


class LatentModel:
    r"""Latent numbers of a cell, ``v = (z, ln l, logit rho)``, of which the model has z and perhaps the others.

    .. math::
        v \sim N(m, s^2), \quad \rho_g = f_g(z, \mathrm{batch}, \mathrm{covariates}), \quad
        u_g \sim \mathrm{NB}(l [(1-\rho)\,\rho_g + \rho\,a_g],\ \theta_g), \qquad q(v \mid u) = N(e(u), d(u)^2)

    z is standard normal; the library size l is the observed one, a given size factor, or log-normal in each batch; the
    contamination :math:`\rho` has a learned logit-normal distribution, but for its level, which is found before
    (:meth:`contamination`), and the ambient profile a is given.
    """

    def __init__(self, config: VAEConfig, sizes: Sizes) -> None:
        self.config, self.sizes = config, sizes

    @property
    def names(self) -> list[str]:
        """Names of the latent numbers."""
        config = self.config
        names = [f"z{k + 1}" for k in range(config.n_latent)]
        return names + ["log_library"] * (config.library == "encoded") + ["logit_contamination"] * config.ambient

    @property
    def threshold(self) -> float:
        """Level of softplus that counts as zero: 0 without sparsity, ln 2 at most."""
        sparse = self.config.scale_activation == "softplus_sp"
        return float(np.log1p(np.exp(-10 * (1 - self.config.sparsity)))) if sparse else 0.0

    # -- decoder -------------------------------------------------------------------------------------------------------
    def space(self, z: Array) -> Array:
        """Coordinates that decoder and user see: z, or its softmax (logistic-normal)."""
        return jax.nn.softmax(z) if self.config.latent_distribution == "ln" else z

    def decode(self, inputs: Inputs, v: Array) -> Decoded:
        """Latent numbers ``(..., B, D)`` of the cells of ``inputs`` to what counts are drawn from."""
        config, cells, params = self.config, inputs.cells, inputs.params
        out = params["decoder"](self.space(v[..., : config.n_latent]), self._extra(cells), cells.batch)
        rest = config.n_latent
        log_size = jnp.broadcast_to(cells.log_size, v.shape[:-1])
        if config.library == "encoded":
            log_size, rest = v[..., rest], rest + 1
        log_theta = self._log_theta(params, cells, out)
        decoded = Decoded(*self._composition(out["scale"]), log_size, log_theta, out.get("gate"))
        return self._with_ambient(decoded, inputs, v[..., rest]) if config.ambient else decoded

    @staticmethod
    def contamination(fixed: dict, soup: Array, latent: Array) -> Array:
        r"""Share of ambient counts of the cells, from their latent number, both ``(..., B)``; soup as in `Cells`.

        .. math:: \mathrm{logit}\, s = v_D, \qquad \rho = \frac{s - h}{1 - h}

        What is decoded as native may lack a part h of the profile a: native expression :math:`(1 - h) f(z) + h a` with
        :math:`\rho` gives the same mean counts as f(z) with s. The likelihood hardly tells these apart, and training
        prefers the profile, which has no error, to the decoder. So h is 0 in training, and then set such that the mean
        of :math:`\rho` is what was found before.
        """
        share = jax.nn.sigmoid(latent)
        if "hidden" not in fixed:
            return share
        hidden = fixed["hidden"][soup]
        return jnp.clip((share - hidden) / (1 - hidden), LEAST, 1 - LEAST)

    def _with_ambient(self, decoded: Decoded, inputs: Inputs, latent: Array) -> Decoded:
        """Adds the ambient part; native expression gets what is hidden of the profile."""
        log_ambient = inputs.fixed["log_ambient"][inputs.cells.soup]
        if "hidden" not in inputs.fixed:
            return decoded._replace(contamination_logit=latent, log_ambient=log_ambient)
        share = jax.nn.sigmoid(latent)[..., None]
        rho = self.contamination(inputs.fixed, inputs.cells.soup, latent)[..., None]
        own = (1 - share) * decoded.share
        native = jnp.maximum(own + (share - rho) * jnp.exp(log_ambient), KEPT * own)
        log_theta = decoded.log_theta
        if log_theta is not None:  # the variance stays as it is
            log_theta = log_theta + 2 * jnp.log(native / own)
        composition = native / native.sum(-1, keepdims=True)
        return decoded._replace(
            log_share=jnp.log(composition),
            share=composition,
            log_theta=log_theta,
            contamination_logit=(jnp.log(rho) - jnp.log1p(-rho))[..., 0],
            log_ambient=log_ambient,
        )

    def counts(self, inputs: Inputs, v: Array) -> LatentCounts:
        """Distribution of the counts of the cells given their latent numbers."""
        return LatentCounts(self.config.likelihood, self.decode(inputs, v), inputs.cells.total)

    def _composition(self, activation: Array) -> tuple[Array, Array]:
        """Log share and share of each gene, ``(..., B, G)``."""
        if self.config.scale_activation == "softmax":
            below = activation - jax.lax.stop_gradient(activation.max(-1, keepdims=True))
            odds = jnp.exp(below)
            total = odds.sum(-1, keepdims=True)
            return below - jnp.log(total), odds * (1 / total)  # odds / total would have the exponentials taken again
        positive = jax.nn.relu(jax.nn.softplus(activation) - self.threshold) + FLOOR
        share = positive / positive.sum(-1, keepdims=True)
        return jnp.log(share), share

    def _log_theta(self, params: dict, cells: Cells, out: dict) -> Array | None:
        if self.config.likelihood in {"poisson", "b"}:
            return None
        if self.config.dispersion == "gene-cell":
            return jnp.clip(out["log_theta"], -7, 12)
        log_theta = jnp.clip(params["log_theta"], -7, 12)
        n = len(log_theta)
        if self.config.dispersion == "gene-batch":
            return rows_of(log_theta, jax.nn.one_hot(cells.batch, n))
        if self.config.dispersion == "gene-label":  # of an unknown label: the mean
            return rows_of(log_theta, jnp.where(cells.label[:, None] < 0, 1 / n, jax.nn.one_hot(cells.label, n)))
        return rows_of(log_theta, jnp.ones((len(cells.batch), 1)))

    def _extra(self, cells: Cells) -> Array:
        """Covariates as networks see them: indicators of batches, and the others."""
        n = self.sizes.n_batches
        batch = [jax.nn.one_hot(cells.batch, n)] if n > 1 else []
        return jnp.concatenate([*batch, cells.covariates], -1)

    # -- encoder -------------------------------------------------------------------------------------------------------
    def encode(self, inputs: Inputs, key: Array | None = None) -> tuple[Array, Array]:
        """Mean and standard deviation of q, each ``(B, D)``; with dropout where a key is."""
        cells = inputs.cells
        extra = self._extra(cells) if self.config.encode_covariates else cells.covariates[:, :0]
        rate = self.config.dropout_rate
        loc, scale = inputs.params["encoder"](jnp.log1p(cells.counts), extra, dropout_rate=rate, key=key)
        return loc + self._around(inputs), scale

    def _around(self, inputs: Inputs) -> Array:
        """What the encoder's means are relative to: 0 for z, the total of the cell, the mean of the log odds."""
        cells, config = inputs.cells, self.config
        around = [jnp.zeros((cells.batch.shape[0], config.n_latent))]
        if config.library == "encoded":
            around.append(jnp.log(cells.total)[:, None])
        if config.ambient:
            around.append(jnp.broadcast_to(inputs.params["contamination"][0], (cells.batch.shape[0], 1)))
        return jnp.concatenate(around, 1)

    def prior(self, inputs: Inputs) -> tuple[Array, Array]:
        """Mean and standard deviation of the prior of the latent numbers, each ``(B, D)``."""
        cells, n = inputs.cells, self.config.n_latent
        b = cells.batch.shape[0]
        loc, scale = [jnp.zeros((b, n))], [jnp.ones((b, n))]
        if self.config.library == "encoded":
            of_batch = inputs.fixed["library"][cells.batch]
            loc, scale = [*loc, of_batch[:, :1]], [*scale, of_batch[:, 1:]]
        if self.config.ambient:
            mean, log_sd = inputs.params["contamination"]
            loc, scale = [*loc, jnp.full((b, 1), mean)], [*scale, jnp.full((b, 1), jnp.exp(log_sd))]
        return jnp.concatenate(loc, 1), jnp.concatenate(scale, 1)

    def label_logits(self, inputs: Inputs, z: Array) -> Array:
        """Log odds of the labels given z."""
        return inputs.params["classifier"](self.space(z))

    # -- program and guide ---------------------------------------------------------------------------------------------
    def program(self, inputs: Inputs) -> None:
        """NumPyro model of the cells."""
        cells = inputs.cells
        with numpyro.plate("cells", cells.batch.shape[0]):
            v = numpyro.sample("latent", dist.Normal(*self.prior(inputs)).to_event(1))
            numpyro.sample("counts", self.counts(inputs, v), obs=cells.counts)
            if self.sizes.n_labels:
                logits = self.label_logits(inputs, v[..., : self.config.n_latent])
                label = dist.Categorical(logits=logits).mask(cells.label >= 0)
                numpyro.sample("label", label, obs=jnp.maximum(cells.label, 0))

    def guide(self, inputs: Inputs, *, dropout: bool = False) -> None:
        """NumPyro guide: a normal for each latent number, from the encoder."""
        key = numpyro.prng_key() if dropout else None
        with numpyro.plate("cells", inputs.cells.batch.shape[0]):
            numpyro.sample("latent", dist.Normal(*self.encode(inputs, key)).to_event(1))

    def parts(self, inputs: Inputs, key: Array, *, dropout: bool = False) -> Parts:
        """Parts of the ELBO of each cell, by one draw from the guide; the KL divergence is exact."""
        drawn = handlers.trace(handlers.seed(self.guide, key)).get_trace(inputs, dropout=dropout)
        seen = handlers.trace(handlers.replay(self.program, drawn)).get_trace(inputs)
        kl = dist.kl_divergence(drawn["latent"]["fn"], seen["latent"]["fn"])
        score = {name: seen[name]["fn"].log_prob(seen[name]["value"]) for name in ("counts", "label") if name in seen}
        return Parts(score["counts"], kl, score.get("label", jnp.zeros_like(kl)))

    def loss(self, parts: Parts, kl_weight: Array) -> Array:
        """What training makes small, of each cell."""
        return kl_weight * parts.kl - parts.reconstruction - self.config.label_weight * parts.label
