"""Ray: the cluster, the workers' placement and what one worker does. The only part of R2D2 that imports ray."""
