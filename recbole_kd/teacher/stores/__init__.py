"""Teacher stores: factors, dense matrix, frozen model, remapped queries, ensemble."""
