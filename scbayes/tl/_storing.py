"""How every function that computes something from a fit ends: the result is written, and the log says where."""

from typing import TYPE_CHECKING

from scbayes.state import Fit, LatentFit, actual, write_result

if TYPE_CHECKING:
    from anndata import AnnData


def store(
    adata: "AnnData",
    verb: str,
    key_added: str,
    values: dict[tuple[str, str], object],
    *,
    fit: Fit | LatentFit | None,
    facts: dict,
    clock: object,
    copy: bool,
    said: str = "finished",
    entry: str | None = None,
    names: dict[str, str] | None = None,
) -> "AnnData | None":
    """Write a result into ``adata``, or into a copy that is returned.

    Parameters
    ----------
    verb, key_added, values, fit, facts, entry, names
        As :func:`scbayes.state.write_result`.
    clock
        What ``scanpy.logging.info`` returned at the beginning.
    said
        The last line of the log.
    """
    from scanpy import logging as logg

    out = adata.copy() if copy else adata
    actual(out, stacklevel=4)
    slots = write_result(out, verb, key_added, values, fit=fit, facts=facts, entry=entry, names=names)
    logg.info(f"    {said}", time=clock, deep="added\n    " + "\n    ".join(slots))
    return out if copy else None
