"""What the pictures and the numbers of a report card mean, in words, with references."""

from __future__ import annotations

PICTURES: dict[str, tuple[str, str]] = {  # title, how to read it and what it cannot see
    "khat": (
        "k̂ of every datapoint",
        "Rows sorted by k̂, the tail index of their importance ratios p(x, z)/q(z | x): below the "
        "first line importance sampling mends what q gets wrong, above 1 not even the mean of the "
        "ratios can be estimated. It sees only where q has put draws: a mode of the posterior that "
        "q never visits leaves k̂ small.",
    ),
    "tail": (
        "The tail of the worst importance ratios",
        "The share of ratios above a value, on logarithmic scales, where a generalised Pareto tail "
        "of index k becomes a line of slope −1/k: the flatter, the more a few draws carry. Where "
        "the dots leave the line the fit, and k̂ with it, is not to be trusted; ratios larger than "
        "any drawn cannot be seen.",
    ),
    "bounds": (
        "Bounds on log p(x)",
        "Every dot but those marked otherwise is an estimate of a lower bound, and by what the "
        "bounds rise above the ELBO the divergence KL(q ‖ p(z | x)) is at least. A ladder that "
        "still rises at its end says that log p(x) lies higher, and a flat one does not say that "
        "it has arrived: all its draws are from q.",
    ),
    "moments": (
        "How far q's means and spreads would move",
        "Smoothed importance weights correct the mean and the sd of every unit; a shift of 0.3 sd "
        "or a log ratio of 0.3 matters for most uses. Where k̂ is high the correction itself is "
        "too small, and modes that q does not visit are not in it.",
    ),
    "calibration": (
        "Calibration on simulated data",
        "Latents and data are drawn from the model and q is asked for the latents: were q the "
        "posterior, all curves would stay in their bands, a ∩ or ∪ says too wide or too narrow, "
        "and a slope that q is off to one side. It judges q on data from the model, averaged over "
        "them: errors that cancel over data, and real data unlike the simulated, are not seen.",
    ),
    "optimisation": (
        "Whether the optimisation has ended",
        "The loss, and the parameters' traces over the last iterates with split-R̂: a trend or an "
        "R̂ above 1.1 says that more steps would change the answer. A flat trace at a bad local "
        "optimum looks the same as one at the best; restarts tell these apart.",
    ),
    "fit": (
        "Whether the model fits the data",
        "Were the data from the model, the ranks of the data among draws from it would be "
        "uniform, and each observed statistic would lie within its replicates. It judges p and "
        "not q, and only by what these ranks and statistics show.",
    ),
    "latents": (
        "What the latents are used for",
        "KL(q(z | x) ‖ p(z)) of each unit: near 0, q of the unit does not depend on the row. "
        "Whether that is right (the exact posterior does not either) or q's own fault is told "
        "apart where it was checked; the KL does not say what an active unit stands for.",
    ),
}

DEFINITIONS: tuple[tuple[str, str, str], ...] = (
    (
        "colours",
        "Green where the 95 % interval lies in the green band. Otherwise an alarm where p, by "
        "Holm's correction over all tests of the card, is below 5 %: red where the interval lies "
        "beyond the amber edge, amber where not. Else undecided. The chance of one or more false "
        "alarms on the whole card is at most 5 %, as far as the p values are right.",
        "Holm, A simple sequentially rejective multiple test procedure, 1979",
    ),
    (
        "k̂",
        "Shape of the generalised Pareto distribution fitted to the largest importance ratios "
        "p(x, z)/q(z | x) of S draws; the threshold is min(1 − 1/log10 S, 0.7).",
        "Vehtari, Simpson, Gelman, Yao & Gabry, Pareto smoothed importance sampling, 2024; Yao, "
        "Vehtari, Simpson & Gelman, Yes, but did it work? Evaluating variational inference, 2018",
    ),
    (
        "ESS",
        "(Σ w)²/Σ w² of the importance weights, as a fraction of S.",
        "Kong, A note on importance sampling using standardized weights, 1992",
    ),
    (
        "shift, spread",
        "By how many posterior sds the mean of a unit moves, and log of the ratio of its sds, when "
        "q's draws are weighted by their smoothed importance weights.",
        "Vehtari, Simpson, Gelman, Yao & Gabry, Pareto smoothed importance sampling, 2024",
    ),
    (
        "ladder, certified gap",
        "IWAE_k = E log (1/k) Σ p(x, z_i)/q(z_i | x) rises with k from the ELBO to log p(x), so "
        "IWAE_k − ELBO ≤ KL(q ‖ p(z | x)), up to its Monte-Carlo error.",
        "Burda, Grosse & Salakhutdinov, Importance weighted autoencoders, 2016",
    ),
    (
        "CUBO",
        "½ log mean w², an upper bound on log p(x) only for infinitely many draws: no certificate.",
        "Dieng, Tran, Ranganath, Paisley & Blei, Variational inference via χ upper bound "
        "minimization, 2017",
    ),
    (
        "AIS and its reverse",
        "Annealed importance sampling bounds log p(x) from below in expectation; on simulated "
        "data, run backwards from the latents that the data came from, also from above.",
        "Grosse, Ghahramani & Adams, Sandwiching the marginal likelihood using bidirectional Monte "
        "Carlo, 2015; Wu, Burda, Salakhutdinov & Grosse, On the quantitative analysis of "
        "decoder-based generative models, 2017",
    ),
    (
        "approximation and amortization gap",
        "log p(x) less the best ELBO of the family for the row; that ELBO less the guide's own.",
        "Cremer, Li & Duvenaud, Inference suboptimality in variational autoencoders, 2018",
    ),
    (
        "SBC, VSBC",
        "The ranks of simulated latents, and of log p(x | z), among draws of q given the simulated "
        "data are uniform where q is the posterior; VSBC: they are symmetric about ½ where q's "
        "means are right.",
        "Talts, Betancourt, Simpson, Vehtari & Gelman, Validating Bayesian inference algorithms "
        "with simulation-based calibration, 2018; Modrák et al., Simulation-based calibration "
        "checking for Bayesian computation: the choice of test quantities shapes sensitivity, 2023",
    ),
    (
        "coverage, TARP",
        "How often regions of q with probability α hold the simulated latents: regions of highest "
        "density, and balls about random reference points.",
        "Hermans et al., A trust crisis in simulation-based inference?, 2022; Lemos, Coogan, "
        "Hezaveh & Perreault-Levasseur, Sampling-based accuracy testing of posterior estimators "
        "for general inference, 2023",
    ),
    (
        "Jeffreys divergence",
        "Mean over simulations of KL(p ‖ q) + KL(q ‖ p), the unknown log p(x) cancelling out.",
        "Domke, An easy to interpret diagnostic for approximate inference: symmetric divergence "
        "over simulations, 2021",
    ),
    (
        "R̂ of iterates",
        "Split-R̂ of the parameters over the last steps: the spread between parts of the trace "
        "over that within.",
        "Dhaka, Catalina, Andersen, Magnusson, Huggins & Vehtari, Robust, accurate stochastic "
        "optimization for variational inference, 2020",
    ),
    (
        "predictive ranks (PIT), replicates",
        "The rank of the data among draws from the fitted model, uniform where it fits.",
        "Gelman, Meng & Stern, Posterior predictive assessment of model fitness via realized "
        "discrepancies, 1996; Gneiting, Balabdaoui & Raftery, Probabilistic forecasts, calibration "
        "and sharpness, 2007",
    ),
    (
        "active units",
        "Units with Var_x E_q[z | x] > 0.01; the others have collapsed.",
        "Burda, Grosse & Salakhutdinov, Importance weighted autoencoders, 2016; Lucas, Tucker, "
        "Grosse & Norouzi, Don't blame the ELBO! A linear VAE perspective on posterior collapse, "
        "2019",
    ),
)
