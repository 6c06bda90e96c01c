"""What a step takes on so many workers and a given network: a few terms, fitted to measured steps.

With N workers, G bytes of gradients, a link of B bytes/s and a step of C seconds on one worker alone:

    sent      V = 2 (N - 1) / N * G             each worker's, whatever N: Patarasuk and Yuan 2009
    wire      W = V / (b * B) + 2 (N - 1) * l   2 (N - 1) messages one after another around the ring, of latency l each
    busy      P = C + p * V + s * k(N)          what processors do: compute, copy and add up what passes, and wait for
                                                the slowest, whose step is k(N) deviations s longer than the mean
    exposed   E = max(0, W - h * C - q * p * V) what of the wire is not hidden: the last layers' gradients travel while
                                                the first layers' are computed (Sergeev and Del Balso 2018), and the
                                                next piece of a message while the one before is added up
    step      T = max(P + E, N * I / S)         never faster than the storage, at S, that all read I bytes a step from

Efficiency is C / T. Of g workers on a host one flow of the ring leaves it and one enters it, if neighbours in the ring
are neighbours in the hosts: V, and so W, are the same for each link, and within a host nothing is slower than the link.
So g is not in W; it counts in C, where workers of a host share its memory, and in N, where all share the storage.

`l`, `p`, `q` belong to the network and its software, `h` to the neural network, C, s, G to both and the machine; `b` is
what TCP on Ethernet leaves of a link.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import optimize, stats

GBIT = 1e9 / 8
"""A Gbit/s in bytes/s."""
PAYLOAD = 1448 / 1514
"""The share of a link that arrives: of a full frame of 1,514 bytes the rest are Ethernet's, IP's and TCP's headers."""


@dataclass(frozen=True)
class Work:
    """What one worker does in a step.

    Attributes:
        compute_s: The step alone, without a ring.
        gradient_bytes: What its gradients take.
        spread_s: The standard deviation of `compute_s` from step to step.
        hidden: The share of `compute_s` that the wire can hide behind; 0 sends all at the end.
        input_bytes: What it reads a step from storage that all workers share.
    """

    compute_s: float
    gradient_bytes: float
    spread_s: float = 0.0
    hidden: float = 0.0
    input_bytes: float = 0.0


@dataclass(frozen=True)
class Network:
    """What workers are joined by.

    Attributes:
        bytes_per_s: Of a host's link.
        share: Of that which arrives as gradients.
        latency_s: Of a message around the ring, its negotiation included.
        busy_s_per_byte: What a byte sent takes of the processor that computes; 0 where others do it.
        pipelined: The share of that during which more is on its way.
        storage_bytes_per_s: Of the storage that all read from.
    """

    bytes_per_s: float
    share: float = PAYLOAD
    latency_s: float = 0.0
    busy_s_per_byte: float = 0.0
    pipelined: float = 0.0
    storage_bytes_per_s: float = float("inf")


@dataclass(frozen=True)
class Step:
    """A step as the model has it: its parts, in seconds, and `efficiency`, the lone worker's step over this one."""

    step_s: float
    wire_s: float
    exposed_s: float
    waiting_s: float
    efficiency: float


def slowest(workers: int) -> float:
    """How many standard deviations the slowest of so many is above the mean, on average: normal steps (Blom 1958)."""
    return 0.0 if workers == 1 else float(stats.norm.ppf((workers - 0.375) / (workers + 0.25)))


def predict(work: Work, network: Network, workers: int) -> Step:
    """The step of so many workers, each doing that work."""
    sent = 2 * (workers - 1) / workers * work.gradient_bytes
    wire = sent / (network.share * network.bytes_per_s) + 2 * (workers - 1) * network.latency_s
    passing = network.busy_s_per_byte * sent
    waiting = work.spread_s * slowest(workers)
    exposed = max(0.0, wire - work.hidden * work.compute_s - network.pipelined * passing)
    step = max(work.compute_s + passing + waiting + exposed, workers * work.input_bytes / network.storage_bytes_per_s)
    return Step(step, wire, exposed, waiting, work.compute_s / step)


@dataclass(frozen=True)
class Measured:
    """A layout that was measured.

    Attributes:
        name: Of the neural network: those of one name hide as much.
        work: What its workers do; `hidden` is 0 if they send all at the end, else it is fitted.
        overlap: Whether they send while they compute.
        workers: How many there are.
        bytes_per_s: Of a link.
        step_s: The step that was measured.
    """

    name: str
    work: Work
    overlap: bool
    workers: int
    bytes_per_s: float
    step_s: float


@dataclass(frozen=True)
class Fitted:
    """What was fitted: the network but for its speed, and how much each neural network hides."""

    network: Network
    hidden: dict[str, float]

    def step(self, one: Measured) -> Step:
        """What a layout's step should be, measured or not."""
        work = replace(one.work, hidden=self.hidden.get(one.name, 0.0) if one.overlap else 0.0)
        return predict(work, replace(self.network, bytes_per_s=one.bytes_per_s), one.workers)

    def error(self, one: Measured) -> float:
        """How far that is from what was measured, as a share of it."""
        return self.step(one).step_s / one.step_s - 1


def fit(measured: Sequence[Measured]) -> Fitted:
    """The parameters with the least squared relative errors of the steps, none of them negative."""
    names = sorted({one.name for one in measured if one.overlap})

    def made(values: np.ndarray) -> Fitted:
        latency_ms, busy_ns, pipelined, *hidden = (float(value) for value in values)
        network = Network(1.0, PAYLOAD, latency_ms / 1e3, busy_ns / 1e9, pipelined)
        return Fitted(network, dict(zip(names, hidden, strict=True)))

    def errors(values: np.ndarray) -> list[float]:
        return [made(values).error(one) for one in measured]

    start = [0.5, 1.0, 0.5, *(0.3 for _ in names)]
    ends = [0.0] * len(start), [100.0, 100.0, 1.0, *(1.0 for _ in names)]
    return made(optimize.least_squares(errors, start, bounds=ends, x_scale=[0.5, 1.0, 0.3, *(0.3 for _ in names)]).x)


@dataclass(frozen=True)
class Curve:
    """A study's own steps, of a network that nobody has measured: T = C + e * 2 (N - 1) / N + l * 2 (N - 1).

    The model above where nothing more is hidden as N grows: `volume_s` is what a ring's whole volume costs beyond one
    worker's step, `latency_s` what each message adds; 0 where too few numbers of workers were measured to tell them
    apart.
    """

    compute_s: float
    volume_s: float
    latency_s: float

    def step_s(self, workers: int) -> float:
        """The step of so many workers, each with a processor and a link as good as those that were measured."""
        return self.compute_s + self.volume_s * 2 * (workers - 1) / workers + self.latency_s * 2 * (workers - 1)


def fit_curve(steps: Sequence[tuple[int, float]]) -> Curve | None:
    """The curve through a study's steps: (workers, seconds), 1 worker among them; None without a second number."""
    alone = [seconds for workers, seconds in steps if workers == 1]
    others = [(workers, seconds) for workers, seconds in steps if workers > 1]
    if not alone or not others:
        return None
    compute = float(np.mean(alone))
    terms = np.array([[2 * (n - 1) / n, 2 * (n - 1)] for n, _ in others])
    more, weights = np.array([seconds - compute for _, seconds in others]), 1 / np.array([one for _, one in others])
    if len({n for n, _ in others}) == 1:
        terms = terms[:, :1]
    found, _ = optimize.nnls(terms * weights[:, None], more * weights)
    return Curve(compute, float(found[0]), float(found[1]) if found.size > 1 else 0.0)
