"""Clusters: on this machine (`local`), on Kubernetes and on AWS; and how jobs get to them (`submit`)."""
