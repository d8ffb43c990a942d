"""Sphinx configuration: `sphinx-build -W --keep-going -b html docs docs/_build`. Needs no network."""

from importlib.metadata import version as installed_version

project = "scbayes"
author = "the scbayes developers"
copyright = f"2026, {author}"
version = release = installed_version("scbayes")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build", "jupyter_execute", "**.ipynb_checkpoints"]

html_theme = "sphinx_book_theme"
html_title = f"scbayes {release}"
html_theme_options = {"show_toc_level": 2}

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
# Notebooks without stored output are run, and one that fails, fails the build.
nb_execution_mode = "auto"
nb_execution_raise_on_error = True
nb_execution_timeout = 300

autosummary_generate = True
autodoc_member_order = "bysource"
# `X` in a docstring is code.
default_role = "literal"
napoleon_google_docstring = False
# Types in docstrings are words ("array of shape (n_cells,)"), not names to link to.
napoleon_use_param = False
napoleon_use_rtype = False
napoleon_use_ivar = True

# A reference that leads nowhere is an error. Those into other packages cannot be checked: that needs their
# inventories from the network.
nitpicky = True
_external = (
    "anndata|collections|jax|jaxtyping|matplotlib|numpy|numpyro|np|optax|pandas|pd|pathlib|pooch|scanpy|scipy|sp|typing"
)
_names = (
    "AnnData|Any|Array|ArrayLike|Axes|Callable|DataFrame|Distribution|Figure|Generator|Iterable|Literal|Mapping|Path"
    "|Sequence|Series|ad.AnnData|dist.Distribution|optional"
)
nitpick_ignore_regex = [("py:.*", rf"({_external})(\..*)?"), ("py:.*", _names)]
