"""A fit to AnnData and back: the manifest, the slots, the checks. The only place that knows the names of slots."""

from scbayes.models._marginals import Marginal, point
from scbayes.state._fit import Fit, split_pooled
from scbayes.state._latent_fit import LatentFit
from scbayes.state._latent_store import read_any_fit, read_latent_fit, write_latent_fit
from scbayes.state._names import check_anndata
from scbayes.state._read import (
    batch_codes,
    check_is_fit,
    is_latent,
    read_fit,
    read_manifest,
    read_unfinished,
    stored_fits,
)
from scbayes.state._results import Result, comes_from_counts, fit_behind, read_result, split_partner, write_result
from scbayes.state._samples import axis_of, collect_draws
from scbayes.state._seen import Seen, name_ids, read_seen
from scbayes.state._source import Source, actual, check_native, find_counts, stored_source, sum_by_batch
from scbayes.state._write import check_free, remove_fit, write_fit

__all__ = [
    "Fit",
    "LatentFit",
    "Marginal",
    "Result",
    "Seen",
    "Source",
    "actual",
    "axis_of",
    "batch_codes",
    "check_anndata",
    "check_free",
    "check_is_fit",
    "check_native",
    "collect_draws",
    "comes_from_counts",
    "find_counts",
    "fit_behind",
    "is_latent",
    "name_ids",
    "point",
    "read_any_fit",
    "read_fit",
    "read_latent_fit",
    "read_manifest",
    "read_result",
    "read_seen",
    "read_unfinished",
    "remove_fit",
    "split_partner",
    "split_pooled",
    "stored_fits",
    "stored_source",
    "sum_by_batch",
    "write_fit",
    "write_latent_fit",
    "write_result",
]
