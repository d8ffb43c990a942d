"""Priors: defaults, what may be given, and their plain form for storage."""

import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import constraints
from numpyro.distributions.transforms import AffineTransform, PowerTransform

from scbayes.models._config import ModelConfig

#: Distributions that a prior may be, with the parameters that describe them.
FAMILIES = {
    "LogNormal": ("loc", "scale"),
    "Normal": ("loc", "scale"),
    "Beta": ("concentration1", "concentration0"),
    "Gamma": ("concentration", "rate"),
    "InverseGamma": ("concentration", "rate"),
    "HalfNormal": ("scale",),
    "HalfCauchy": ("scale",),
    "Exponential": ("rate",),
    "BetaPrime": ("concentration1", "concentration0"),
}
#: Support of each parameter.
SUPPORT = {
    "p": constraints.unit_interval,
    "gate": constraints.unit_interval,
    "phi": constraints.positive,
    "r": constraints.positive,
    "mu": constraints.positive,
    "nu": constraints.positive,
}
#: Priors whose centre and width are learned from the data unless they are given.
LEARNED = ("r", "mu", "nu")


class BetaPrime(dist.TransformedDistribution):
    r"""Odds :math:`x = (1-p)/p` of a probability :math:`p \sim \mathrm{Beta}(b, a)`.

    Its density is proportional to :math:`x^{a-1} (1+x)^{-a-b}`, with a = ``concentration1``, b = ``concentration0``.
    """

    support = constraints.positive
    pytree_data_fields = ("concentration1", "concentration0")

    def __init__(self, concentration1, concentration0, *, validate_args=None) -> None:
        self.concentration1, self.concentration0 = concentration1, concentration0
        base = dist.Beta(concentration0, concentration1)
        transforms = [PowerTransform(-1.0), AffineTransform(-1.0, 1.0)]
        super().__init__(base, transforms, validate_args=validate_args)


def default_priors(config: ModelConfig) -> dict[str, dist.Distribution]:
    """Prior of each sampled parameter; those in :data:`LEARNED` are placeholders until the data are seen."""
    weak = {"p": dist.Beta(1.0, 1.0), "phi": BetaPrime(1.0, 1.0), "gate": dist.Beta(1.0, 9.0)}
    if config.unconstrained:
        weak = {"p": dist.Normal(0.0, 1.8), "phi": dist.Normal(0.0, 1.8), "gate": dist.Normal(-2.2, 1.2)}
    family = dist.Normal if config.unconstrained else dist.LogNormal
    found = {site: weak.get(site) or family(0.0, 1.0) for site in config.sites}
    return found | ({"weights": dist.Dirichlet(np.ones(config.n_components))} if config.mixture else {})


def check_priors(config: ModelConfig, given: dict | None) -> dict[str, dist.Distribution]:
    """The priors that a user gave, checked against the model."""
    given = dict(given or {})
    weights = {"weights": _check_weights(config, given.pop("weights"))} if "weights" in given else {}
    for site, prior in given.items():
        if site not in config.sites:
            msg = (
                f"priors names {site!r}, which {config.describe()} does not have; choose from {', '.join(config.sites)}"
            )
            raise ValueError(msg)
        if type(prior).__name__ not in FAMILIES:
            msg = f"the prior of {site!r} is {prior!r}; give a numpyro distribution, one of {', '.join(FAMILIES)}"
            raise ValueError(msg)
        if np.shape(prior.batch_shape) != (0,):
            msg = f"the prior of {site!r} has shape {prior.batch_shape}; give one with scalar parameters"
            raise ValueError(msg)
        values = [float(getattr(prior, name)) for name in FAMILIES[type(prior).__name__]]
        if not np.all(np.isfinite(values)) or any(
            v <= 0 for v, n in zip(values, FAMILIES[type(prior).__name__], strict=True) if n != "loc"
        ):
            msg = f"the prior of {site!r} has parameters {values}; they must be finite, and positive but for loc"
            raise ValueError(msg)
        if config.unconstrained != isinstance(prior, dist.Normal):
            if config.unconstrained:
                msg = (
                    "with unconstrained=True priors are on the log or logit scale: "
                    f"give a Normal for {site!r}, not {prior!r}"
                )
            else:
                msg = f"{site!r} is positive: a Normal prior needs unconstrained=True (or give a LogNormal)"
            raise ValueError(msg)
        if SUPPORT[site] is constraints.unit_interval and not config.unconstrained and not isinstance(prior, dist.Beta):
            msg = f"{site!r} is a probability: give a Beta prior, not {type(prior).__name__}"
            raise ValueError(msg)
    return given | weights


def _check_weights(config: ModelConfig, prior) -> dist.Dirichlet:
    """Prior of the weights of components: a Dirichlet, or the concentration that all components have."""
    n = config.n_components
    if not config.mixture:
        msg = f"priors names 'weights', which {config.describe()} does not have: it has no n_components"
        raise ValueError(msg)
    number = isinstance(prior, int | float | np.number) and not isinstance(prior, bool)
    if not number and (not isinstance(prior, dist.Dirichlet) or np.shape(prior.concentration) != (n,)):
        msg = f"the prior of 'weights' is {prior!r}; give a number, or a numpyro Dirichlet of {n} concentrations"
        raise ValueError(msg)
    concentration = np.full(n, float(prior)) if number else np.asarray(prior.concentration, float)
    if not np.all(np.isfinite(concentration)) or np.any(concentration <= 0):
        msg = f"the prior of 'weights' has concentrations {concentration}; they must be finite and positive"
        raise ValueError(msg)
    return dist.Dirichlet(concentration)


def support(site: str, prior: dist.Distribution, config: ModelConfig) -> constraints.Constraint:
    """Where the parameter lives: as its prior says, or as :data:`SUPPORT` says where priors are unconstrained."""
    return SUPPORT[site] if config.unconstrained or SUPPORT[site] is constraints.unit_interval else prior.support


def to_json(prior: dist.Distribution) -> dict:
    """Plain values of a prior."""
    name = type(prior).__name__
    if name == "Dirichlet":
        return {"family": name, "concentration": np.asarray(prior.concentration, float).tolist()}
    return {"family": name} | {field: float(getattr(prior, field)) for field in FAMILIES[name]}


def from_json(value: dict) -> dist.Distribution:
    """The prior of :func:`to_json`."""
    name = value["family"]
    if name == "Dirichlet":
        return dist.Dirichlet(np.array(value["concentration"], float))
    if name not in FAMILIES:
        msg = f"this version of scbayes does not know the prior {name!r}"
        raise ValueError(msg)
    family = BetaPrime if name == "BetaPrime" else getattr(dist, name)
    return family(*[float(value[field]) for field in FAMILIES[name]])
