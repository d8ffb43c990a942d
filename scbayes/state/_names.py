"""Names of slots, and fingerprints of names of cells and genes."""

import ast
import hashlib

import numpy as np

#: Version of the layout; a file with a higher one is refused.
SCHEMA = 1


def slot_of(key: str, part: str) -> str:
    """Name of a slot: ``key`` + ``_`` + what it holds; the key itself where that is all that is to be said."""
    return f"{key}_{part}" if part else key


def split_slot(slot: str) -> tuple[str, str]:
    """``("varm", "sb_loc")`` of ``"varm['sb_loc']"``."""
    where, _, name = slot.partition("[")
    return where, ast.literal_eval(name.removesuffix("]"))


def check_anndata(adata) -> None:
    """Refuse what is no AnnData.

    Raises
    ------
    TypeError
        If it is something else.
    """
    from anndata import AnnData

    if not isinstance(adata, AnnData):
        msg = f"expected an AnnData, not {type(adata).__name__}"
        raise TypeError(msg)


def fingerprints(names, fit_id: str) -> np.ndarray:
    """One number per name, uint64, shape ``(n, 1)``: 8 bytes of BLAKE2b.

    They differ from fit to fit, so that rows of two fits cannot be taken for one when data sets are concatenated.
    """
    digests = b"".join(hashlib.blake2b(f"{fit_id} {name}".encode(), digest_size=8).digest() for name in names)
    return np.frombuffer(digests, "<u8").reshape(-1, 1).copy()


def check_key(key: str) -> None:
    """Refuse a key that AnnData could not store.

    Raises
    ------
    ValueError
        If it is empty or has a ``/``.
    """
    if not isinstance(key, str) or not key or "/" in key:
        msg = f"key_added={key!r}: give a non-empty string without '/'"
        raise ValueError(msg)
