"""What a model is made of, as plain values that turn into JSON and back."""

from dataclasses import asdict, dataclass, fields, replace

from scbayes.stats._numbers import check_whole

#: Parts that combine: a name of the family is a choice of them.
MODELS = {
    "nbdm": {"capture": False, "gate": False},
    "zinb": {"capture": False, "gate": True},
    "nbvcp": {"capture": True, "gate": False},
    "zinbvcp": {"capture": True, "gate": True},
}
PARAMETERIZATIONS = ("standard", "linked", "odds_ratio", "mean_disp")


@dataclass(frozen=True)
class ModelConfig:
    """One model of the negative binomial family.

    Attributes
    ----------
    model
        ``"nbdm"``, ``"zinb"``, ``"nbvcp"`` or ``"zinbvcp"``.
    parameterization
        ``"standard"`` (p, r), ``"linked"`` (p, mu), ``"odds_ratio"`` (phi, mu) or ``"mean_disp"`` (mu, r).
    unconstrained
        Priors are given for log and logit of the parameters instead of the parameters.
    n_batches
        Number of batches; 1 without a ``batch_key``.
    per_batch
        Parameters that each batch has its own of.
    n_components
        Number of mixture components; 1 without a mixture. Each has its own gene-wise parameters.
    """

    model: str = "nbvcp"
    parameterization: str = "mean_disp"
    unconstrained: bool = False
    n_batches: int = 1
    per_batch: tuple[str, ...] = ()
    n_components: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "per_batch", tuple(self.per_batch))
        if self.model not in MODELS:
            msg = f"unknown model {self.model!r}; the models are {', '.join(MODELS)}"
            raise ValueError(msg)
        if self.parameterization not in PARAMETERIZATIONS:
            msg = f"unknown parameterization {self.parameterization!r}; choose one of {', '.join(PARAMETERIZATIONS)}"
            raise ValueError(msg)
        allowed = [site for site in self.sites if site != "nu"]
        for site in self.per_batch:
            if site not in allowed:
                msg = (
                    f"per_batch names {site!r}, which {self.describe()} does not have; choose from {', '.join(allowed)}"
                )
                raise ValueError(msg)
        if self.per_batch and self.n_batches < 2:
            msg = f"per_batch={list(self.per_batch)} needs a batch_key with at least two batches"
            raise ValueError(msg)
        check_whole(1, n_components=self.n_components)

    @property
    def capture(self) -> bool:
        """Each cell has a capture probability."""
        return MODELS[self.model]["capture"]

    @property
    def gate(self) -> bool:
        """Each gene has a probability of excess zeros."""
        return MODELS[self.model]["gate"]

    @property
    def mixture(self) -> bool:
        """Cells belong to one of several components."""
        return self.n_components > 1

    @property
    def plain(self) -> "ModelConfig":
        """The model of one component alone."""
        return replace(self, n_components=1)

    @property
    def n_groups(self) -> int:
        """Groups of cells with their own gene-wise parameters: batches x components, batches first."""
        return self.n_batches * self.n_components

    @property
    def shared_odds(self) -> bool:
        """All genes of a cell have the same odds, so that dispersion follows the mean."""
        return self.parameterization != "mean_disp"

    @property
    def gene_sites(self) -> tuple[str, ...]:
        """Gene-wise parameters that are sampled."""
        own = {"standard": ("r",), "linked": ("mu",), "odds_ratio": ("mu",), "mean_disp": ("mu", "r")}
        return own[self.parameterization] + (("gate",) if self.gate else ())

    @property
    def global_sites(self) -> tuple[str, ...]:
        """Parameters of the whole data set (or batch) that are sampled."""
        if self.parameterization == "standard":
            return () if self.capture else ("p",)
        return {"linked": ("p",), "odds_ratio": ("phi",), "mean_disp": ()}[self.parameterization]

    @property
    def cell_sites(self) -> tuple[str, ...]:
        """Cell-wise parameters that are sampled."""
        return ("nu",) if self.capture else ()

    @property
    def sites(self) -> tuple[str, ...]:
        """All parameters that are sampled."""
        return self.gene_sites + self.global_sites + self.cell_sites

    @property
    def beta_gate(self) -> bool:
        """The posterior of a gate is taken as a Beta distribution, as its prior is."""
        return self.gate and not self.unconstrained

    @property
    def free_scale(self) -> bool:
        """Counts do not know the scale of mu against nu: the total mRNA sets it, in each copy of mu."""
        tied = self.global_sites and (self.mixture or self.copies(self.global_sites[0]) != self.copies("mu"))
        return self.capture and self.gene_sites[0] == "mu" and not tied

    def copies(self, site: str) -> int:
        """How many of a gene-wise or global parameter there are: one, or one per batch."""
        return self.n_batches if site in self.per_batch else 1

    def describe(self) -> str:
        """The model in words, for messages."""
        mixture = f" and {self.n_components} components" if self.mixture else ""
        return f"model {self.model!r} with parameterization {self.parameterization!r}{mixture}"

    def to_json(self) -> dict:
        """Plain values."""
        return asdict(self) | {"per_batch": list(self.per_batch)}

    @classmethod
    def from_json(cls, value: dict) -> "ModelConfig":
        """The config of :meth:`to_json`; unknown fields are refused."""
        unknown = set(value) - {field.name for field in fields(cls)}
        if unknown:
            msg = f"this version of scbayes does not know the model settings {sorted(unknown)}"
            raise ValueError(msg)
        return cls(**value)
