"""What a model with a latent space is made of, as plain values that turn into JSON and back."""

from dataclasses import asdict, dataclass, fields
from typing import ClassVar

import numpy as np

from scbayes.stats._numbers import check_whole

#: Distributions of a count given the latent numbers; ``"b"``: binomial, a share of the cell's total.
LIKELIHOODS = ("nb", "zinb", "poisson", "b")
#: What has a dispersion of its own.
DISPERSIONS = ("gene", "gene-batch", "gene-label", "gene-cell")
#: How the output of the decoder becomes positive.
ACTIVATIONS = ("softmax", "softplus", "softplus_sp")


@dataclass(frozen=True)
class Training:
    """How a network is trained; part of every config that has one.

    Attributes
    ----------
    max_epochs
        Passes over the training cells at most; None: 100, and fewer for more than 20,000 cells.
    train_size, validation_size
        Shares of the cells that train, and on which the ELBO is watched; None: all that the other one leaves. What both
        leave is a test set. 1 and None: no validation.
    shuffle_set_split
        Draw the sets at random; else the first cells train and the next validate.
    batch_size
        Cells per step.
    learning_rate
        Largest step of Adam; it rises over the first steps and falls as a cosine.
    kl_warmup
        Share of all steps over which the weight of the KL divergence rises from 0 to 1.
    early_stopping
        Stop when the validation ELBO has not risen for `patience` epochs; the best epoch is kept.
    patience
        Epochs.
    """

    max_epochs: int | None = None
    train_size: float | None = 0.9
    validation_size: float | None = None
    shuffle_set_split: bool = True
    batch_size: int = 128
    learning_rate: float = 4e-3
    kl_warmup: float = 0.3
    early_stopping: bool = True
    patience: int = 15

    def epochs(self, n_cells: int) -> int:
        """Passes over the data at most."""
        return self.max_epochs or max(min(100, round(100 * 20_000 / n_cells)), 10)


@dataclass(frozen=True)
class VAEConfig(Training):
    r"""A variational autoencoder of counts: ``model="vae"``.

    .. math:: z \sim N(0, I), \quad u_g \sim \mathrm{NB}(l\,\rho_g(z, s), \theta_g), \quad \rho = f(z, s)

    Attributes
    ----------
    n_latent, n_hidden, n_layers, dropout_rate
        Size of z; width and number of hidden layers of encoder and decoder; dropout in the encoder.
    likelihood
        ``"nb"``, ``"zinb"``, ``"poisson"`` or ``"b"`` (binomial).
    dispersion
        ``"gene"``, ``"gene-batch"``, ``"gene-label"`` or ``"gene-cell"``.
    latent_distribution
        ``"normal"``, or ``"ln"``: the softmax of it (logistic-normal).
    library
        ``"observed"``: the cell's total count; ``"encoded"``: a latent number of its own, log-normal in each batch;
        ``"size_factor"``: the column of `obs` that ``size_factor_key`` names.
    scale_activation
        ``"softmax"``, ``"softplus"`` or ``"softplus_sp"``, which has exact zeros; divided by its sum.
    sparsity
        Of ``"softplus_sp"``: 0 none, 1 most zeros.
    encode_covariates
        Whether the encoder sees batches and covariates.
    label_weight
        Weight of a label against a count in the loss, where labels are given.
    ambient
        Whether counts have an ambient part; set by the argument of ``tl.fit``.
    """

    model: ClassVar[str] = "vae"
    n_latent: int = 10
    n_hidden: int = 128
    n_layers: int = 1
    dropout_rate: float = 0.1
    likelihood: str = "nb"
    dispersion: str = "gene"
    latent_distribution: str = "normal"
    library: str = "observed"
    scale_activation: str = "softmax"
    sparsity: float = 0.9
    encode_covariates: bool = False
    label_weight: float = 50.0
    ambient: bool = False

    def __post_init__(self) -> None:
        _check(self)


@dataclass(frozen=True)
class FactorsConfig:
    r"""A linear factor model of counts: ``model="factors"``.

    .. math:: z \sim N(0, I), \quad u_g \sim \mathrm{NB}(l\,\rho_g, \theta_g), \quad
        \rho = \mathrm{softmax}(b_s + W z)

    Attributes
    ----------
    n_latent
        Number of factors.
    likelihood
        ``"nb"`` or ``"poisson"``.
    library
        ``"observed"`` or ``"size_factor"``, as in the variational autoencoder.
    max_epochs
        Rounds at most; None: 50.
    """

    model: ClassVar[str] = "factors"
    n_latent: int = 10
    likelihood: str = "nb"
    library: str = "observed"
    max_epochs: int | None = None
    # What the decoder has in common with that of a variational autoencoder:
    dispersion: ClassVar[str] = "gene"
    latent_distribution: ClassVar[str] = "normal"
    scale_activation: ClassVar[str] = "softmax"
    ambient: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check(self)


LatentConfig = VAEConfig | FactorsConfig
#: Models with a latent space by their name.
LATENT_MODELS = {"vae": VAEConfig, "factors": FactorsConfig}


def latent_config(model: str, settings: dict) -> LatentConfig:
    """The config of a model by its name.

    Raises
    ------
    ValueError
        If a setting is unknown or out of range.
    """
    kind = LATENT_MODELS[model]
    known = [field.name for field in fields(kind) if field.name != "ambient"]
    unknown = [name for name in settings if name not in known]
    if unknown:
        msg = f"config has {unknown}, which model={model!r} does not know; it has {', '.join(known)}"
        raise ValueError(msg)
    plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in settings.items()}
    return kind(**plain)


def latent_config_to_json(config: LatentConfig) -> dict:
    """Plain values."""
    return {"model": config.model, **asdict(config)}


def latent_config_from_json(value: dict) -> LatentConfig:
    """The config of :func:`latent_config_to_json`; unknown settings are refused."""
    settings = {name: setting for name, setting in value.items() if name != "model"}
    kind = LATENT_MODELS[value["model"]]
    unknown = set(settings) - {field.name for field in fields(kind)}
    if unknown:
        msg = f"this version of scbayes does not know the model settings {sorted(unknown)}"
        raise ValueError(msg)
    return kind(**settings)


#: Settings with a list of choices.
CHOICES = {
    "likelihood": LIKELIHOODS,
    "dispersion": DISPERSIONS,
    "latent_distribution": ("normal", "ln"),
    "library": ("observed", "encoded", "size_factor"),
    "scale_activation": ACTIVATIONS,
}
#: Settings that are whole numbers of at least 1.
WHOLE = ("n_latent", "n_hidden", "n_layers", "max_epochs", "batch_size", "patience")
#: Settings that lie in an interval: lowest, highest, whether these themselves are allowed.
RANGES = {
    "dropout_rate": (0, 1, True, False),
    "train_size": (0, 1, False, True),
    "validation_size": (0, 1, True, False),
    "learning_rate": (0, 1, False, True),
    "kl_warmup": (0, 1, True, True),
    "sparsity": (0, 1, True, True),
    "label_weight": (0, float("inf"), False, False),
}
#: Settings for which None stands for a default.
OPTIONAL = ("max_epochs", "train_size", "validation_size")
#: Factors have counts with a variance of their own or none.
OF_FACTORS = {"likelihood": ("nb", "poisson"), "library": ("observed", "size_factor")}


def _check(config) -> None:
    """Refuse settings that are out of range, or that do not go together."""
    choices = CHOICES | (OF_FACTORS if config.model == "factors" else {})
    for field in fields(config):
        name, value = field.name, getattr(config, field.name)
        if value is None and name in OPTIONAL:
            continue
        if name in choices and value not in choices[name]:
            msg = f"{name}={value!r}: choose one of {', '.join(map(repr, choices[name]))}"
            raise ValueError(msg)
        if name in WHOLE:
            check_whole(1, **{name: value})
        if name in RANGES:
            _check_range(name, value, *RANGES[name])
        if isinstance(field.default, bool) and not isinstance(value, bool):
            msg = f"{name}={value!r}: give True or False"
            raise ValueError(msg)
    if config.model == "vae":
        _check_together(config)


def _check_range(name: str, value, low: float, high: float, with_low: bool, with_high: bool) -> None:  # noqa: FBT001
    number = isinstance(value, int | float) and not isinstance(value, bool)
    inside = number and low <= value <= high and (with_low or value != low) and (with_high or value != high)
    if not inside:
        what = f"from {low:g}" if with_low else f"above {low:g}"
        if high != float("inf"):
            what += f" to {high:g}" if with_high else f" and below {high:g}"
        msg = f"{name}={value!r}: give a number {what}"
        raise ValueError(msg)


def _check_together(config: VAEConfig) -> None:
    if config.likelihood in {"poisson", "b"} and config.dispersion != "gene":
        msg = f"dispersion={config.dispersion!r}: likelihood={config.likelihood!r} has no dispersion"
        raise ValueError(msg)
    if config.likelihood == "b" and config.library != "observed":
        msg = "likelihood='b' draws from the cell's total count: leave library='observed'"
        raise ValueError(msg)
    sizes = [size for size in (config.train_size, config.validation_size) if size is not None]
    if sum(sizes) > 1:
        msg = f"train_size and validation_size sum to {sum(sizes):g}: they are shares of all cells, at most 1 together"
        raise ValueError(msg)
    if not sizes:
        msg = "train_size and validation_size are both None: give one of them"
        raise ValueError(msg)
