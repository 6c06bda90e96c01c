"""A rank that only feeds: at each line it is sent it goes through one epoch of a prepared dataset, and answers."""

import sys
from pathlib import Path

import numpy as np

from r2d2.data.prepare import open_prepared
from r2d2.training.feed import Feed

prepared = open_prepared(Path(sys.argv[1]))
rank = int(sys.argv[2])
feed = Feed(prepared, np.arange(len(prepared.images)), seed=0, batch_size=16, num_logical=1, logical=range(1))
next(iter(feed.stream(0, 1)))  # TensorFlow's own memory is taken before it is counted
print("ready", flush=True)
for _ in sys.stdin:
    images = sum(len(x) for x, _ in feed.stream(rank * feed.steps_per_epoch, (rank + 1) * feed.steps_per_epoch))
    print(images, flush=True)
