"""A stand-in for the proofs of backends."""

from edgekit.core.spec import BackendFact


class Prover:
    """Answers as told, and counts what it was asked."""

    def __init__(self, fails=()):
        self.fails = dict(fails)
        self.asked = []

    def __call__(self, name, accelerator, options, timeout_s):
        self.asked.append((name, accelerator))
        reason = self.fails.get((name, accelerator), "")
        return BackendFact(
            name=name,
            version="" if "is not installed" in reason else "1.0",
            accelerator=accelerator,
            works=not reason,
            ms=None if reason else 0.1,
            reason=reason,
        )
