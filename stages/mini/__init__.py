"""The bundled mini teacher, an ordinary transformers directory, and the recipe that made it."""
