"""What the page tells of itself; swarm_metrics tells of the swarm."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

VIEWERS = Gauge("tf2x_cluster_page_viewers", "Browsers that look at the page.")
READS = Counter("tf2x_cluster_page_reads_total", "Reads of the swarm by how they ended.", ["outcome"])
READ_SECONDS = Histogram("tf2x_cluster_page_read_seconds", "How long a read of the swarm took.")
