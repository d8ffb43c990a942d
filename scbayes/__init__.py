"""Bayesian analysis of single-cell UMI counts: `import scbayes as sb`.

Use it like scanpy: `sb.pp` prepares counts, `sb.tl` fits models and writes into AnnData, `sb.get` reads results
back, `sb.pl` draws them, `sb.metrics` scores them, `sb.datasets` has counts to try it on.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scbayes import datasets, get, metrics, pl, pp, tl

    __version__: str

__all__ = ["__version__", "datasets", "get", "metrics", "pl", "pp", "tl"]


def __getattr__(name: str) -> object:
    # Rooms are imported on first use (PEP 562): they bring JAX and scanpy, which take seconds to load.
    if name == "__version__":
        from importlib.metadata import version

        value = version("scbayes")
    elif name in __all__:
        from importlib import import_module

        value = import_module(f"scbayes.{name}")
    else:
        raise AttributeError(f"module 'scbayes' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
