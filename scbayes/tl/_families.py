"""Functions for both families of models, the negative binomial one and those with a latent space: their arguments."""

from collections.abc import Callable
from inspect import signature


def check_family(
    given: dict,
    function: Callable,
    *,
    latent: bool,
    only_latent: tuple[str, ...] = (),
    never_latent: tuple[str, ...] = (),
) -> None:
    """Refuse arguments that are not at their default and that the family of the fit does not know.

    Parameters
    ----------
    given
        Arguments of the call of ``function``.
    latent
        Whether the fit has a latent space.

    Raises
    ------
    ValueError
        Naming them.
    """
    parameters = signature(function).parameters
    unknown = never_latent if latent else only_latent
    foreign = [name for name in unknown if _differs(given[name], parameters[name].default)]
    if foreign:
        key, names = given["key"], ", ".join(foreign)
        msg = f"{names}: not for the fit {key!r}, which has a latent space"
        if not latent:
            has = "no fit is named" if key is None else f"{key!r} has none"
            msg = f"{names}: for a fit with a latent space, named by key; {has}"
        raise ValueError(msg)


def _differs(value, default) -> bool:
    return value is not default and not (isinstance(value, type(default)) and value == default)
