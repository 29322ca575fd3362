"""Which retain term goes with which forget term. Torch-free: the API asks before a job is queued."""


def find_term_pair_problem(forget_kind: str, retain_kind: str) -> str | None:
    """Return why the two cannot be used together and what to do, or None when they can."""
    if retain_kind == "rmu_retain" and forget_kind != "rmu":
        return (
            f"'rmu_retain' holds the hidden states that forget.kind 'rmu' steers, and '{forget_kind}' steers none; "
            "use 'nll' or 'kl'"
        )
    if retain_kind == "none" and forget_kind == "pdu":
        return "'pdu' forgets under a bound on the retain loss, so it needs a retain term; use 'nll' or 'kl'"
    return None
