"""What tables of genes and of gene sets have in common."""

from typing import TYPE_CHECKING

from scbayes.state import read_result

if TYPE_CHECKING:
    from anndata import AnnData

#: Columns of every table: the effect, and how sure it is.
EFFECT = ("lfc_mean", "lfc_sd", "lfc_median", "ci_low", "ci_high")
CERTAINTY = ("lfsr", "p_up", "p_down", "p_de", "fsr", "log_bayes_factor", "is_de")
SPREAD = ("donor_sd", "p_sign_new_donor", "min_detectable_lfc")


def read_groups(adata: "AnnData", group: str | None, key: str) -> tuple[dict, dict, list[str]]:
    """Values and facts of a result of ``tl.de``, and the groups that are asked for: one, or all if None.

    Raises
    ------
    KeyError
        If there is no such result, or it does not have this group.
    """
    values, facts = read_result(adata, "de", key, key)
    groups = facts["groups"]
    if group is not None and str(group) not in groups:
        msg = f"{key!r} has no group {group!r}: it has {groups}"
        raise KeyError(msg)
    return values, facts, groups if group is None else [str(group)]
