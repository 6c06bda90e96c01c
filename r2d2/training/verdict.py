"""What a run was limited by, in words, from where the time of its steps went."""

from r2d2.training.state import Seconds

MUCH = 0.15
"""A share of the time from which on it pays to do something."""


def verdict(seconds: Seconds, workers: int) -> str:
    """One or two sentences for a person.

    Args:
        seconds: Of a run's steps on rank 0.
        workers: Real ones.
    """
    total = max(seconds.total, 1e-9)
    shares = {name: getattr(seconds, name) / total for name in ("compute", "input", "communication")}
    told = ", ".join(f"{share:.0%} {name}" for name, share in shares.items())
    if shares["input"] >= MUCH and shares["input"] >= shares["communication"]:
        return (
            f"Input-bound ({told}): the workers waited for images. Give them more CPUs (cluster.cpus_per_worker), put "
            "tracking.storage on a local disk or let the prepared data fit into memory; lighter augmentation helps too."
        )
    if shares["communication"] >= MUCH:
        return (
            f"Communication-bound ({told}): the {workers} workers waited for each other's gradients. Larger batches "
            "(training.batch_size), training.ring.compression: fp16, a faster network or fewer workers help; so do "
            "workers of equal speed, for the ring waits for the slowest."
        )
    return (
        f"Compute-bound ({told}): the hardware does what it can. More workers, a GPU, bfloat16 or a smaller network "
        "(model.filters, preprocess.image_size) make it faster."
    )
