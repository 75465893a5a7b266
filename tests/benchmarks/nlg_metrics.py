"""Times the Java-free NLG figures with a bootstrap against pycocoevalcap scoring once.

Run `python tests/benchmarks/nlg_metrics.py`; pycocoevalcap must be installed.
"""

import argparse
import random
import tarfile
import time
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

REPORTS = Path(__file__).parents[3] / "shared" / "data" / "iu_xray" / "NLMCXR_reports.tgz"
WORDS = "the heart lungs are is clear normal no effusion pneumothorax seen mild left right opacity . there".split()


def read_reports(path):
    """Findings and impressions of the real reports, lower case."""
    reports = []
    with tarfile.open(path) as archive:
        for member in archive:
            if member.name.endswith(".xml"):
                parts = {part.get("Label"): part.text for part in ElementTree.parse(archive.extractfile(member)).iter()}
                text = " ".join(filter(None, (parts.get("FINDINGS"), parts.get("IMPRESSION"))))
                if text:
                    reports.append(text.lower())
    return reports


def make_pairs(reports, number, seed):
    """Every second prediction is another study's report, the rest are the reference with words left out."""
    generator = random.Random(seed)
    references = [generator.choice(reports) for _ in range(number)]
    predictions = [
        generator.choice(reports) if index % 2 else " ".join(w for w in text.split() if generator.random() > 0.2)
        for index, text in enumerate(references)
    ]
    return predictions, references


def ours(predictions, references, num_bootstrap):
    """Point figures and intervals, as make_report_card computes them without clinical efficacy."""
    from otdrg_hf.metrics.bleu import bleu_from_totals, bleu_statistics
    from otdrg_hf.metrics.bootstrap import Statistics, interval, join_statistics, mean_statistics
    from otdrg_hf.metrics.cider import cider_scores
    from otdrg_hf.metrics.ngrams import pair_ngrams
    from otdrg_hf.metrics.pairs import as_pairs
    from otdrg_hf.metrics.rouge import rouge_l_scores

    predictions, references = as_pairs(predictions, references)
    ngrams = pair_ngrams(predictions, references)

    def bleu_figures(totals, num_reports):
        scores = bleu_from_totals(totals)
        return {f"bleu_{order}": scores[..., order - 1] for order in range(1, 5)}

    statistics = join_statistics(
        [
            Statistics(bleu_statistics(ngrams), bleu_figures),
            mean_statistics("rouge_l", rouge_l_scores(predictions, references)),
            mean_statistics("cider", cider_scores(ngrams)),
        ]
    )
    figures = statistics.figures(statistics.totals(), statistics.num_reports)
    samples = statistics.figures(statistics.resampled_totals(num_bootstrap, 0), statistics.num_reports)
    return {name: float(value) for name, value in figures.items()}, {n: interval(v, 0.95) for n, v in samples.items()}


def theirs(predictions, references):
    """pycocoevalcap's Bleu, Rouge and Cider, once."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    truth = {index: [text] for index, text in enumerate(references)}
    found = {index: [text] for index, text in enumerate(predictions)}
    figures = {f"bleu_{n}": v for n, v in enumerate(Bleu(4).compute_score(truth, found, verbose=0)[0], start=1)}
    figures["rouge_l"] = float(Rouge().compute_score(truth, found)[0])
    figures["cider"] = float(Cider().compute_score(truth, found)[0])
    return figures


def best_time(function, repeats):
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        answer = function()
        times.append(time.perf_counter() - start)
    return answer, min(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=3858)
    parser.add_argument("--bootstrap", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    if REPORTS.is_file():
        source, reports = "real reports", read_reports(REPORTS)
    else:
        generator = random.Random(0)
        source = "synthetic word sequences (the real reports are not here)"
        reports = [" ".join(generator.choices(WORDS, k=generator.randint(5, 70))) for _ in range(3000)]
    predictions, references = make_pairs(reports, options.pairs, seed=0)
    words = np.mean([len(text.split()) for text in references])
    print(f"{options.pairs} pairs of {source}, {words:.1f} words in a reference; best of {options.repeats}")
    their_figures, their_time = best_time(lambda: theirs(predictions, references), options.repeats)
    (figures, _), our_time = best_time(lambda: ours(predictions, references, options.bootstrap), options.repeats)
    print(f"pycocoevalcap, once, no intervals            {their_time:8.3f} s")
    print(f"otdrg_hf, with {options.bootstrap:5d} bootstrap samples       {our_time:8.3f} s")
    print(f"ratio pycocoevalcap / otdrg_hf               {their_time / our_time:8.2f}")
    difference = max(abs(figures[name] - value) for name, value in their_figures.items())
    print(f"largest difference of a figure               {difference:.1e}")


if __name__ == "__main__":
    main()
