"""Loss functions of tensors, without state."""
