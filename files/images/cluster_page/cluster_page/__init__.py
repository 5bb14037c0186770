"""A page that shows a swarm: its nodes, their tasks, and the models that TF Serving replicas serve."""
