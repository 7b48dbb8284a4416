"""Planted faults of rights, quotas, tokens and revocation."""

from __future__ import annotations

from tests.mutants.changes import always, drop_operand, never, swap
from tests.mutants.mutant import Mutant

_C = "hybrid_llm.core.rights"
_N = "hybrid_llm.backends.node"

MUTANTS = (
    Mutant(
        "a caller whom no entry is about is let in",
        f"{_C}.grants:Rights.may",
        swap("Verdict(allowed=False, objection='everything')", "Verdict(allowed=True, objection='everything')"),
    ),
    Mutant("the claims of a token are not asked for", f"{_C}.grants:Grant.is_about", always("all(__)")),
    Mutant("a request may change the tenant of its token", f"{_C}.grants:Rights.decide", never("__ and __ and __")),
    Mutant("a reload in mid-request widens its rights", f"{_C}.gate:Gate.check", swap("(first, second)", "(second,)")),
    Mutant("every caller is let in", f"{_C}.gate:Gate.admit", never("not verdict.allowed")),
    Mutant("what is reserved is not counted", f"{_C}.quotas:_refusal", swap("state.total_reserved + tokens", "tokens")),
    Mutant("a key of another curve is used", f"{_C}.keys:read_keys", always("fits(key, algorithm)")),
    Mutant("an unknown key asks the issuer each time", f"{_C}.keys:TokenVerifier._refreshed", drop_operand("due")),
    Mutant("an expired token is accepted", f"{_C}.tokens:_checked_times", never("now >= expires + spec.leeway")),
    Mutant(
        "a revoked certificate is accepted",
        f"{_N}.revoked:RevokedPeers.call",
        never("self._list.find(certificate) is not None"),
    ),
    Mutant(
        "an older revocation list is used",
        "hybrid_llm.backends.wire.revocation:RevocationList._take",
        never("numbers.get(issuer, -1) < last"),
    ),
)
