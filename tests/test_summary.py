"""Summaries of counts and the sparse operator between cells and genes, against dense NumPy."""

from itertools import pairwise

import numpy as np
import pytest
from scipy import sparse

from scbayes.counts import Counts, Summary
from scbayes.counts import _blocks as blocks_module
from scbayes.counts._summary import merge

FIELDS = ("batch", "cell_total", "cell_detected", "row", "count", "cells")
SHAPE = (83, 19)


def difficult_counts(seed: int) -> np.ndarray:
    """Counts on both sides of every limit, an empty cell, an empty gene, a gene in one cell only."""
    rng = np.random.default_rng(seed)
    u = rng.poisson(rng.gamma(0.3, rng.lognormal(1.5, 1.5, SHAPE[1]), SHAPE))
    u[10:21, 2] = [15, 16, 17, 31, 32, 33, 63, 64, 65, 64, 100_000]
    u[30:36, 4] = [5000, 5000, 5000, 200, 200, 12345]
    u[7] = 0
    u[:, [0, 5]] = 0
    u[:, 18] = 0
    u[50, 18] = 700
    return u


def batches(seed: int) -> np.ndarray:
    """Three batches, with no cell in batch 1."""
    return np.random.default_rng(seed).choice([0, 2, 3], SHAPE[0])


def brute_force(u: np.ndarray, batch: np.ndarray, n_batches: int) -> dict[tuple[int, int], int]:
    """Number of cells by (row, count), one cell at a time."""
    tally: dict[tuple[int, int], int] = {}
    for c, g in np.argwhere(u):
        pair = int(batch[c]) * u.shape[1] + int(g), int(u[c, g])
        tally[pair] = tally.get(pair, 0) + 1
    return tally


def assert_equal(first: Summary, second: Summary) -> None:
    assert (first.n_genes, first.n_batches) == (second.n_genes, second.n_batches)
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(first, field), getattr(second, field), err_msg=field)
        assert getattr(first, field).dtype == getattr(second, field).dtype, field


def summary_of(u, batch, n_batches: int) -> Summary:
    return Counts(sparse.csr_array(u), batch, n_batches).summarise()


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint32, np.float32, np.float64])
def test_summary_is_a_tally(dtype):
    u, batch = difficult_counts(0), batches(0)
    summary = Counts(sparse.csr_array(u.astype(dtype)), batch, 4).summarise()
    tally = brute_force(u, batch, 4)
    pairs = list(zip(summary.row.tolist(), summary.count.tolist(), strict=True))
    assert pairs == sorted(tally)
    assert summary.cells.tolist() == [tally[pair] for pair in pairs]
    assert {summary.row.dtype, summary.count.dtype, summary.cells.dtype} == {np.dtype(np.int64)}
    np.testing.assert_array_equal(summary.batch, batch)
    np.testing.assert_array_equal(summary.cell_total, u.sum(1))
    np.testing.assert_array_equal(summary.cell_detected, (u > 0).sum(1))


def test_many_rows_are_tallied_alike():
    u, batch = difficult_counts(0), batches(0)
    few, many = (Counts(sparse.csr_array(u), batch, n).summarise() for n in (4, 6000))  # 114,000 rows
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(few, field), getattr(many, field), err_msg=field)


def test_what_follows_from_a_summary():
    u, batch = difficult_counts(1), batches(1)
    summary = Counts(u, batch, 4).summarise()
    of_batch = [u[batch == b] for b in range(4)]
    assert (summary.n_cells, summary.n_genes, summary.n_batches) == (83, 19, 4)
    np.testing.assert_array_equal(summary.group_cells, [len(part) for part in of_batch])
    assert summary.group_cells[1] == 0
    np.testing.assert_array_equal(summary.gene_total, [part.sum(0) for part in of_batch])
    np.testing.assert_array_equal(summary.gene_detected, [(part > 0).sum(0) for part in of_batch])


def test_without_any_count():
    summary = Counts(np.zeros((4, 3), int), [0, 1, 1, 1], 2).summarise()
    assert len(summary.row) == len(summary.count) == len(summary.cells) == 0
    np.testing.assert_array_equal(summary.gene_total, np.zeros((2, 3)))
    np.testing.assert_array_equal(summary.cell_total, np.zeros(4))
    full = Counts(np.full((2, 3), 70), [1, 1], 2).summarise()
    together = Counts(np.repeat([0, 70], [4, 2])[:, None] * np.ones((1, 3), int), [0, 1, 1, 1, 1, 1], 2).summarise()
    assert_equal(merge(summary, full), together)


def test_one_large_count():
    summary = Counts(np.array([[0, 0], [0, 2_000_000]])).summarise()
    assert (summary.row.tolist(), summary.count.tolist(), summary.cells.tolist()) == ([1], [2_000_000], [1])
    assert summary.cell_total.tolist() == [0, 2_000_000]


@pytest.mark.parametrize("cuts", [[0, 40, 83], [0, 1, 2, 83], [0, 7, 8, 30, 33, 82, 83], list(range(84))])
def test_blocks_merge_to_the_same_integers(cuts):
    u, batch = difficult_counts(2), batches(2)
    whole = summary_of(u, batch, 4)
    parts = [summary_of(u[a:b], batch[a:b], 4) for a, b in pairwise(cuts)]
    merged = parts[0]
    for part in parts[1:]:
        merged = merge(merged, part)
    assert_equal(merged, whole)
    backwards = parts[-1]
    for part in parts[-2::-1]:  # from the other side: merging is associative
        backwards = merge(part, backwards)
    assert_equal(backwards, whole)


@pytest.mark.parametrize("n_bytes", [200, 900, 10**9])
def test_the_size_of_blocks_does_not_matter(monkeypatch, n_bytes):
    u, batch = difficult_counts(3), batches(3)
    weights = np.random.default_rng(0).normal(size=(SHAPE[0], 5))
    table = np.random.default_rng(1).normal(size=(4, SHAPE[1], 5))
    once = Counts(sparse.csr_array(u), batch, 4)
    monkeypatch.setattr(blocks_module, "BLOCK_BYTES", n_bytes)
    counts = Counts(u.astype(np.float32), batch, 4)  # a dense matrix is read in blocks
    assert (len(list(counts.blocks())) > 1) == (n_bytes < 10**9)
    assert_equal(counts.summarise(), once.summarise())
    np.testing.assert_allclose(counts.gather(weights, detected=True), once.gather(weights, detected=True), rtol=1e-12)
    np.testing.assert_allclose(counts.scatter(table, table), once.scatter(table, table), rtol=1e-12)


def test_summaries_of_other_genes_or_batches_do_not_merge():
    one = summary_of(np.ones((2, 3), int), np.zeros(2, np.int32), 1)
    with pytest.raises(ValueError, match=r"3 genes and 1 batches with one of 4 genes and 1 batches"):
        merge(one, summary_of(np.ones((2, 4), int), np.zeros(2, np.int32), 1))
    with pytest.raises(ValueError, match=r"3 genes and 1 batches with one of 3 genes and 2 batches"):
        merge(one, summary_of(np.ones((2, 3), int), np.zeros(2, np.int32), 2))


# --- pooled genes -----------------------------------------------------------------------------------------------------


def pooled(u: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.concatenate([u[:, mask], u[:, ~mask].sum(1, keepdims=True)], 1)


@pytest.mark.parametrize("make", [np.asarray, sparse.csr_array, sparse.csc_matrix], ids=["dense", "csr", "csc"])
def test_masked_genes_are_pooled_into_one(make):
    u, batch = difficult_counts(4), batches(4)
    mask = np.random.default_rng(4).random(SHAPE[1]) < 0.6
    mask[[2, 4]] = True, False  # large counts kept and pooled
    counts = Counts(make(u), batch, 4, mask=mask)
    expected = Counts(pooled(u, mask), batch, 4)
    assert counts.n_genes == mask.sum() + 1
    assert_equal(counts.summarise(), expected.summarise())
    np.testing.assert_array_equal(counts.summarise().cell_total, u.sum(1))
    rng = np.random.default_rng(5)
    weights, table = rng.normal(size=(SHAPE[0], 3)), rng.normal(size=(4, counts.n_genes, 3))
    np.testing.assert_allclose(
        counts.gather(weights, detected=True), expected.gather(weights, detected=True), rtol=1e-12, atol=1e-10
    )
    np.testing.assert_allclose(counts.scatter(table, table), expected.scatter(table, table), rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.float32])
def test_pools_of_small_types_do_not_overflow(dtype):
    u = np.full((2, 400), 100, dtype)
    mask = np.arange(400) < 1
    summary = Counts(sparse.csr_array(u), mask=mask).summarise()
    np.testing.assert_array_equal(summary.count, [100, 39_900])
    np.testing.assert_array_equal(summary.cells, [2, 2])


def test_a_mask_of_all_genes_pools_nothing():
    u = difficult_counts(5)
    counts = Counts(u, mask=np.ones(SHAPE[1], bool))
    assert counts.n_genes == SHAPE[1]
    assert_equal(counts.summarise(), Counts(u).summarise())


def test_a_mask_of_no_genes_leaves_totals():
    u = difficult_counts(5)
    summary = Counts(sparse.csr_array(u), mask=np.zeros(SHAPE[1], bool)).summarise()
    assert summary.n_genes == 1
    np.testing.assert_array_equal(summary.gene_total, [[u.sum()]])


def test_the_matrix_stays_as_it_was():
    u = sparse.csr_array(difficult_counts(6))
    before = [u.data.copy(), u.indices.copy(), u.indptr.copy()]
    counts = Counts(u, mask=np.arange(SHAPE[1]) % 2 == 0)
    counts.summarise()
    counts.gather(np.ones((SHAPE[0], 2)), detected=True)
    for now, then in zip([u.data, u.indices, u.indptr], before, strict=True):
        np.testing.assert_array_equal(now, then)


# --- the operator -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
@pytest.mark.parametrize("detected", [False, True])
def test_gather_is_a_product(dtype, detected):
    u, batch = difficult_counts(7), batches(7)
    weights = np.random.default_rng(7).normal(size=(SHAPE[0], 6))
    found, seen = Counts(sparse.csr_array(u.astype(dtype)), batch, 4).gather(weights, detected=detected)
    member = np.eye(4)[batch]
    np.testing.assert_allclose(found, np.einsum("cb,cg,cm->bgm", member, u, weights), rtol=1e-10, atol=1e-9)
    if detected:
        np.testing.assert_allclose(seen, np.einsum("cb,cg,cm->bgm", member, u > 0, weights), rtol=1e-10, atol=1e-12)
    else:
        assert seen.size == 0


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_scatter_is_the_product_back(dtype):
    u, batch = difficult_counts(8), batches(8)
    rng = np.random.default_rng(8)
    per_count, per_detection = rng.normal(size=(2, 4, SHAPE[1], 6))
    counts = Counts(sparse.csr_array(u.astype(dtype)), batch, 4)
    expected = np.einsum("cg,cgm->cm", u, per_count[batch])
    np.testing.assert_allclose(counts.scatter(per_count), expected, rtol=1e-10, atol=1e-9)
    expected += np.einsum("cg,cgm->cm", u > 0, per_detection[batch])
    np.testing.assert_allclose(counts.scatter(per_count, per_detection), expected, rtol=1e-10, atol=1e-9)


def test_scatter_takes_broadcast_tables():
    u, batch = difficult_counts(9), batches(9)
    table = np.broadcast_to(np.random.default_rng(9).normal(size=(4, 1, 3)), (4, SHAPE[1], 3))
    expected = u.sum(1)[:, None] * table[batch, 0]
    np.testing.assert_allclose(Counts(u, batch, 4).scatter(table), expected, rtol=1e-12)


def test_scatter_is_the_transpose_of_gather():
    u, batch = difficult_counts(10), batches(10)
    rng = np.random.default_rng(10)
    weights, table = rng.normal(size=(SHAPE[0], 4)), rng.normal(size=(4, SHAPE[1], 4))
    counts = Counts(sparse.csc_array(u), batch, 4)
    found, seen = counts.gather(weights, detected=True)
    np.testing.assert_allclose(np.sum(found * table), np.sum(weights * counts.scatter(table)), rtol=1e-10)
    both = np.sum((found + seen) * table)
    np.testing.assert_allclose(both, np.sum(weights * counts.scatter(table, table)), rtol=1e-10)


def test_counts_are_checked_once_in_the_summary():
    with pytest.raises(ValueError, match="layer 'raw'"):
        Counts(np.array([[1.0, -1.0]]), where="layer 'raw'").summarise()
