"""What the MURA paper reports (Rajpurkar et al. 2018, arXiv:1712.06957), for comparison.

Measured on the 207 studies of the hidden test set, whose gold standard is the majority of three radiologists; other
studies, the public validation set among them, are not comparable but for their order of magnitude.
"""

from __future__ import annotations

from typing import NamedTuple

WARNING = "the paper's figures are of the hidden test set of 207 studies, which these are not"

# Of the ensemble of five networks.
MODEL = {"auroc": 0.929, "sensitivity": 0.815, "specificity": 0.887, "kappa": 0.705}
RADIOLOGISTS = (0.731, 0.763, 0.778)  # kappa of each


class Kappas(NamedTuple):
    """Cohen's kappa with the gold standard."""

    model: float
    best_radiologist: float


OVERALL = Kappas(MODEL["kappa"], max(RADIOLOGISTS))
BY_BODY_PART = {
    "ELBOW": Kappas(0.710, 0.850),
    "FINGER": Kappas(0.389, 0.410),
    "FOREARM": Kappas(0.737, 0.802),
    "HAND": Kappas(0.851, 0.927),
    "HUMERUS": Kappas(0.600, 0.933),
    "SHOULDER": Kappas(0.729, 0.864),
    "WRIST": Kappas(0.931, 0.931),
}
