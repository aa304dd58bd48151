"""From options to a run folder: the method around its encoder, what trains, the step, the loop, resuming."""
