"""What is computed from a fit: written beside it, read back, and deleted with it.

A result of the function ``verb`` lives in slots named ``key_added + "_" + what`` and in one entry
``uns[key_added + "_" + verb]`` that says which fit it is of, how it was computed, and which slots it has.
"""

import json
from typing import TYPE_CHECKING, NamedTuple

from scbayes.state._fit import Fit
from scbayes.state._latent_fit import LatentFit
from scbayes.state._names import check_anndata, check_key, slot_of, split_slot
from scbayes.state._read import read_manifest, stored_fits

if TYPE_CHECKING:
    from anndata import AnnData


#: Functions of `pp` that write results; all others are in `tl`.
OF_PP = {"ambient_profile", "call_cells", "split_counts"}


class Result(NamedTuple):
    """Values by what they are (``"entropy"``), and facts: how they were computed."""

    values: dict[str, object]
    facts: dict


def write_result(
    adata: "AnnData",
    verb: str,
    key_added: str,
    values: dict[tuple[str, str], object],
    *,
    fit: Fit | LatentFit | None,
    facts: dict,
    entry: str | None = None,
    names: dict[str, str] | None = None,
) -> list[str]:
    """Write a result, in place of an earlier one of the same name.

    Parameters
    ----------
    verb
        The function of ``tl`` that made it.
    values
        ``(field, what)`` -> value, e.g. ``("obs", "entropy")`` or ``("varm", "composition")``; field is one of obs,
        var, obsm, varm, varp, layers and uns.
    fit
        What it was computed from; None where that is in no slot.
    facts
        Settings and what else is worth keeping: plain values that turn into JSON.
    entry
        Name of the entry in `uns` where it is not ``key_added + "_" + verb``.
    names
        Slots that are not called ``key_added + "_" + what``: what -> name.

    Returns
    -------
    The slots, for the log.
    """
    check_anndata(adata)
    check_key(key_added)
    entry = entry or slot_of(key_added, verb)
    if entry in adata.uns and ("result" not in adata.uns[entry] or _records(adata)[entry]["verb"] != verb):
        msg = f"adata.uns[{entry!r}] holds something else: delete it, or choose another key_added"
        raise ValueError(msg)
    called = {what: (names or {}).get(what, slot_of(key_added, what)) for field, what in values if field != "uns"}
    slots = {what: f"{field}[{called[what]!r}]" for field, what in values if field != "uns"}
    own = {what: value for (field, what), value in values.items() if field == "uns"}
    of = {"key": None, "fit": None} if fit is None else {"key": fit.key, "fit": fit.id}
    record = {"verb": verb, **of, "slots": slots, "uns": sorted(own), "facts": facts}
    text = json.dumps(record, allow_nan=False)
    if entry in adata.uns:
        _remove(adata, entry)
    for (field, what), value in values.items():
        if field != "uns":
            getattr(adata, field)[called[what]] = value
    adata.uns[entry] = {"result": text, **own}
    return [*slots.values(), f"uns[{entry!r}]"]


def read_result(adata: "AnnData", verb: str, key: str, entry: str | None = None) -> Result:
    """The result of ``verb`` under ``key``, or of that ``entry`` of `uns`.

    Raises
    ------
    KeyError
        If there is none, or a part of it is missing.
    ValueError
        If its fit was replaced by another since.
    """
    check_anndata(adata)
    entry = entry or slot_of(key, verb)
    if entry not in adata.uns or "result" not in adata.uns[entry]:
        msg = f"no result {entry!r} in adata.uns: run sb.{_room(verb)}.{verb} first"
        raise KeyError(msg)
    record = json.loads(str(adata.uns[entry]["result"]))
    if record["verb"] != verb:
        msg = f"adata.uns[{entry!r}] holds a result of {record['verb']}, not of {verb}"
        raise KeyError(msg)
    fit = record["key"]
    if fit in stored_fits(adata) and read_manifest(adata, fit)["id"] != record["fit"]:
        msg = f"the fit {fit!r} is another than the one {entry!r} was computed from: run sb.tl.{verb} again"
        raise ValueError(msg)
    values = {}
    for what, slot in record["slots"].items():
        field, name = split_slot(slot)
        if name not in getattr(adata, field):
            msg = f"adata.{slot} is missing: run sb.{_room(verb)}.{verb} again"
            raise KeyError(msg)
        values[what] = getattr(adata, field)[name]
    for what in record["uns"]:
        if what not in adata.uns[entry]:
            msg = f"adata.uns[{entry!r}][{what!r}] is missing: run sb.{_room(verb)}.{verb} again"
            raise KeyError(msg)
        values[what] = adata.uns[entry][what]
    return Result(values, record["facts"])


def comes_from_counts(adata: "AnnData", column: str) -> bool:
    """Whether a column of `obs` is known to be made from the counts, by a function of `tl` or scanpy's clustering."""
    own = any(f"obs[{column!r}]" in record["slots"].values() for record in _records(adata).values())
    settings = adata.uns.get(column)
    return own or (hasattr(settings, "keys") and "params" in settings and "names" not in settings)


def split_partner(adata: "AnnData", layer: str | None) -> str | None:
    """Layer that holds the rest of the counts where ``pp.split_counts`` made ``layer`` for tests; else None."""
    for record in _records(adata).values():
        if record["verb"] == "split_counts" and record["slots"]["test"] == f"layers[{layer!r}]":
            return split_slot(record["slots"]["train"])[1]
    return None


def fit_behind(adata: "AnnData", column: str) -> str | None:
    """The fit that a column of `obs` was computed from; None if that is not known."""
    slot = f"obs[{column!r}]"
    return next((record["key"] for record in _records(adata).values() if slot in record["slots"].values()), None)


def remove_results(adata: "AnnData", key: str) -> list[str]:
    """Delete all results that were computed from the fit ``key``; returns their slots."""
    removed = []
    for entry, record in _records(adata).items():
        if record["key"] == key:
            removed += _remove(adata, entry)
    return removed


def _room(verb: str) -> str:
    """Where the function is."""
    return "pp" if verb in OF_PP else "tl"


def _records(adata: "AnnData") -> dict[str, dict]:
    """Record of each result, by its entry of `uns`."""
    entries = [name for name, value in adata.uns.items() if hasattr(value, "keys") and "result" in value]
    return {entry: json.loads(str(adata.uns[entry]["result"])) for entry in entries}


def _remove(adata: "AnnData", entry: str) -> list[str]:
    removed = []
    for slot in json.loads(str(adata.uns[entry]["result"]))["slots"].values():
        field, name = split_slot(slot)
        if name in getattr(adata, field):
            del getattr(adata, field)[name]
            removed.append(slot)
    del adata.uns[entry]
    return [*removed, f"uns[{entry!r}]"]
