"""How close a student that saw no text comes to one distilled from real texts: the study."""
