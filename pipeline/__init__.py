"""The face: commands, params.yaml, messages and progress."""
