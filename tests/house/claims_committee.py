"""What the manual says of committee machines: pieces of its text, by page, made from stored results."""

import re

import numpy as np

from bpflat import load_reduced_fashion_mnist
from figures.draw.tables import interval_text
from figures.draws import values_of
from figures.measure.experiment import WITH_DROPOUT
from figures.measure.statistics import paired_difference
from figures.measure.study import load, of
from tests.house.tables import bracketed, number, records, row, tables
from tests.stored import REFERENCE, RESULTS

ENTROPIC = ("rSGD fast", "rSGD slow", "eSGD")


def fig1():
    """Fig. 1 at full size, algorithm by algorithm."""
    (measures, _) = tables("fig1-paper/fig1.md")
    by_name = {r["algorithm"]: r for r in measures}
    errors = {name: number(r["test error, %"]) for name, r in by_name.items()}
    balanced = {name: number(r["balanced, %"]) for name, r in by_name.items()}
    solved = {name: number(r["zero errors"]) for name, r in by_name.items()}
    spread = {name: number(r["test error, %"].partition("± ")[2]) for name, r in by_name.items()}
    entropic = [errors[name] for name in ENTROPIC]
    step = errors["SGD slow"] - np.mean(entropic)
    step_error = np.hypot(spread["SGD slow"], np.sqrt(sum(spread[name] ** 2 for name in ENTROPIC)) / len(ENTROPIC))
    others = sorted(balanced[name] for name in ENTROPIC if name != "rSGD slow")
    left = {name: 50 - int(count) for name, count in solved.items()}
    assert left["SGD fast"] == left["rSGD slow"] == 0
    return {
        "README.md": [f"SGD fast ({errors['SGD fast']:.1f} %) to slow ({errors['SGD slow']:.1f} %)"],
        "docs/results.md": [
            f"{left['SGD slow']} restarts of SGD slow keep one or two training errors",
            f"{left['rSGD fast']} of rSGD fast and {left['eSGD']} of eSGD with one or two errors",
            f"from SGD fast ({errors['SGD fast']:.1f} %) to SGD slow ({errors['SGD slow']:.1f} %)",
            f"entropic algorithms ({min(entropic):.1f} to {max(entropic):.1f} %)",
            f"the last step is small, {step:.2f} ± {step_error:.2f} %",
            f"{balanced['rSGD slow']:.1f} % for rSGD slow against {others[0]:.1f} to {others[1]:.1f} % for the others",
        ],
        "docs/conventions.md": [
            f"{solved['rSGD fast']:.0f} and {solved['rSGD slow']:.0f} of the 50 restarts",
            f"keeps an error ({100 * left['SGD slow'] / 50:.0f} % of them, a third in the study)",
        ],
    }


def draws():
    """Test errors on several draws of the patterns."""
    studied = load(RESULTS / "conventions")
    values = {sampling: values_of(found)["test_error"] for sampling, found in studied.items()}

    def difference(sampling, first, second):
        return interval_text(paired_difference(values[sampling][first], values[sampling][second]), ".2f")

    def pair(first, second):
        return (difference(sampling, first, second) for sampling in ("natural", "balanced"))

    worse = [np.mean(v["sgd-fast"], axis=1) > np.mean(v["sgd-slow"], axis=1) for v in values.values()]
    differences, correlations, _ = tables("conventions/draws.md")
    flatter = [
        row(differences, patterns=sampling, difference="rSGD slow − rSGD fast")["flatter by Φ(0.25) in"]
        for sampling in values
    ]
    inside = {r["minima of"]: r["test error"] for r in correlations if r["patterns"] == "natural"}
    (balanced,) = (
        r["balanced test error"]
        for r in correlations
        if (r["patterns"], r["minima of"]) == ("balanced", "all but SGD fast")
    )
    fast, slow, esgd = pair("sgd-fast", "sgd-slow"), pair("rsgd-slow", "rsgd-fast"), pair("sgd-slow", "esgd")
    sizes = " and ".join(f"{len(found)} {sampling}" for sampling, found in studied.items())
    return {
        "docs/results.md": [
            f"Three restarts of each algorithm on {sizes} draws of the patterns",
            f"by {next(fast)} % on natural draws and {next(fast)} % on balanced ones, "
            f"on {np.sum(worse)} of {np.size(worse)} draws",
            f"by Φ(0.25) on {flatter[0].removesuffix(' draws')} natural and {flatter[1].removesuffix(' draws')} "
            f"balanced draws, and its test error differs from that of rSGD fast by {next(slow)} % and {next(slow)} %",
            f"Nor do SGD slow and eSGD differ ({next(esgd)} % and {next(esgd)} %)",
            f"is {inside['all five']} over all five algorithms (natural draws), and {inside['all but SGD fast']} "
            "without SGD fast",
            f"(correlation {balanced} without SGD fast)",
        ],
    }


def conventions():
    """What the start and the pull of replicas decide."""
    endings, _, _ = tables("conventions/conventions.md")
    studied = load(RESULTS / "conventions")
    readings = [f"rsgd-{speed}-independent-eta-B-gamma" for speed in ("slow", "fast")]
    excess = [
        interval_text(paired_difference(*(of(draws, "test_error", reading) for reading in readings)), ".2f")
        for draws in studied.values()
    ]
    left = [100 * draw.train_error[draw.reading == readings[0]] for draw in studied["natural"]]
    (worst,) = (errors for errors in left if errors.min() > 1)
    frozen = np.concatenate(
        [d.train_error[d.reading == "rsgd-fast-independent-eta-gamma"] > 0 for d in studied["natural"]]
    )

    def overlap(algorithm, start):
        cells = {"patterns": "natural", "algorithm": algorithm, "gradient": "sum", "start": start}
        return number(row(endings, **cells, pull_or_step="ηBγ")["row overlap"])

    apart, equal = ([overlap(name, start) for name in ENTROPIC[:2]] for start in ("independent", "equal"))
    return {
        "docs/conventions.md": [
            f"overlap by {apart[0]:.2f} (rSGD fast) and {apart[1]:.2f} (rSGD slow) "
            f"instead of {equal[0]:.2f} and {equal[1]:.2f} on natural draws",
            f"by {excess[0]} % on natural draws and {excess[1]} % on balanced ones, and on one natural draw all its "
            f"restarts end with {worst.min():.0f} to {worst.max():.0f} % of training errors",
            f"freeze with errors in {np.sum(frozen)} of {frozen.size} restarts",
        ]
    }


def estimators():
    """Belief and expectation propagation over Monte Carlo."""
    phi, error, last = {}, {}, 0.15
    for r in records("estimators/estimators.csv"):  # distances, the same for all methods, rise to the last
        phi.setdefault((r["protocol"], r["method"]), []).append(float(r["phi"]))
        error.setdefault((r["protocol"], r["method"]), []).append(float(r["std_error"]))
        assert float(r["distance"]) < 1.01 * last

    def ratios(protocol, method):
        sampled, errors = (np.array(values[protocol, "mcmc"]) for values in (phi, error))
        return (np.array(phi[protocol, method]) / sampled)[np.abs(sampled) > 5 * errors]  # as in the picture

    bp = [ratios(name, "bp").max() for name in ("sgd-fast", "sgd-slow", "rsgd-fast")]
    off = np.abs(ratios("sgd-fast", "ep") - 1).max()
    far = [ratios(name, "ep")[-1] - 1 for name in ("sgd-slow", "rsgd-fast")]
    return {
        "docs/measures.md": [
            f"up to {bp[0]:.2f} times too low around the SGD-fast minimum, {bp[1]:.2f} times around SGD slow's and "
            f"{bp[2]:.2f} times around rSGD fast's",
            f"within {100 * off:.0f} % around SGD fast, but {100 * far[0]:.0f} and {100 * far[1]:.0f} % too "
            f"low around SGD slow and rSGD fast at d = {last}",
        ]
    }


def posterior():
    """Gibbs and Bayes errors around the minima of Fig. 1."""
    errors, _ = tables("posterior/posterior.md")
    sharp, *others = errors
    bayes, gain, balanced = (f"{what}, d = 0.5" for what in ("Bayes", "Bayes − centre", "Bayes − centre, balanced"))
    gains = sorted(number(r[gain].lstrip("+")) for r in others)
    rises = sorted(number(r[balanced].lstrip("+")) for r in errors)
    assert sharp["algorithm"] == "SGD fast" and max(map(abs, gains)) < 100 * 2 / 677
    near = {
        r["method"]: [100 * float(r[name]) for name in ("gibbs", "gibbs_std_error")]
        for r in records("posterior/posterior.csv")
        if (r["protocol"], r["restart"], r["delta"]) == ("sgd-fast", "0", "0.1")
    }
    checks = tables("posterior/posterior.md")[1]
    far = [r for r in checks if r["d"] == "0.5" and r["algorithm"] != "SGD fast"]
    off = {name: sorted(number(r[f"Gibbs, {name}"].lstrip("+")) for r in far) for name in ("EP", "BP")}
    assert all(abs(number(r[f"Bayes, {name}"])) <= 0.15 for r in far for name in off)  # one of 677 patterns
    assert [r["algorithm"] for r in checks if r["Gibbs, Monte Carlo"] == "—"] == ["SGD fast"]
    sampled, error = near["mcmc"]
    assert near["bp"][0] - sampled > 5 * error and abs(near["ep"][0] - sampled) < 3 * error
    return {
        "docs/results.md": [
            f"Bayes error is {sharp[bayes]} % at d = 0.5, {sharp[gain]} % against that of the centres",
            f"the differences are {gains[0]:.2f} to {gains[-1]:+.2f} %".replace("-", "−"),
            f"Gibbs error is {off['EP'][0]:.2f} to {off['EP'][-1]:.2f} % too high by expectation propagation and "
            f"{off['BP'][0]:.2f} to {off['BP'][-1]:.2f} % too high by belief propagation",
            f"from {rises[0]:.1f} to {rises[-1]:+.1f} %".replace("-", "−"),
        ],
        "docs/measures.md": [
            f"the Gibbs error is {sampled:.2f} ± {error:.2f} % by Monte Carlo, {near['ep'][0]:.2f} % by expectation "
            f"propagation and {near['bp'][0]:.2f} % by belief propagation",
        ],
    }


def binary_weights():
    """Flatness and test errors of machines with weights ±1, for three solvers."""
    stored = {500: tables("binary/binary.md"), 200: tables("binary-200/binary.md")}
    test, within = {}, {}
    for n_train, (solvers, differences, correlations, _) in stored.items():
        intervals = [
            {
                name: [float(x.replace("−", "-")) for x in re.findall(r"[+−][\d.]+", text)]
                for name, text in list(r.items())[1:]
            }
            for r in differences
        ]
        *over_focusing, between = intervals  # mean, low and high
        *flatness, delta, errors, balanced = between
        for rise in over_focusing:
            assert all(rise[name][2] < 0 for name in flatness) and rise[delta][1] > 0
            assert (rise[errors][1] > 0) == (n_train == 200)
            assert rise[balanced][1] < 0 < rise[balanced][2]
        assert all(between[name][1] < 0 < between[name][2] for name in ("10⁵ Φ(0.05), MC", delta, errors))
        test[n_train] = [r[errors] for r in solvers]
        measure = row(correlations, measure="10⁵ Φ(0.05), MC")
        within[n_train] = bracketed(measure["with it, within a solver"])
    solvers, *_, checks = stored[500]
    left = [10 - int(number(r["zero errors"])) for r in solvers]
    assert left[2] == 0
    ratios = (number(r["BP"]) / number(r["Monte Carlo"]) for r in checks[1::2])
    constant = 100 * np.mean(load_reduced_fashion_mnist().test_labels > 0)
    return {
        "docs/results.md": [
            "err on {} % of the test patterns, those of decimation on {} % and those of SGD on {} %".format(*test[500]),
            "the errors are {} %, {} % and {} %".format(*test[200]),
            f"(The constant answer errs on {constant:.1f} %.)",
            f"is {within[500]} on 500 patterns and {within[200]} on 200",
            "its Φ at d = 0.05 is {:.1f} times too low around the first machine of focusing, {:.1f} times around "
            "decimation's and {:.1f} times around SGD's".format(*ratios),
            f"{left[0]} of focusing and {left[1]} of decimation on 500 patterns",
        ]
    }


def counting():
    """Errors of belief and expectation propagation around a reference with errors, and without."""
    low = {}
    for method in ("ep", "bp"):
        ratios = [float(r[method]) / float(r["count"]) - 1 for r in records(REFERENCE / "counting.csv")]
        assert ratios[0] > 0.9 * max(ratios)  # the first is without errors
        low[method] = f"{100 * min(ratios):.0f} to {100 * max(ratios):.0f} %"
    return {
        "docs/measures.md": [
            f"log Z is {low['ep']} (expectation propagation) and {low['bp']} (belief propagation) too low there"
        ]
    }


def meaning():
    """What a distance and a Φ mean."""
    cosines = [1 / np.sqrt(1 + 2 * d) for d in (0.05, 0.25, 1)]
    return {
        "docs/measures.md": [
            f"({cosines[0]:.2f}, {cosines[1]:.2f} and {cosines[2]:.2f} at $d$ = 0.05, 0.25 and 1)",
            f"A Φ of −0.003 with $n = {9 * 784}$ weights means that a fraction $e^{{-{0.003 * 9 * 784:.0f}}}$",
        ]
    }


def dropout():
    """Fig. 6."""
    measures, _ = tables("fig6-paper/fig6.md")
    errors = [number(r["test error, %"]) for r in measures]
    unsolved = sum(50 - int(number(r["zero errors"])) for r in measures)
    assert unsolved == 1
    return {
        "README.md": [f"test errors from {errors[0]:.1f} to {errors[-1]:.1f} %"],
        "docs/results.md": [
            f"One of {50 * len(measures)} restarts reached the cap of {WITH_DROPOUT[0].max_epochs:,} epochs"
        ],
    }


def agreement():
    """Φ against δE."""
    (correlations,) = tables("agreement/agreement.md")
    near, phi, rise, phi_balanced, rise_balanced = correlations
    dropouts, flat = "SGD fast with dropout (250)", "without SGD fast (200)"
    within = next(name for name in near if name.startswith("within"))

    def size(r, column):
        return f"{abs(number(r[column])):.2f}"

    return {
        "README.md": [f"rank correlation −{size(near, 'all (450)')} over 450 minima"],
        "docs/results.md": [
            f"(rank correlation of −Φ and δE {size(near, 'all (450)')}, within an algorithm {size(near, within)})",
            f"for SGD fast with dropout ({size(phi, dropouts)} and {size(rise, dropouts)}), and hardly among the four "
            f"other algorithms of Fig. 1 ({size(phi, flat)} and {size(rise, flat)}; the balanced one "
            f"{size(phi_balanced, flat)} and {size(rise_balanced, flat)})",
        ],
    }


CLAIMS = (fig1, draws, conventions, estimators, posterior, binary_weights, counting, meaning, dropout, agreement)
