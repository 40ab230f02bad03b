"""The crash drill: kills a night's work anywhere, starts it again, and compares what the workspace holds in the end."""
