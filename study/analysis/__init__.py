"""Numbers that explain features exit by exit, and scores by which an exit can be chosen with few labels or none.

Everything takes features as real arrays ``(N, width)``, one row per window, and computes in float64 without torch. Whatever
could not be computed, or would be NaN, is a :class:`~offramp.errors.DataError`.
"""

from analysis.agreement import criterion_regret, kendall_tau, regret
from analysis.invariance import intraclass_correlation, retrieval_accuracy
from analysis.similarity import linear_cka
from analysis.spectrum import effective_rank
from analysis.transferability import h_score, lidar, log_me, log_me_regression

__all__ = [
    "criterion_regret",
    "effective_rank",
    "h_score",
    "intraclass_correlation",
    "kendall_tau",
    "lidar",
    "linear_cka",
    "log_me",
    "log_me_regression",
    "regret",
    "retrieval_accuracy",
]
