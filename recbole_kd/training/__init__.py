"""The training of one model: loader, trainer, resume state, trajectory."""
