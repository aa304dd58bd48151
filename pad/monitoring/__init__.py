"""What a run shows while it goes on and after: metrics, panels, trackers, health, cost, charts, report."""
