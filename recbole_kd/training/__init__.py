"""One training: loader, trainer, resume, trajectory."""
