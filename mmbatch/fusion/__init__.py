"""Fusion of modalities: heads that join embeddings, and the late fusion that joins scores."""
