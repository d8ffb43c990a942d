"""The level of contamination, of samples and groups, and shares of cells: against SciPy and brute force."""

import numpy as np
import pytest
from scipy import integrate, optimize, stats

from scbayes.models._ambient_scores import FINE
from scbayes.models._contamination_level import (
    CONCENTRATIONS,
    LEVELS,
    SPREADS,
    TRUST,
    TYPICAL_SPREAD,
    Evidence,
    _edges,
    _mass,
    find_level,
    shares_of_cells,
)
from scbayes.models._silent_genes import level_from_genes

MISFIT = 0.08


@pytest.mark.parametrize("level", [0.03, 0.1, 0.3])
def test_silent_genes_tell_the_level(level):
    rng = np.random.default_rng(6)
    a = rng.dirichlet(np.ones(400))
    native = np.where(rng.random(400) < 0.4, 0, rng.lognormal(0, 1, 400))
    exposure = 2e6
    y = rng.poisson(rng.gamma(100, 0.01, 400) * exposure * a * (level + (1 - level) * native))
    found = level_from_genes(y, exposure, a)
    grid = np.log(np.geomspace(0.005, 0.6, 400))
    assert np.exp(grid[found(grid).argmax()]) == pytest.approx(level, rel=0.12)
    assert found(np.log([level / 2, level * 1.5])).max() < -5


@pytest.mark.parametrize("spread", [0.0, 0.15, 0.8])
def test_without_silent_genes_low_levels_stay_possible(spread):
    """Native expression like the profile, more or less."""
    rng = np.random.default_rng(7)
    a = rng.dirichlet(np.ones(400))
    native = rng.lognormal(0, spread, 400)
    y = rng.poisson(rng.gamma(100, 0.01, 400) * 2e6 * a * (0.1 + 0.9 * native))
    found = level_from_genes(y, 2e6, a)
    assert found(np.log(0.02)) > -3
    assert level_from_genes(y, 1e-3, a) is None


@pytest.mark.parametrize("k", [1, 12])
def test_prior_masses(k):
    mass = _mass(1)
    assert mass.shape == (len(FINE), len(LEVELS), len(CONCENTRATIONS))
    i = 40
    share = np.clip(LEVELS[i] + (1 - LEVELS[i]) * _edges(), 0, 1)
    mean = LEVELS[i] * np.exp(0.25)
    alpha = max(mean * CONCENTRATIONS[k], 1)
    prior = stats.beta(alpha, alpha * (1 - mean) / mean)
    np.testing.assert_allclose(mass[:, i, k], np.diff(prior.cdf(share)), atol=1e-6)
    assert mass[:, :55].sum(0).min() > 0.97  # no cell is almost all soup


def evidence(rng, n_groups, n_cells):
    found = []
    for _ in range(n_groups):
        centre = rng.normal(0, 0.05, n_cells)
        likelihood = np.exp(-0.5 * ((FINE - centre[:, None]) / 0.04) ** 2).astype(np.float32)
        found.append(Evidence(likelihood, rng.integers(-1, 2, n_cells), -2 * np.log(LEVELS / 0.1) ** 2, MISFIT))
    return found


def test_level_is_that_of_brute_force():
    both = evidence(np.random.default_rng(8), 2, 6)
    own = []
    for one in both:
        value = np.array(
            [np.log(np.einsum("f,flk->lk", u, _mass(s))) for u, s in zip(one.likelihood, one.step, strict=True)]
        )
        own.append(TRUST * (value.sum(0) + one.genes[:, None]))
    joint = np.zeros((64, 64, 64))  # M, level of group 0, level of group 1
    ln = np.log(LEVELS)
    for spread in SPREADS:
        kernel = stats.norm.pdf(ln[:, None], ln, spread)
        kernel /= kernel.sum(0)
        parts = [np.exp(o - own[0].max())[..., None] * kernel[:, None] for o in own]  # kappa is common
        prior = np.exp(-0.5 * ((ln - np.log(0.1)) / 0.7) ** 2 - spread / TYPICAL_SPREAD)
        joint += np.einsum("m,ikm,jkm->mij", prior, *parts)
    joint /= joint.sum()
    found = find_level(both, (0.1, 0.7))
    of_m = joint.sum((1, 2))
    assert found.mean == pytest.approx(of_m @ LEVELS, rel=1e-4)
    variance = of_m @ LEVELS**2 - (of_m @ LEVELS) ** 2 + (of_m @ LEVELS * MISFIT) ** 2
    assert found.sd == pytest.approx(np.sqrt(variance), rel=1e-3)
    blur = stats.norm.pdf(ln[:, None], ln, MISFIT)
    for group, marginal in zip(found.groups, (joint.sum((0, 2)), joint.sum((0, 1))), strict=True):
        assert group.sum() == pytest.approx(1)
        np.testing.assert_allclose(group.sum(1), blur / blur.sum(0) @ marginal, atol=1e-5)


def test_groups_that_say_nothing_have_what_is_known_of_the_sample():
    known = evidence(np.random.default_rng(9), 1, 200)
    silent = Evidence(np.ones((3, len(FINE)), np.float32), np.zeros(3, int), np.zeros(len(LEVELS)), MISFIT)
    found = find_level([*known, silent], (0.08, 1.0))
    sd = [np.sqrt(w.sum(1) @ np.log(LEVELS) ** 2 - (w.sum(1) @ np.log(LEVELS)) ** 2) for w in found.groups]
    assert sd[0] < sd[1]
    assert found.groups[1].sum(1) @ LEVELS == pytest.approx(found.mean, rel=0.15)


def test_shares_are_those_of_direct_integration():
    i, k = 36, 14
    weight = np.zeros((len(LEVELS), len(CONCENTRATIONS)))
    weight[i, k] = 1
    centre, sd = np.array([-0.02, 0.03, 0.15]), 0.04
    one = Evidence(
        np.exp(-0.5 * ((FINE - centre[:, None]) / sd) ** 2).astype(np.float32),
        np.zeros(3, int),
        np.zeros(len(LEVELS)),
        MISFIT,
    )
    mean, low, high = shares_of_cells(one, weight, 0.8)
    alpha = max(LEVELS[i] * CONCENTRATIONS[k], 1)
    prior = stats.beta(alpha, alpha * (1 - LEVELS[i]) / LEVELS[i])
    for c in range(3):

        def density(rho, c=c):
            return prior.pdf(rho) * stats.norm.pdf((rho - LEVELS[i]) / (1 - LEVELS[i]), centre[c], sd)

        def integral(f, to):
            return integrate.quad(f, 0, to, points=[min(0.1, to / 2)], limit=200)[0]

        total = integral(density, 0.9)
        assert mean[c] == pytest.approx(integral(lambda r: r * density(r), 0.9) / total, rel=0.02)
        for found, q in ((low, 0.1), (high, 0.9)):
            exact = optimize.brentq(lambda r, goal=q * total: integral(density, r) - goal, 1e-6, 0.9)
            assert found[c] == pytest.approx(exact, abs=0.003)


def test_cells_that_the_prior_excludes_follow_their_counts():
    weight = np.zeros((len(LEVELS), len(CONCENTRATIONS)))
    weight[20, -1] = 1  # about 2%, all cells alike
    likelihood = np.exp(-0.5 * ((FINE - np.array([0.7, -1.2])[:, None]) / 0.005) ** 2).astype(np.float32)
    likelihood /= likelihood.max(1, keepdims=True)
    mean, low, high = shares_of_cells(Evidence(likelihood, np.zeros(2, int), np.zeros(64), MISFIT), weight, 0.9)
    assert mean[0] == pytest.approx(0.7, abs=0.03)
    assert mean[1] < 0.03
    assert (low <= mean).all()
    assert (mean <= high).all()
