"""Bytes to tensors and back: the Open Inference Protocol in `oip`, the task's own words in `predict`.

Request walk: ingress.py -> [codec] -> batching.py -> the net -> batching.py -> [codec]
Knows a bundle's manifest; nothing of HTTP, of callers, or of Ray.
"""
