"""Does a server speak the Open Inference Protocol? Checks that work with any, and import nothing of the rest of serving but its messages."""

from offramp.serving.conformance.http import header_of
from offramp.serving.conformance.results import CheckOutcome, CheckResult, Conformance, Level
from offramp.serving.conformance.run import check_server

__all__ = ["CheckOutcome", "CheckResult", "Conformance", "Level", "check_server", "header_of"]
