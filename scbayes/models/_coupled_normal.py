r"""Normal distribution of many genes: free within a gene, coupled between genes through a few scalars.

Rows :math:`x_g \in R^K` of genes follow :math:`x_g = m_g + L_g \varepsilon_g + W_g \eta` with one
:math:`\eta \in R^Q` for all of them: covariance :math:`\operatorname{diag}(L_g L_g^T) + W W^T`. Sampling and density
cost :math:`O(G K^2 + G K Q)` by the identities of Woodbury and Sylvester.
"""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from numpyro.distributions import constraints

from scbayes.stats._small_blocks import solve_lower


class CoupledNormal(dist.Distribution):
    """Genes' coordinates with blocks and shared factors.

    Parameters
    ----------
    loc
        Means, shape ``(n_genes, K)``.
    tril
        Lower Cholesky factors of the genes' own covariances, shape ``(n_genes, K, K)``.
    factor
        Loadings on the shared scalars, shape ``(n_genes, K, Q)``.
    detached
        Evaluate the density with constant parameters: the gradient of an ELBO then has no noise where the guide is
        exact (Roeder, Wu, Duvenaud 2017), and the same expectation everywhere.
    """

    support = constraints.independent(constraints.real, 2)
    reparametrized_params = ["loc", "tril", "factor"]
    pytree_data_fields = ("loc", "tril", "factor")
    pytree_aux_fields = ("detached",)

    def __init__(self, loc, tril, factor, *, detached: bool = False, validate_args=None) -> None:
        self.loc, self.tril, self.factor, self.detached = loc, tril, factor, detached
        super().__init__((), loc.shape, validate_args=validate_args)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Draws, shape ``sample_shape + (n_genes, K)``."""
        own, shared = jax.random.split(key)
        epsilon = jax.random.normal(own, sample_shape + self.loc.shape, self.loc.dtype)
        eta = jax.random.normal(shared, (*sample_shape, self.factor.shape[-1]), self.loc.dtype)
        return (
            self.loc
            + jnp.einsum("gkl,...gl->...gk", self.tril, epsilon)
            + jnp.einsum("gkq,...q->...gk", self.factor, eta)
        )

    def log_prob(self, value: Array) -> Array:
        """Log density, a scalar per draw."""
        parameters = (self.loc, self.tril, self.factor)
        loc, tril, factor = jax.lax.stop_gradient(parameters) if self.detached else parameters
        white = solve_lower(tril, value - loc)
        loading = solve_lower(tril, jnp.moveaxis(factor, -1, 0))  # (Q, n_genes, K)
        capacitance = jnp.eye(factor.shape[-1]) + jnp.einsum("qgk,pgk->qp", loading, loading)
        chol = jnp.linalg.cholesky(capacitance)
        shared = jnp.einsum("qgk,...gk->...q", loading, white)
        inner = jax.scipy.linalg.solve_triangular(chol, shared[..., None], lower=True)[..., 0]
        quadratic = jnp.sum(white**2, (-2, -1)) - jnp.sum(inner**2, -1)
        log_det = jnp.sum(jnp.log(jnp.diagonal(tril, axis1=-2, axis2=-1))) + jnp.sum(jnp.log(jnp.diagonal(chol)))
        return -0.5 * quadratic - log_det - 0.5 * loc.size * jnp.log(2 * jnp.pi)

    @property
    def mean(self) -> Array:
        """Means, shape ``(n_genes, K)``."""
        return self.loc

    @property
    def variance(self) -> Array:
        """Marginal variances, shape ``(n_genes, K)``."""
        return jnp.sum(self.tril**2, -1) + jnp.sum(self.factor**2, -1)
