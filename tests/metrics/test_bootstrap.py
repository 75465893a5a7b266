"""The bootstrap gives what scoring the resampled reports again gives, and its intervals cover."""

import numpy as np
import pytest

from otdrg_hf.metrics import make_report_card, paired_bootstrap
from otdrg_hf.metrics.bleu import corpus_bleu
from otdrg_hf.metrics.bootstrap import Statistics, interval, mean_statistics, resample_counts
from otdrg_hf.metrics.clinical import clinical_statistics
from otdrg_hf.metrics.rouge import rouge_l


def test_counts_are_samples_with_replacement():
    counts = np.concatenate(list(resample_counts(30, 500, seed=3)))
    assert counts.shape == (500, 30)
    assert (counts.sum(axis=1) == 30).all()
    assert counts.var() == pytest.approx(1 - 1 / 30, abs=0.05)  # of a binomial with 30 draws of 1/30
    np.testing.assert_array_equal(counts, np.concatenate(list(resample_counts(30, 500, seed=3))))
    assert not np.array_equal(counts, np.concatenate(list(resample_counts(30, 500, seed=4))))


def test_chunks_do_not_change_the_samples(monkeypatch):
    whole = np.concatenate(list(resample_counts(50, 40, seed=0)))
    monkeypatch.setattr("otdrg_hf.metrics.bootstrap._CHUNK_ENTRIES", 150)
    chunks = list(resample_counts(50, 40, seed=0))
    assert len(chunks) == 14
    np.testing.assert_array_equal(np.concatenate(chunks), whole)


def test_resampled_figures_are_those_of_scoring_again(real_pairs):
    predictions, references = (part[:60] for part in real_pairs)
    generator = np.random.default_rng(0)
    states = generator.integers(0, 4, size=(2, 60, 14))
    card = make_report_card(
        predictions, references, prediction_labels=states[0], reference_labels=states[1], meteor=False
    )
    totals = card.statistics.resampled_totals(4, seed=7)
    samples = card.statistics.figures(totals, 60)
    for index, count in enumerate(np.concatenate(list(resample_counts(60, 4, seed=7)))):
        rows = np.repeat(np.arange(60), count.astype(int))
        again = [predictions[row] for row in rows], [references[row] for row in rows]
        np.testing.assert_allclose([samples[f"bleu_{n}"][index] for n in range(1, 5)], corpus_bleu(*again), atol=1e-12)
        assert samples["rouge_l"][index] == pytest.approx(rouge_l(*again), abs=1e-12)
        # CIDEr keeps the document frequencies of the full set, so it is the mean of the scores there.
        assert samples["cider"][index] == pytest.approx(card.cider[rows].mean(), abs=1e-12)
        clinical = clinical_statistics(states[0][rows], states[1][rows])
        for name, value in clinical.figures(clinical.totals(), 60).items():
            assert samples[name][index] == pytest.approx(value, abs=1e-12), name


def test_interval_leaves_undefined_samples_out():
    assert interval(np.array([np.nan, 1.0, 1.0]), 0.95) == (1.0, 1.0)
    assert interval(np.array([np.nan]), 0.95) == (None, None)
    low, high = interval(np.arange(1001) / 1000, 0.9)
    assert (low, high) == (pytest.approx(0.05), pytest.approx(0.95))


def test_paired_test_sees_a_small_steady_difference_that_intervals_do_not():
    generator = np.random.default_rng(0)
    scores = generator.random(200)
    better = scores + 0.01 + generator.normal(0, 0.005, 200)
    test = paired_bootstrap(mean_statistics("x", better), mean_statistics("x", scores), num_bootstrap=500)["x"]
    assert test["difference"] == pytest.approx(better.mean() - scores.mean())
    assert 0 < test["low"] < test["difference"] < test["high"]
    assert test["p_value"] == pytest.approx(2 / 501)
    turned = paired_bootstrap(mean_statistics("x", scores), mean_statistics("x", better), num_bootstrap=500)["x"]
    assert (turned["difference"], turned["low"]) == (pytest.approx(-test["difference"]), pytest.approx(-test["high"]))


def test_paired_test_of_equal_systems_and_of_undefined_figures():
    same = mean_statistics("x", np.random.default_rng(0).random(50))
    assert paired_bootstrap(same, same, num_bootstrap=100)["x"]["p_value"] == 1.0
    undefined = mean_statistics("x", np.full(50, np.nan))
    assert paired_bootstrap(same, undefined, num_bootstrap=100)["x"]["p_value"] is None


def test_paired_test_names_what_does_not_fit():
    one, other = mean_statistics("x", np.ones(3)), mean_statistics("x", np.ones(4))
    with pytest.raises(ValueError, match="3 and 4 reports"):
        paired_bootstrap(one, other)
    with pytest.raises(ValueError, match="num_bootstrap is 0"):
        paired_bootstrap(one, one, num_bootstrap=0)


def micro_f1(totals, num_reports):
    hits, false, missed = np.moveaxis(totals, -1, 0)
    return {"f1": 2 * hits / (2 * hits + false + missed)}


def coverage(draw, truth, repeats):
    """Share of simulated sets whose 95 % interval holds the truth."""
    held = 0
    for seed in range(repeats):
        statistics = draw(np.random.default_rng(10_000 + seed))
        ((_, samples),) = statistics.figures(statistics.resampled_totals(1000, seed), statistics.num_reports).items()
        low, high = interval(samples, 0.95)
        held += low <= truth <= high
    return held / repeats


@pytest.mark.slow
def test_intervals_of_a_mean_cover():
    """2,000 sets of 300 scores with a known, skewed distribution: pytest tests/metrics/test_bootstrap.py -m slow"""
    share = coverage(lambda generator: mean_statistics("x", generator.beta(2, 5, 300)), 2 / 7, 2000)
    print(f"coverage of a mean: {share:.4f}")
    assert abs(share - 0.95) <= 0.02


@pytest.mark.slow
def test_intervals_of_micro_f1_cover():
    """As above for a ratio of sums, with true positives, false positives and misses of known rates."""
    rates = np.array([0.3, 0.1, 0.2])
    truth = 2 * rates[0] / (2 * rates[0] + rates[1] + rates[2])

    def draw(generator):
        return Statistics((generator.random((300, 3)) < rates).astype(float), micro_f1)

    share = coverage(draw, truth, 2000)
    print(f"coverage of micro F1: {share:.4f}")
    assert abs(share - 0.95) <= 0.02


@pytest.mark.slow
def test_paired_test_keeps_its_level():
    """Two systems without a difference come out below p = 0.05 in about 5 % of 1,000 sets."""
    wrong = 0
    for seed in range(1000):
        generator = np.random.default_rng(seed)
        common = generator.random(200)
        systems = [mean_statistics("x", common + generator.normal(0, 0.1, 200)) for _ in range(2)]
        wrong += paired_bootstrap(*systems, num_bootstrap=1000, seed=seed)["x"]["p_value"] < 0.05
    print(f"share of false alarms: {wrong / 1000:.3f}")
    assert abs(wrong / 1000 - 0.05) <= 0.02
