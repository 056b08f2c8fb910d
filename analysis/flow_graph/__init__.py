"""The flow graph: what a state is made of, and how well the graph predicts interventions."""
