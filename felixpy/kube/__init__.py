"""Kubernetes objects as resources."""
