"""What is computed: each stage is one function of (config, inputs on disk) to outputs on disk.

The rooms, from the ground up: ``metrics``, ``tasks`` and ``lm``; ``inputs``; ``teacher``,
``student`` and ``classify``; ``evaluate`` and ``export``; ``report``.  Imports run downwards.
"""
