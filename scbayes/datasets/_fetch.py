import re
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit


def fetch(
    url: str, *, sha256: str, name: str | None = None, cache_dir: str | Path | None = None, progress: bool = False
) -> Path:
    """Download a file once, check it against its checksum, and return where it lies.

    A file that is already in the cache is checked again and not downloaded. A file with another checksum is never
    kept, and never replaces one that was there.

    Parameters
    ----------
    url
        address of the file: http, https or ftp
    sha256
        checksum of the file, 64 hexadecimal digits. Where its publisher names none, take `sha256sum file` of a
        copy you trust
    name
        file name in the cache; the last part of `url` by default
    cache_dir
        folder of the cache; by default the folder "scbayes" where the operating system keeps caches
    progress
        show a tqdm bar

    Returns
    -------
    pathlib.Path
        the file, as downloaded; read it with `scanpy.read_h5ad`, `scanpy.read_10x_h5`, ...

    Raises
    ------
    ValueError
        if the file has another checksum, or `url`, `sha256` or `name` is not what it should be
    OSError
        if the server does not answer or does not have the file

    Examples
    --------
    >>> import scanpy as sc  # doctest: +SKIP
    >>> import scbayes as sb
    >>> path = sb.datasets.fetch("https://example.org/cells.h5ad", sha256="9f86d0...")  # doctest: +SKIP
    >>> adata = sc.read_h5ad(path)  # doctest: +SKIP
    """
    address = urlsplit(str(url))
    if address.scheme not in ("http", "https", "ftp") or not address.netloc:
        raise ValueError(
            f"url={url!r} is not an http, https or ftp address; a local file needs no fetch, read it as is"
        )
    if not isinstance(sha256, str) or not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise ValueError(f"sha256={sha256!r} is not a SHA-256 checksum: pass its 64 hexadecimal digits")
    if name is None:
        name = PurePosixPath(unquote(address.path)).name
    # A name with folders in it could write outside the cache.
    if name in ("", ".", "..") or re.search(r"[/\\]", name):
        raise ValueError(f"name={name!r} is not a plain file name: pass name='file.h5ad'")

    import pooch

    folder = pooch.os_cache("scbayes") if cache_dir is None else Path(cache_dir)
    try:
        path = pooch.retrieve(url, f"sha256:{sha256.lower()}", fname=name, path=folder, progressbar=progress)
    except ValueError as error:
        # The arguments were checked above: but for an error of the connection, what is left to refuse is the checksum.
        if isinstance(error, OSError):
            raise
        raise ValueError(
            f"{url} is not the file with sha256={sha256}; nothing was kept. Either the file changed at its source, or "
            f"the download or the checksum is wrong: compare both with what its publisher says ({error})"
        ) from error
    return Path(path)
