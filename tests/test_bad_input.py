"""Wrong input: the right error, which names the culprit and the way out; AnnData and files stay as they were."""

import copy
import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import anndata as ad
import numpy as np
import numpyro.distributions as dist
import optax
import pandas as pd
import pytest
from scipy import sparse

import scbayes as sb

N_CELLS, N_GENES = 80, 24


def simulated() -> ad.AnnData:
    adata = sb.datasets.simulate("nbvcp", n_cells=N_CELLS, n_genes=N_GENES, n_batches=2, log_mean=(2, 1), rng=3)
    adata.layers["counts"] = adata.X.copy()
    adata.var["wanted"] = np.arange(N_GENES) % 2 == 0
    return adata


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """A data set with a finished fit "sb" and an unfinished one, "half"."""
    adata = simulated()
    sb.tl.fit(adata, progress=False)
    sb.tl.fit(adata, n_steps=50, key_added="half", progress=False)
    assert sb.get.fit(adata).converged
    assert not sb.get.fit(adata, "half").converged
    path = tmp_path_factory.mktemp("bad") / "fitted.h5ad"
    adata.write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def as_read(file) -> ad.AnnData:
    """What the file holds, to be copied."""
    return ad.read_h5ad(file)


# --- what is compared -------------------------------------------------------------------------------------------------


def snapshot(adata) -> dict:
    """Everything an AnnData holds, by value; anything else as it is."""
    if not isinstance(adata, ad.AnnData):
        return {"object": copy.deepcopy(adata)}
    parts = {"X": adata.X, "obs": adata.obs, "var": adata.var, "uns": dict(adata.uns), "view": adata.is_view}
    for name in ("layers", "obsm", "varm", "obsp", "varp"):
        parts[name] = dict(getattr(adata, name))
    return copy.deepcopy(parts)


def differences(a, b, where: str = "") -> list[str]:
    """Places where two snapshots differ, in value, type, or dtype."""
    if type(a) is not type(b):
        return [f"{where}: {type(a).__name__} became {type(b).__name__}"]
    if isinstance(a, dict):
        if list(a) != list(b):
            return [f"{where}: keys {list(a)} became {list(b)}"]
        return [fault for key in a for fault in differences(a[key], b[key], f"{where}[{key!r}]")]
    if isinstance(a, pd.DataFrame):
        return [] if a.equals(b) and list(a.dtypes) == list(b.dtypes) and a.index.equals(b.index) else [where]
    if sparse.issparse(a):
        same = a.format == b.format and a.shape == b.shape
        names = [name for name in ("data", "indices", "indptr") if same]
        return [fault for name in names for fault in differences(getattr(a, name), getattr(b, name), where)] or (
            [] if same else [where]
        )
    if isinstance(a, np.ndarray):
        return [] if a.dtype == b.dtype and a.tobytes() == b.tobytes() and a.shape == b.shape else [where]
    return [] if a == b or (isinstance(a, float) and np.isnan(a) and np.isnan(b)) else [f"{where}: {a!r} became {b!r}"]


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a.X.data.__setitem__(0, a.X.data[0] + 1),
        lambda a: a.uns["sb"]["loss"].__setitem__(0, 0.0),
        lambda a: a.uns["sb"].pop("rest"),
        lambda a: a.varm.__setitem__("sb_loc", a.varm["sb_loc"].astype(np.float32)),
        lambda a: a.obs.__setitem__("new", 1),
        lambda a: a.obsm.__delitem__("sb_nu"),
    ],
    ids=["a count", "a loss", "a part", "a dtype", "a column", "a slot"],
)
def test_differences_are_seen(file, change):
    adata = ad.read_h5ad(file)
    before = snapshot(adata)
    assert differences(before, snapshot(adata)) == []
    change(adata)
    assert differences(before, snapshot(adata)) != []


# --- the table --------------------------------------------------------------------------------------------------------


class Case(NamedTuple):
    """One mistake: `prepare` makes it in `adata` (or returns another object), `call` meets it."""

    name: str
    prepare: Callable
    call: Callable
    error: type[Exception]
    says: tuple[str, ...]


def keep(adata) -> None:
    """Change nothing."""


def fits(**settings) -> Callable:
    """Fit anew with these settings."""
    return lambda adata: sb.tl.fit(adata, **({"key_added": "new", "progress": False} | settings))


def resumes(**settings) -> Callable:
    return fits(**({"key_added": "half", "resume": True, "n_steps": 100} | settings))


def with_x(change: Callable) -> Callable:
    """Counts as `change` makes them of a dense float64 array."""

    def prepare(adata) -> None:
        adata.X = change(np.array(adata.X.todense(), float))

    return prepare


def at_one(value) -> Callable:
    def change(x):
        x[3, 4] = value
        return x

    return with_x(change)


def manifest_with(**values) -> Callable:
    def prepare(adata) -> None:
        adata.uns["sb"]["manifest"] = json.dumps(json.loads(str(adata.uns["sb"]["manifest"])) | values)

    return prepare


def sets(where: str, name: str, value) -> Callable:
    return lambda adata: getattr(adata, where).__setitem__(name, value(adata) if callable(value) else value)


def deletes(where: str, name: str) -> Callable:
    return lambda adata: getattr(adata, where).__delitem__(name)


def renames(attribute: str) -> Callable:
    def prepare(adata) -> None:
        names = list(getattr(adata, attribute))
        setattr(adata, attribute, [*names[:5], "somebody else", *names[6:]])

    return prepare


def repeats(attribute: str) -> Callable:
    def prepare(adata) -> None:
        names = list(getattr(adata, attribute))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            setattr(adata, attribute, [names[1], *names[1:]])

    return prepare


def one_cell_less(adata) -> None:
    adata.X[0, 0] += 1


def unchecked(loc, scale) -> dist.LogNormal:
    """A LogNormal that NumPyro would refuse if it were asked to look (it only does while Python's asserts are on)."""
    with dist.distribution.validation_enabled(is_validate=False):
        return dist.LogNormal(loc, scale)


READERS = {
    "get.map": sb.get.map,
    "get.distributions": sb.get.distributions,
    "get.params": sb.get.params,
    "get.fit": sb.get.fit,
    "pl.loss": lambda adata, key="sb": sb.pl.loss(adata, key, show=False),
}
LOG_NORMAL = dist.LogNormal(0.0, 1.0)
MODELS = ("nbdm", "zinb", "nbvcp", "zinbvcp")

NOT_COUNTS = [
    Case("log-normalised", with_x(np.log1p), fits(), ValueError, ("X", "0.69", "log-normalised", "layer='counts'")),
    Case("negative", at_one(-1), fits(), ValueError, ("X", "-1", "layer='counts'")),
    Case("scaled", with_x(lambda x: x - x.mean(0)), fits(), ValueError, ("X", "scaled", "layer='counts'")),
    Case("NaN", at_one(np.nan), fits(), ValueError, ("X has 1 NaN", "raw UMI counts")),
    Case("infinite", at_one(np.inf), fits(), ValueError, ("X has 1 infinite", "layer='counts'")),
    Case("fraction", at_one(30.5), fits(), ValueError, ("X", "30.5", "Round them|raw UMI counts")),
    Case("too large", at_one(2.0**31), fits(), ValueError, ("X", "2147483648", "not UMI counts")),
    Case("strings", with_x(lambda x: x.astype(str)), fits(), TypeError, ("X", "not numbers", "raw UMI counts")),
    Case("objects", with_x(lambda x: x.astype(object)), fits(), TypeError, ("X", "object", "raw UMI counts")),
    Case("boolean", with_x(lambda x: x > 0), fits(), TypeError, ("X is boolean", "raw UMI counts")),
    Case("complex", with_x(lambda x: x + 0j), fits(), TypeError, ("X", "complex128", "raw UMI counts")),
    Case("no X", lambda a: setattr(a, "X", None), fits(), ValueError, ("X is None", "pass layer=")),
    Case(
        "a bad layer",
        lambda a: a.layers.__setitem__("logs", a.X.log1p()),
        fits(layer="logs"),
        ValueError,
        ("layer 'logs'", "log-normalised", "layer='counts'"),
    ),
    Case("no cells", lambda a: a[:0].copy(), fits(), ValueError, ("X has 0 cells", r"\(0, 24\)")),
    Case("no genes", lambda a: a[:, :0].copy(), fits(), ValueError, ("X has 0 genes", r"\(80, 0\)")),
    Case("one cell", lambda a: a[:1].copy(), fits(), ValueError, ("X has 1 cell", "at least two")),
    Case("one gene", lambda a: a[:, :1].copy(), fits(), ValueError, ("80 cells and 1 gene", "at least two")),
    Case("all zero", with_x(np.zeros_like), fits(), ValueError, ("X has no counts above zero", "layer")),
    Case("a cell twice", repeats("obs_names"), fits(), ValueError, ("'cell1'", r"obs_names_make_unique\(\)")),
    Case("a gene twice", repeats("var_names"), fits(), ValueError, ("'gene1'", r"var_names_make_unique\(\)")),
]

SETTINGS = [
    *[
        Case(f"{name}: {kind.__name__}", lambda _, kind=kind: kind(), call, TypeError, (kind.__name__, "AnnData"))
        for kind in (dict, pd.DataFrame)
        for name, call in {"tl.fit": fits(), "tl.fit again": resumes(), "tl.remove": sb.tl.remove, **READERS}.items()
    ],
    Case("model", keep, fits(model="nbvpc"), ValueError, ("'nbvpc'", ", ".join(MODELS))),
    Case("mixture", keep, fits(model="nbvcp_mix"), ValueError, ("'nbvcp_mix'", "n_components=2 or more")),
    Case("coordinates", keep, fits(parameterization="linkd"), ValueError, ("'linkd'", "linked.*mean_disp")),
    Case("components", keep, fits(n_components=0), ValueError, ("n_components=0", "at least 2")),
    Case(
        "start", keep, fits(n_components=2, init="kmean"), KeyError, ("init='kmean'", "'kmeans', 'leiden' or a column")
    ),
    Case("labels", keep, fits(labels_key="type"), KeyError, ("labels_key='type'", "batch")),
    Case("trust", keep, fits(labels_key="batch", label_trust=0.4), ValueError, ("label_trust=0.4", "above 0.5")),
    Case("layer", keep, fits(layer="cuonts"), KeyError, ("'cuonts'", r"\['counts'\]")),
    Case("mask", keep, fits(mask_var="hvg"), KeyError, ("'hvg'", "wanted")),
    Case(
        "mask of numbers",
        sets("var", "share", np.linspace(0, 1, N_GENES)),
        fits(mask_var="share"),
        ValueError,
        (r"var\['share'\]", "float64", "bool"),
    ),
    Case(
        "mask of strings",
        sets("var", "yes", "True"),
        fits(mask_var="yes"),
        ValueError,
        (r"var\['yes'\]", "str|object", "bool"),
    ),
    Case("empty mask", sets("var", "none", False), fits(mask_var="none"), ValueError, (r"var\['none'\]", "no gene")),
    Case("batch", keep, fits(batch_key="donor"), KeyError, ("'donor'", "batch")),
    Case(
        "batch missing",
        sets("obs", "donor", lambda a: pd.Categorical(["x", None] * (a.n_obs // 2))),
        fits(batch_key="donor"),
        ValueError,
        (r"obs\['donor'\]", "40 cells", "give each a batch"),
    ),
    Case(
        "one batch",
        sets("obs", "donor", "x"),
        fits(batch_key="donor"),
        ValueError,
        ("one batch", "leave batch_key out"),
    ),
    Case("per_batch p", keep, fits(batch_key="batch", per_batch=("p",)), ValueError, ("'p'", "choose from mu, r")),
    Case("per_batch nu", keep, fits(batch_key="batch", per_batch="nu"), ValueError, ("'nu'", "choose from mu, r")),
    Case("per_batch alone", keep, fits(per_batch=("mu",)), ValueError, (r"per_batch=\['mu'\]", "batch_key")),
    Case("prior of p", keep, fits(priors={"p": dist.Beta(1, 1)}), ValueError, ("'p'", "choose from mu, r, nu")),
    Case("prior: number", keep, fits(priors={"r": 3.0}), ValueError, ("'r'", "3.0", "LogNormal")),
    Case("prior: a class", keep, fits(priors={"r": dist.LogNormal}), ValueError, ("'r'", "numpyro distribution")),
    Case("prior: pair", keep, fits(priors={"gate": (1, 9)}, model="zinb"), ValueError, ("'gate'", r"\(1, 9\)", "Beta")),
    Case("priors: list", keep, fits(priors=[LOG_NORMAL]), TypeError, ("priors", "list", "dict")),
    Case("prior: Normal", keep, fits(priors={"r": dist.Normal(0, 1)}), ValueError, ("'r' is positive", "LogNormal")),
    Case(
        "prior: LogNormal",
        keep,
        fits(priors={"r": LOG_NORMAL}, unconstrained=True),
        ValueError,
        ("'r'", "unconstrained", "give a Normal"),
    ),
    Case("prior: Gamma of gate", keep, fits(model="zinb", priors={"gate": LOG_NORMAL}), ValueError, ("'gate'", "Beta")),
    Case(
        "prior: vector", keep, fits(priors={"r": dist.LogNormal(np.zeros(24), 1)}), ValueError, ("'r'", "24", "scalar")
    ),
    Case("prior: NaN", keep, fits(priors={"r": unchecked(np.nan, 1.0)}), ValueError, ("'r'", "nan", "finite")),
    Case("prior: no width", keep, fits(priors={"r": unchecked(0.0, 0.0)}), ValueError, ("'r'", "positive")),
    Case("too little mRNA", keep, fits(priors={"total_mrna": 10}), ValueError, ("total_mrna is 10 ", "give more")),
    Case("mRNA: NaN", keep, fits(priors={"total_mrna": np.nan}), ValueError, ("total_mrna", "nan")),
    Case(
        "mRNA: no width",
        keep,
        fits(priors={"total_mrna": unchecked(12.0, np.nan)}),
        ValueError,
        ("total_mrna", "nan", "finite|positive|number"),
    ),
    Case(
        "mRNA: vector",
        keep,
        fits(priors={"total_mrna": dist.LogNormal(np.full(2, 12.0), 1.0)}),
        ValueError,
        ("total_mrna", "scalar|number"),
    ),
    Case("mRNA: string", keep, fits(priors={"total_mrna": "2e5"}), ValueError, ("total_mrna", "'2e5'", "LogNormal")),
    Case(
        "mRNA without capture",
        keep,
        fits(model="nbdm", priors={"total_mrna": 2e5}),
        ValueError,
        ("'total_mrna'", "with capture", "'nbdm'"),
    ),
    Case("no steps", keep, fits(n_steps=0), ValueError, ("n_steps=0", "at least 1")),
    Case("half a step", keep, fits(n_steps=50.5), ValueError, ("n_steps=50.5", "whole number")),
    Case("rng: word", keep, fits(rng="a"), ValueError, ("rng='a'", "Generator")),
    Case("rng: negative", keep, fits(rng=-1), ValueError, ("rng=-1", "at least 0")),
    Case("rng: None", keep, fits(rng=None), ValueError, ("rng=None", "Generator")),
    Case("optimizer", keep, fits(optimizer="adam"), TypeError, ("optimizer", "optax", "str")),
    Case("loss", keep, fits(loss="elbo"), TypeError, ("loss", "ELBO", "str")),
    Case("key with a slash", keep, fits(key_added="a/b"), ValueError, ("key_added='a/b'", "without '/'")),
    Case("empty key", keep, fits(key_added=""), ValueError, ("key_added=''", "non-empty")),
    Case("key that is no string", keep, fits(key_added=1), ValueError, ("key_added=1", "string")),
    Case("key in use", keep, fits(key_added="truth"), ValueError, (r"uns\['truth'\]", "choose another key")),
    Case(
        "slot in use",
        sets("varm", "new_loc", np.zeros((N_GENES, 2))),
        fits(),
        ValueError,
        (r"varm\['new_loc'\]", "choose another key_added"),
    ),
    Case(
        "cell slot in use",
        sets("obsm", "new_nu", np.zeros((N_CELLS, 2))),
        fits(),
        ValueError,
        (r"obsm\['new_nu'\]", "choose another key_added"),
    ),
    Case(
        "fit without its entry",
        deletes("uns", "sb"),
        fits(key_added="sb"),
        ValueError,
        (r"varm\['sb_loc'\]", "choose another key_added"),
    ),
    Case(
        "backend",
        keep,
        lambda a: sb.get.distributions(a, backend="torch"),
        ValueError,
        ("'torch'", "numpyro, scipy"),
    ),
]

RESUME = [
    Case(
        "nothing to resume", keep, resumes(key_added="new"), KeyError, ("'new'", r"\['half', 'sb'\]|\['sb', 'half'\]")
    ),
    Case("no fit at all", lambda _: simulated(), resumes(), KeyError, ("'half'", r"run sb\.tl\.fit\(adata\) first")),
    Case("other counts", one_cell_less, resumes(), ValueError, ("'half'", "counts in X", "fit again")),
    Case("other cells", lambda a: a[::-1].copy(), resumes(), ValueError, ("'half'", "reordered", "fit again")),
    Case(
        "a part of the genes", lambda a: a[:, 1:].copy(), resumes(), ValueError, ("'half'", "counts in X", "fit again")
    ),
    Case(
        "another optimizer",
        keep,
        resumes(optimizer=optax.sgd(0.01)),
        ValueError,
        ("'half'", "optimizer", "pass the same|default"),
    ),
    Case(
        "another optimizer of the same shape",
        keep,
        resumes(optimizer=optax.adam(lambda count: 0.1 / (1 + count))),
        ValueError,
        ("'half'", "optimizer", "pass the same|default"),
    ),
    Case(
        "arrays missing",
        lambda a: a.uns["half"]["unfinished"].__delitem__("p003"),
        resumes(),
        ValueError,
        ("'half'", "cannot be resumed", "fit again"),
    ),
    Case(
        "all arrays missing",
        lambda a: a.uns["half"].__delitem__("unfinished"),
        resumes(),
        ValueError,
        ("'half'", "cannot be resumed", "fit again"),
    ),
    Case("counts gone", lambda a: setattr(a, "X", None), resumes(), ValueError, ("X is None", "pass layer=")),
]

VARM = ("sb_loc", "sb_tril", "sb_gene_id")
OBSM = ("sb_nu", "sb_cell_id")
ARRAYS = ("loss", "global", "rest", "total")


def damaged() -> list[Case]:
    """Every reader on every kind of damage."""
    cases = []
    for name, read in READERS.items():
        cases += [
            Case(f"{name}: unknown key", keep, lambda a, f=read: f(a, "bs"), KeyError, ("'bs'", "'sb'", "'half'")),
            Case(f"{name}: no fit", lambda _: simulated(), read, KeyError, ("'sb'", r"run sb\.tl\.fit\(adata\) first")),
            Case(f"{name}: not a fit", keep, lambda a, f=read: f(a, "truth"), ValueError, (r"uns\['truth'\]", "'sb'")),
            Case(
                f"{name}: word",
                sets("uns", "word", "x"),
                lambda a, f=read: f(a, "word"),
                ValueError,
                ("'word'", "'sb'"),
            ),
            Case(
                f"{name}: cut manifest",
                lambda a: a.uns["sb"].__setitem__("manifest", str(a.uns["sb"]["manifest"])[:300]),
                read,
                ValueError,
                (r"uns\['sb'\]", "no readable manifest", "'half'"),
            ),
            Case(f"{name}: newer", manifest_with(schema=99), read, ValueError, ("'sb'", "layout 99", "update scbayes")),
            Case(
                f"{name}: gene renamed",
                renames("var_names"),
                read,
                ValueError,
                ("'somebody else'", "restore|fit again"),
            ),
            Case(
                f"{name}: cell renamed",
                renames("obs_names"),
                read,
                ValueError,
                ("'somebody else'", "restore|fit again"),
            ),
        ]
        for where, slots in (("varm", VARM), ("obsm", OBSM)):
            for slot in slots:
                named = rf"{where}\['{slot}'\]"
                cases += [
                    Case(f"{name}: {slot} gone", deletes(where, slot), read, KeyError, (named, "missing", "fit again")),
                    Case(
                        f"{name}: {slot} longer",
                        lambda a, w=where, s=slot: getattr(a, w).__setitem__(s, np.repeat(getattr(a, w)[s], 2, 1)),
                        read,
                        ValueError,
                        (named, "damaged", "fit again"),
                    ),
                    Case(
                        f"{name}: {slot} of another type",
                        lambda a, w=where, s=slot: getattr(a, w).__setitem__(s, getattr(a, w)[s].astype(np.float32)),
                        read,
                        ValueError,
                        (named, "float32", "fit again"),
                    ),
                ]
        for part in ARRAYS:
            named = rf"uns\['sb'\]\['{part}'\]"
            cases += [
                Case(
                    f"{name}: {part} gone",
                    lambda a, p=part: a.uns["sb"].__delitem__(p),
                    read,
                    ValueError,
                    (named, "fit again"),
                ),
                Case(
                    f"{name}: {part} longer",
                    lambda a, p=part: a.uns["sb"].__setitem__(p, np.zeros((7, 7))),
                    read,
                    ValueError,
                    (named, "fit again"),
                ),
            ]
    cases += [
        Case(
            "get.map: slot is a table",
            sets("varm", "sb_loc", lambda a: pd.DataFrame(a.varm["sb_loc"], index=a.var_names)),
            sb.get.map,
            ValueError,
            (r"varm\['sb_loc'\]", "damaged", "fit again"),
        ),
        Case("tl.remove: unknown key", keep, lambda a: sb.tl.remove(a, "bs"), KeyError, ("'bs'", "'sb'", "'half'")),
        Case("tl.remove: not a fit", keep, lambda a: sb.tl.remove(a, "truth"), ValueError, (r"uns\['truth'\]", "'sb'")),
        Case(
            "fit over a cut manifest",
            manifest_with(parts=3),
            fits(key_added="sb"),
            ValueError,
            (r"uns\['sb'\]", "choose"),
        ),
    ]
    return cases


CASES = [*NOT_COUNTS, *SETTINGS, *RESUME, *damaged()]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_wrong_input_is_refused_and_nothing_changes(file, as_read, case):
    adata = as_read.copy()
    changed = case.prepare(adata)
    adata = adata if changed is None else changed
    before, stored = snapshot(adata), file.read_bytes()
    with pytest.raises(case.error) as caught:
        case.call(adata)
    assert type(caught.value) is case.error
    text = str(caught.value.args[0])
    assert [pattern for pattern in case.says if not re.search(pattern, text)] == [], text
    assert differences(before, snapshot(adata)) == []
    assert file.read_bytes() == stored


def test_there_are_cases_of_each_kind():
    assert len(CASES) > 150
    assert {case.error for case in CASES} == {ValueError, KeyError, TypeError}


def test_file_is_still_whole_after_a_refused_fit(file):
    """A file open for reading, a refused fit, then writing: the whole way a user goes."""
    adata = ad.read_h5ad(file)
    expected = sb.get.map(adata)
    with pytest.raises(ValueError, match="unknown model"):
        sb.tl.fit(adata, "nb", progress=False)
    adata.write_h5ad(file.with_name("again.h5ad"))
    for path in (file, file.with_name("again.h5ad")):
        found = sb.get.map(ad.read_h5ad(path))
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize("damage", [*VARM, *OBSM])
def test_incomplete_fit_can_be_removed_or_fitted_anew(file, damage):
    adata = ad.read_h5ad(file)
    expected = sb.get.map(adata)
    where = "varm" if damage in VARM else "obsm"
    del getattr(adata, where)[damage]
    removed = sb.tl.remove(adata, copy=True)
    assert not [name for name in (*removed.varm, *removed.obsm, *removed.uns) if name.startswith("sb")]
    sb.tl.fit(adata, progress=False)
    for name, value in sb.get.map(adata).items():
        np.testing.assert_array_equal(value, expected[name])


def test_newer_fit_can_be_removed(file):
    adata = ad.read_h5ad(file)
    manifest_with(schema=99)(adata)
    sb.tl.remove(adata)
    assert not [name for name in (*adata.varm, *adata.obsm, *adata.uns) if name.startswith("sb")]
    assert sb.get.fit(adata, "half").key == "half"


def test_view_is_made_actual_with_the_usual_warning(as_read):
    """A view of some cells and genes, in which lies the data set of the file."""
    small = simulated()
    x = sparse.bmat([[small.X[:9, :2], small.X[:9]], [small.X[:, :2], small.X]], format="csr")
    whole = ad.AnnData(x)
    view = whole[9:, 2:]
    assert view.is_view
    with pytest.warns(UserWarning, match=r"Received a view of an AnnData. Making a copy."):
        sb.tl.fit(view, progress=False)
    assert not view.is_view
    assert not [*whole.uns, *whole.obsm, *whole.varm]
    expected = sb.get.map(as_read)
    for name, value in sb.get.map(view).items():
        np.testing.assert_array_equal(value, expected[name])


def test_removing_from_a_view_leaves_the_whole_alone(as_read):
    view = as_read[:, :5]
    with pytest.warns(UserWarning, match=r"Received a view of an AnnData. Making a copy."):
        sb.tl.remove(view)
    assert "sb" not in view.uns
    assert not [name for name in (*view.varm, *view.obsm) if name.startswith("sb")]
    assert sb.get.map(as_read)["mu"].shape == (N_GENES,)


def test_view_that_is_refused_stays_a_view():
    whole = simulated()
    view = whole[:10]
    with pytest.raises(ValueError, match="unknown model"):
        sb.tl.fit(view, "nb", progress=False)
    assert view.is_view
