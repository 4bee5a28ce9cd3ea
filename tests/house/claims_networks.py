"""What the manual says of deep networks and other models: pieces of its text, by page, made from stored results."""

from figures.measure.any_model import ARCHITECTURES
from tests.house.tables import bracketed, number, records, row, tables
from tests.stored import ROOT

BENCHMARKS = ROOT / "benchmarks" / "results"


def any_model():
    """Φ against δE beyond committee machines."""
    minima, correlations = tables("any-model/any-model.md")
    n_minima = sum(int(r["minima"].split()[0]) for r in minima)
    pooled = [
        {
            (r["between"], r["and"]): [r[f"Spearman ρ, σ = {sigma}"] for sigma in ("0.5", "1")]
            for r in correlations
            if (r["noise"], r["architecture"]) == (noise, "ranks within each")
        }
        for noise in ("plain", "filter scales")
    ]
    plain, scaled = (list(map(bracketed, found["Φ", "δE"])) for found in pooled)
    tests = [text for found in pooled for pair, texts in found.items() if pair[1] == "test error" for text in texts]
    assert all("[−" in text and ", +" in text for text in tests)  # all intervals contain 0
    phi = {(r["architecture"], r["algorithm"]): [number(r[n]) for n in r if "Φ" in n] for r in minima}
    for architecture, algorithm in phi:
        assert phi[architecture, "rSGD"] >= phi[architecture, algorithm]
    low, high = min(map(number, tests)), max(map(number, tests))
    shallow = bracketed(pooled[0]["Φ", "test error"][0]).replace("+", "")
    return {
        "README.md": [f"rank correlation of Φ and test error {shallow}"],
        "docs/results.md": [
            f"{ARCHITECTURES['convolutional'].unit:g} times as strong for convolutional networks",
            f"Among {n_minima} minima without training errors, the rank correlation of Φ and δE is {plain[0]} at "
            f"σ = 0.5 and {plain[1]} at σ = 1 (ranks within each architecture); with filter scales it is "
            f"{scaled[0]} and {scaled[1]}.",
            f"rank correlations with the test error lie between {low:.2f} and {high:.2f}".replace("-", "−"),
        ],
    }


def table1():
    """Test errors of the cell of Table 1 that was trained."""
    cells, _ = tables("table1/table1.md")
    rescaled = "older recipe; γ × 100"

    def error(algorithm, departures="older recipe"):
        return f"{row(cells, algorithm=algorithm, departures_from_the_recipe=departures)['test error (%)']} %"

    return {
        "docs/results-deep.md": [
            f"{error('Baseline', '')} (baseline) and {error('eSGD')} (eSGD)",
            f"{error('rSGD')} (rSGD) and {error('rSGD×y')} (rSGD×y)",
            f"they are {error('rSGD', rescaled)} and {error('rSGD×y', rescaled)}",
        ]
    }


def table1_full():
    """Test errors of the cells of Table 1 that were trained at full length, and what is beyond the paper's."""
    cells, differences = tables("table1-full/table1.md")
    names = {"Baseline": "the baseline"}
    plain = [c for c in cells if not c["departures from the recipe"]]
    mean, *scaled, many = (
        row(cells, algorithm=algorithm, departures_from_the_recipe=departures)["test error (%)"]
        for algorithm, departures in (
            ("rSGD", "gamma_convention code; loss_convention mean"),
            ("rSGD", "loss_convention mean-y-eta"),
            ("rSGD", "gamma_convention code; loss_convention mean-y-eta"),
            ("rSGD×y", "loss_convention mean-y-eta"),
        )
    )
    assert scaled[0] == scaled[1]
    other = [r for r in differences if "paper" in r["difference"] and "cannot be told" not in r["verdict"]]
    train = [float(r["train error (%)"]) for r in tables("table1-full/fig3.md")[0]]
    return {
        "docs/results-deep.md": [
            *(
                f"{c['test error (%)']} % for {names.get(c['algorithm'], c['algorithm'])} (the paper: {c['paper (%)']})"
                for c in plain
            ),
            f"rSGD so trained has a test error of {scaled[0]} %, with γ as in eq. 6 and as in that code; "
            f"the paper has {row(plain, algorithm='rSGD')['paper (%)']}",
            f"rSGD×y has {many} %, and {row(plain, algorithm='rSGD×y')['paper (%)']} in the paper",
            f"At the printed learning rate rSGD stays at {mean} %",
            *(
                f"{r['difference'].partition(' − ')[0]} is {r['verdict']}, by "
                f"{r['test error, points [95 %]'].partition(' ')[0].lstrip('+')} points"
                for r in other
            ),
            f"training errors differ, from {min(train):.1f} to {max(train):.1f} %",
        ]
    }


def last_profiles(folder):
    """δE(0.5) with its standard error, test error and training error at the end of each algorithm's training."""
    last = {}
    for r in records(f"{folder}/fig3.csv"):  # epochs rise
        if float(r["sigma"]) == 0.5:
            last[r["column"]] = r
    rises = {c: f"{float(r['delta_error (%)']):.1f} ± {float(r['standard error (%)']):.1f} %" for c, r in last.items()}
    return rises, {c: f"{float(r['test error (%)']):.1f}" for c, r in last.items()}


def fig3_full():
    """Local energy at training error 0, of the network trained on all images."""
    rises, errors = last_profiles("fig3-full")
    return {
        "docs/results-deep.md": [
            f"δE(0.5) is {rises['baseline']} for SGD, {rises['esgd']} for eSGD, {rises['rsgd']} for rSGD and "
            f"{rises['rsgd-y']} for rSGD×y, with test errors of {errors['baseline']}, {errors['esgd']}, "
            f"{errors['rsgd']} and {errors['rsgd-y']} %",
        ]
    }


def fig3():
    """Local energy at the end of the training, of a smaller network."""
    rises, errors = last_profiles("fig3")
    return {
        "docs/results-deep.md": [
            f"δE(0.5) is {rises['baseline']} for SGD, {rises['esgd']} for eSGD, {rises['rsgd']} for rSGD "
            f"and {rises['rsgd-y']} for rSGD×y",
            f"{errors['baseline']}, {errors['esgd']}, {errors['rsgd']} and {errors['rsgd-y']} % are equal",
        ]
    }


def fig7_at(folder):
    """Coefficients of Fig. 7 at σ = 0.5 in the manual's style, by name, and networks: all, and those that fit."""
    (correlations,) = tables(f"{folder}/fig7.md")
    at = {r["coefficient"]: bracketed(r["σ = 0.5"]).replace("+", "") for r in correlations}
    networks = {(n["name"], n["fitted"]) for n in records(f"{folder}/fig7.csv")}
    return at, len(networks), sum(fits == "True" for _, fits in networks)


def fig7():
    """Local energy against test error, of smaller networks."""
    at, n, n_fitted = fig7_at("fig7")
    in_dropout, in_decay = (at[f"ρ, equal {name}"].partition(" [")[0] for name in ("dropout", "weight decay"))
    return {
        "docs/results-deep.md": [
            f"*{n} VGG-like networks",
            f"Over the {n_fitted} others, δE(0.5) does not predict the test error: r = {at['Pearson r']}.",
            f"rank correlation is {at['ρ, equal batch size']}",
            f"give {in_dropout} and {in_decay})",
        ],
    }


def fig7_large():
    """Local energy against test error, of networks on whole images."""
    at, n, n_fitted = fig7_at("fig7-large")
    assert at["ψ, weight decay alone"] == "1.00 [1.00, 1.00]"
    return {
        "README.md": [f"(r = 0.90) | of {n_fitted} small nets, less: r = {at['Pearson r']}"],
        "docs/results-deep.md": [
            f"Fig. 7, {n} VGG-like networks",
            f"Over the {n_fitted} networks of equal training loss δE(0.5) follows the test error, "
            f"r = {at['Pearson r']}, though less than in the paper, which has 0.90",
            f"among networks of equal weight decay the rank correlation is {at['ρ, equal weight decay']}. "
            f"The {n - n_fitted} others",
        ],
    }


def variance():
    """Evaluations that the options of the local energy of torch models save."""
    table = {
        (r["network"], r["options"], r["quantity"]): f"{float(r['factor']):.2g} ± {float(r['std_error']):.1g}"
        for r in records(BENCHMARKS / "variance.csv")
    }
    return {
        "docs/torch.md": [
            f"took {table['minimum', 'subset', 'error']} times fewer evaluations",
            f"{table['minimum', 'common', 'difference']} times cheaper there",
            f"{table['one epoch', 'antithetic', 'error']} times for the error and "
            f"{table['one epoch', 'antithetic', 'loss']} times for the loss after one epoch, and does nothing at them "
            f"({table['minimum', 'antithetic', 'error']})",
        ]
    }


def learning_coefficient():
    """λ̂ by bpflat and by devinterp, against exact values."""
    (lines,) = tables("learning-coefficient/learning_coefficient.md")
    ours, as_set, tuned = {}, {}, {}
    for r in lines:
        kind = ours if r["sampler"].startswith("bpflat") else as_set if "(its README)" in r["sampler"] else tuned
        kind.setdefault(r["problem"], []).append(r["r.m.s. error, %"])
    (diverged,) = (problem for problem, errors in as_set.items() if errors == ["—"])
    assert diverged.startswith("w₁² w₂⁴")
    errors = [
        sorted(min(map(number, errors)) for problem, errors in kind.items() if errors != ["—"])
        for kind in (ours, as_set, tuned)
    ]
    assert len(errors[0]) == len(errors[2]) == 1 + len(errors[1])
    ranges = [f"{found[0]:.1f} to {found[-1]:.1f} %" for found in errors]
    return {
        "docs/torch.md": [
            f"errs by {ranges[0]}",
            f"errs by {ranges[1]}, and diverges on",
            f"the best of its samplers errs by {ranges[2]}",
        ]
    }


CLAIMS = (any_model, table1, table1_full, fig3_full, fig3, fig7, fig7_large, variance, learning_coefficient)
