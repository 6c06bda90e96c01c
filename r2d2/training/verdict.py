"""What a run was limited by, in words, from where the time of its steps went."""

import statistics
from collections.abc import Mapping, Sequence

from r2d2.training.state import Seconds

MUCH = 0.15
"""A share of the time from which on it pays to do something."""


def of_ring(each: Sequence[Seconds]) -> tuple[int, Seconds]:
    """The slowest of a ring's workers, for which the others wait, and where the time of the whole ring went.

    The slowest is who waited least for the ring; what it waited for images, all did. What it computed for longer than
    the workers' mean is communication: the others waited for that, too.

    >>> of_ring([Seconds(input=0, compute=50, communication=50), Seconds(input=40, compute=50, communication=10)])
    (1, Seconds(input=40, compute=50, communication=10))

    Args:
        each: Of the same steps, by rank.
    """
    rank, slowest = min(enumerate(each), key=lambda one: one[1].communication)
    compute = min(slowest.compute, statistics.fmean(one.compute for one in each))
    return rank, Seconds(slowest.input, compute, slowest.communication + slowest.compute - compute)


def loss(seconds: Seconds) -> str:
    """`input` or `communication`, whichever took more, if it was much; else nothing."""
    most = max("input", "communication", key=lambda name: getattr(seconds, name))
    return most if getattr(seconds, most) >= MUCH * seconds.total > 0 else ""


def verdict(seconds: Seconds, slowest: Mapping[str, float] | None = None) -> str:
    """One or two sentences for a person: what was lost, if it was much, and what would help.

    Args:
        seconds: Of the ring's steps, see `of_ring`.
        slowest: How long each worker was the slowest, by its name; empty for one worker, or if it is not known.
    """
    total = max(seconds.total, 1e-9)
    shares = {name: getattr(seconds, name) / total for name in ("compute", "input", "communication")}
    told = ", ".join(f"{share:.0%} {name}" for name, share in shares.items())
    who = max(slowest, key=lambda name: slowest[name]) if slowest else ""
    if loss(seconds) == "input":
        by = f", most often by {who}, the slowest worker" if who else ""
        return (
            f"Waiting for images took {shares['input']:.0%} of the time ({told}){by}. What helps: the prepared data on "
            "the node's own disk (a folder there, named in its variable R2D2_CACHE) or in its memory (less of it by "
            "preprocess.image_size or preprocess.slices), and less training.augmentation."
        )
    if loss(seconds) == "communication":
        whom = f", most often {who}" if who else ""
        return (
            f"Communication took {shares['communication']:.0%} of the time ({told}): sending gradients, and waiting "
            f"for the slowest worker{whom}. What helps: larger batches (training.batch_size), a faster network, "
            "workers of equal speed with equal shares of the work, or fewer of them (cluster.workers)."
        )
    return (
        f"Computing took {shares['compute']:.0%} of the time ({told}); neither images nor communication took "
        f"{MUCH:.0%}. More workers, a GPU or a smaller network (model.filters, preprocess.image_size) make it faster."
    )
