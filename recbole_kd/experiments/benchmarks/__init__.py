"""Speed and memory of distillation: made data, one case, its phases, their floors, and how cost grows."""
