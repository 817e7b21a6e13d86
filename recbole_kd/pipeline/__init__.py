"""One run from request to result: request, plan, stages, result."""
